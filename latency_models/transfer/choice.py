"""Which architectures to measure on a new device: those from which, given the known devices, most is learned about all others."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from paceline.errors import LatencyModelError
from paceline.latency_models.model import Floats
from paceline.latency_models.transfer.prior import DevicePrior
from paceline.latency_models.transfer.process import Setting, covariance, variance

_TYPICAL = Setting(deviation=1e-3, interaction=0.0, familiar=True, noise=0.05)
_REFERENCES = 1000  # of a larger pool, evenly spread over its rows


def choose(
    prior: DevicePrior, X: npt.ArrayLike, count: int, measured: Sequence[int] = (), cost: Floats | None = None
) -> npt.NDArray[np.intp]:
    """Rows of the pool `X` to measure next, best first; those in `measured` are measured already.

    Greedy I-optimal design (Cohn, Ghahramani and Jordan, Active Learning with Statistical Models, 1996): each pick lowers the
    relative variance of latencies most, on average over the pool, given those before. So the first 5 of 10 are what 5 would have
    been, and no figure of the new device is needed. With `cost`, shape (rows,), it is the largest gain per cost. Nothing is
    random; of equals the first is taken. Raises LatencyModelError where the pool is too small.
    """
    view = prior.view(X)
    rows, first = len(view.mean), [int(row) for row in measured]
    free = rows - len(set(first))
    if not 0 <= count <= free:
        raise LatencyModelError(f"can't choose {count} architectures: the pool has {rows}, of which {free} are not measured yet")
    references = np.unique(np.linspace(0, rows - 1, min(rows, _REFERENCES)).astype(int))
    weights = 1 / view.mean[references] ** 2
    noise = (_TYPICAL.noise * view.mean) ** 2
    price = np.ones(rows) if cost is None else np.asarray(cost, dtype=np.float64)
    left = variance(view, _TYPICAL)
    shared = covariance(view.rows(references), view, _TYPICAL)  # with the references, given all measured so far
    factor = np.zeros((rows, len(first) + count))
    picks: list[int] = []
    for step in range(len(first) + count):
        if step < len(first):
            pick = first[step]
        else:
            gain = weights @ shared**2 / (left + noise) / price
            gain[first + picks] = -np.inf
            pick = int(np.argmax(gain))
            picks.append(pick)
        with_pick = covariance(view, view.rows(np.array([pick])), _TYPICAL)[:, 0] - factor[:, :step] @ factor[pick, :step]
        column = with_pick / np.sqrt(left[pick] + noise[pick])
        factor[:, step] = column
        left = np.maximum(left - column**2, 0.0)
        shared -= np.outer(column[references], column)
    return np.array(picks, dtype=np.intp)
