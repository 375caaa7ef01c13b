"""Latency models that are a sum over operators: the shared second half of table, linear model and MLP."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from paceline.graph import OpSpec
from paceline.latency_models.calibration import calibrate
from paceline.latency_models.model import Floats, Network, Prediction, Row, whole

Terms = Callable[[Sequence[OpSpec]], Floats]
"""What the latency of a network is linear in: shape (operators, terms), summed over the operators."""


class Additive:
    """A network's latency as a calibrated sum of its operators' terms (see `calibration`).

    `prior` is the scale of the terms where nothing else is known; the base of a network is 0 then.
    """

    def __init__(
        self, terms: Terms, prior: Sequence[float] | Floats, rows: Sequence[Row], confidence: float, session_noise: float = 0.0
    ) -> None:
        self._terms = terms
        self._width = len(prior)
        networks = whole(rows)
        measured = np.array([row.ms for row in networks])
        self.calibration = calibrate(
            self.network_terms([row.operators for row in networks]), measured, np.array([*prior, 0.0]), confidence, session_noise
        )

    def network_terms(self, networks: Sequence[Network]) -> Floats:
        """Shape (networks, terms + 1): sums over operators, then 1 for the base."""
        distinct = list(dict.fromkeys(spec for network in networks for spec in network))
        row_of = {spec: i for i, spec in enumerate(distinct)}
        per_operator = self._terms(distinct)
        sums = [per_operator[[row_of[spec] for spec in network]].sum(axis=0) for network in networks]
        return np.column_stack([np.array(sums).reshape(len(networks), self._width), np.ones(len(networks))])

    def predict(self, networks: Sequence[Network]) -> Prediction:
        return self.calibration.predict(self.network_terms(networks))

    def operator_ms(self, operators: Sequence[OpSpec]) -> Floats:
        return np.asarray(self._terms(operators) @ self.calibration.scale[:-1])

    @property
    def base_ms(self) -> float:
        return float(self.calibration.scale[-1])


def cost_terms(cost: Terms) -> Terms:
    """Terms of a model that knows what an operator costs alone (`cost`, shape (operators,)).

    The cost itself, with a scale of its own for depthwise convolutions; one per operator, since alone each pays for an
    invoke; megabytes of weights and of activations, since inside a network they come from farther away.
    """

    def terms(operators: Sequence[OpSpec]) -> Floats:
        weights = np.array([sum(spec.inputs[i].bytes for i in spec.constants) for spec in operators], float)
        moved = np.array([sum(t.bytes for t in (*spec.inputs, *spec.outputs)) for spec in operators], float) - weights
        depthwise = np.array([spec.kind == "DEPTHWISE_CONV_2D" for spec in operators])
        ms = cost(operators)
        return np.stack([ms, ms * depthwise, np.ones(len(operators)), weights / 1e6, moved / 1e6], axis=1)

    return terms


COST_PRIOR = (1.0, 0.0, 0.0, 0.0, 0.0)
"""The plain sum of costs, for `cost_terms`."""
