"""What everybody would use without a device."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Self

import numpy as np
from sklearn.base import BaseEstimator

from paceline.errors import LatencyModelError
from paceline.graph import OpSpec
from paceline.latency_models.costs.operator_cost import Source
from paceline.latency_models.model import Floats, Row, whole


class MacsCost(BaseEstimator):  # type: ignore[misc]
    """Milliseconds proportional to multiply-accumulates, at the median rate of the measured networks (else of the operators)."""

    name = "macs only"

    def fit(self, rows: Sequence[Row]) -> Self:
        counts = np.array([sum(spec.macs for spec in row.operators) for row in whole(rows) or rows], float)
        ms = np.array([row.ms for row in whole(rows) or rows])
        if not (counts > 0).any():
            raise LatencyModelError("the MACs-only model needs measured networks that multiply, there are none")
        self.ms_per_mac_ = float(np.median(ms[counts > 0] / counts[counts > 0]))
        return self

    def without(self, operators: Collection[OpSpec]) -> Self | None:
        return None

    def predict(self, operators: Sequence[OpSpec]) -> Floats:
        return np.array([spec.macs for spec in operators], float) * self.ms_per_mac_

    def sources(self, operators: Sequence[OpSpec]) -> list[Source]:
        return ["regressed"] * len(operators)
