"""Which architectures to measure on a new device: those about which, given the known devices, most is to be learned."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from paceline.errors import LatencyModelError
from paceline.latency_models.model import Floats
from paceline.latency_models.transfer.prior import DevicePrior
from paceline.latency_models.transfer.process import Setting, covariance, variance

_TYPICAL = Setting(deviation=1e-3, interaction=0.0, familiar=True, noise=0.05)


def choose(
    prior: DevicePrior, X: npt.ArrayLike, count: int, measured: Sequence[int] = (), cost: Floats | None = None
) -> npt.NDArray[np.intp]:
    """Rows of the pool `X` to measure next, best first; those in `measured` are measured already.

    Greedy D-optimal design: each pick is the one with the largest variance, relative to the noise, given those before. So the
    first 5 of 10 are what 5 would have been, and no figure of the new device is needed. With `cost`, shape (rows,), it is the
    most information per cost. Nothing is random; of equals the first is taken. Raises LatencyModelError where the pool is too
    small.
    """
    view = prior.view(X)
    rows, first = len(view.mean), [int(row) for row in measured]
    if not 0 <= count <= rows - len(set(first)):
        raise LatencyModelError(
            f"can't choose {count} architectures: the pool has {rows}, of which {len(set(first))} are measured"
        )
    noise = (_TYPICAL.noise * view.mean) ** 2
    left = variance(view, _TYPICAL)
    price = np.ones(rows) if cost is None else np.asarray(cost, dtype=np.float64)
    factor = np.zeros((rows, len(first) + count))
    picks: list[int] = []
    for step in range(len(first) + count):
        if step < len(first):
            pick = first[step]
        else:
            gain = np.log1p(np.maximum(left, 0.0) / noise) / price
            gain[first + picks] = -np.inf
            pick = int(np.argmax(gain))
            picks.append(pick)
        with_pick = covariance(view, view.rows(np.array([pick])), _TYPICAL)[:, 0] - factor[:, :step] @ factor[pick, :step]
        factor[:, step] = with_pick / np.sqrt(max(float(left[pick]), 0.0) + noise[pick])
        left = left - factor[:, step] ** 2
    return np.array(picks, dtype=np.intp)
