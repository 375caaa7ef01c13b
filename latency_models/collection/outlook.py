"""What the next measurement would teach: an A-optimal design for linear functionals (Chaloner & Verdinelli 1995, section 2.2).

How certain a belief becomes depends on what is measured, not on the figures. So the gain of a measurement is known before it is
taken, also beside others. nn-Meter (MobiSys 2021) samples more where its errors are large, whether or not such operators matter;
here a gain is one for whole networks.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from scipy import sparse

from paceline.latency_models.collection.belief import Belief
from paceline.latency_models.model import Floats, Network


class Outlook:
    """The gains for a `mix` of networks with `weights`, of the operators of `belief` and of whole `networks` to be measured.

    A gain is the part of the mean variance of the logarithm of the mix's milliseconds that a measurement would take away.
    """

    def __init__(self, belief: Belief, mix: Sequence[Network], weights: Sequence[float], networks: Sequence[Network]) -> None:
        self._belief, self._count = belief, len(mix)
        functionals = [belief.functional(network)[0] for network in (*mix, *networks)]
        scale = [*np.sqrt(np.array(weights) / np.sum(weights)), *np.ones(len(networks))]
        self._functionals = sparse.diags(scale) @ sparse.vstack(functionals).tocsr()
        self._columns = belief.columns(self._functionals)
        self._variance = belief.variance
        self._steps: list[Floats] = []

    @property
    def uncertainty(self) -> float:
        """The mix's mean variance, after what was taught."""
        wanted = self._functionals[: self._count]
        return float(np.sum(wanted.multiply(self._columns[:, : self._count].T)))

    def gains_of_operators(self) -> Floats:
        """Shape (operators,)."""
        gained = (self._columns[: len(self._variance), : self._count] ** 2).sum(axis=1)
        return np.asarray(gained / (self._variance + self._belief.prior.noise**2))

    def gains_of_networks(self) -> Floats:
        """Shape (networks,)."""
        among = np.asarray(self._functionals[self._count :] @ self._columns)
        variance = np.diag(among[:, self._count :])
        return np.asarray((among[:, : self._count] ** 2).sum(axis=1) / (variance + self._belief.prior.network**2))

    def teach_operator(self, at: int) -> None:
        """As if it had been measured."""
        column = self._belief.column(at)
        for step in self._steps:
            column -= step * step[at]
        self._teach(column / np.sqrt(max(float(column[at]), 0.0) + self._belief.prior.noise**2))

    def teach_network(self, at: int) -> None:
        """As if it had been measured."""
        column = self._columns[:, self._count + at]
        variance = float((self._functionals[self._count + at] @ column)[0])
        self._teach(column / np.sqrt(max(variance, 0.0) + self._belief.prior.network**2))

    def _teach(self, step: Floats) -> None:
        self._columns = self._columns - np.outer(step, self._functionals @ step)
        self._variance = np.maximum(self._variance - step[: len(self._variance)] ** 2, 0.0)
        self._steps.append(step)
