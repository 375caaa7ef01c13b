"""Crowding distance with preferences."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from pymoo.operators.survival.rank_and_crowding.metrics import FunctionalDiversity

from paceline.errors import ConfigError

Floats = npt.NDArray[np.float64]


class WeightedCrowding(FunctionalDiversity):  # type: ignore[misc]
    """NSGA-II's crowding distance in which each objective's gap counts with its weight, as pymoo's survival takes it.

    D(j) = Σ_o w_o · (f_o(j+1) - f_o(j-1)) / (max f_o - min f_o), neighbours taken along each objective; the ends are infinitely
    far, except along an objective of weight 0, which doesn't count at all. So the more an objective weighs, the more evenly the
    retained points are spread along it. Weights count relative to each other. MoGA (arXiv 1908.01314), after Friedrich, Kroeger
    and Neumann, "Weighted preferences in evolutionary multi-objective optimization"; reconstruction: the papers' formula was not
    available. With equal weights it is pymoo's crowding distance to the last bit.
    """

    def __init__(self, weights: Sequence[float]) -> None:
        if not all(np.isfinite(w) and w >= 0 for w in weights) or not any(weights):
            raise ConfigError(f"weights of objectives are 0 or more and not all 0, got {list(weights)}")
        super().__init__(self._distances, filter_out_duplicates=False)
        self.weights = np.array(weights, np.float64) / max(weights)  # equal ones become exactly 1

    def _distances(self, points: Floats, **kwargs: Any) -> Floats:
        """Of each of `points`, shape (points, objectives)."""
        counted, weights = points[:, self.weights > 0], self.weights[self.weights > 0]
        order = np.argsort(counted, axis=0, kind="stable")
        columns = np.arange(counted.shape[1])
        ordered = counted[order, columns]
        extent = ordered[-1] - ordered[0]
        ends = np.full((1, len(extent)), np.inf)
        gaps = np.vstack([ends, np.diff(ordered, axis=0), ends])
        gaps = np.where(extent > 0, gaps / np.where(extent > 0, extent, 1.0), 0.0)
        both = (gaps[:-1] + gaps[1:])[np.argsort(order, axis=0), columns]
        return np.asarray(np.sum(weights * both, axis=1) / len(extent))
