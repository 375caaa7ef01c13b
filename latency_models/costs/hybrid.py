"""The default: what was measured where it was measured, a regression where it was not."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from copy import copy
from typing import Self

import numpy as np
from sklearn.base import BaseEstimator, clone

from paceline.graph import OpSpec
from paceline.latency_models.costs.operator_cost import OperatorCost, Source, measured_rows
from paceline.latency_models.model import Floats, Row


class HybridCost(BaseEstimator):  # type: ignore[misc]
    """An operator's own row; without one what `other` says."""

    name = "hybrid"

    def __init__(self, other: OperatorCost) -> None:
        self.other = other

    def fit(self, rows: Sequence[Row]) -> Self:
        self.rows_ = measured_rows(rows)
        self.other_: OperatorCost = clone(self.other).fit(rows)
        return self

    def without(self, operators: Collection[OpSpec]) -> Self | None:
        other = self.other_.without(operators)
        if other is None:
            return None
        found = copy(self)
        found.other_, found.rows_ = other, {spec: ms for spec, ms in self.rows_.items() if spec not in operators}
        return found

    def predict(self, operators: Sequence[OpSpec]) -> Floats:
        missing = [spec for spec in operators if spec not in self.rows_]
        known = self.rows_ | dict(zip(missing, self.other_.predict(missing).tolist(), strict=True))
        return np.array([known[spec] for spec in operators], float)

    def sources(self, operators: Sequence[OpSpec]) -> list[Source]:
        elsewhere = self.other_.sources(operators)
        return ["row" if spec in self.rows_ else source for spec, source in zip(operators, elsewhere, strict=True)]
