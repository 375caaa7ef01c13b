"""What operators cost by a regression on their shapes."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Self

import numpy as np
from sklearn.base import BaseEstimator, clone

from paceline.errors import LatencyModelError
from paceline.graph import OpSpec
from paceline.latency_models.costs.operator_cost import Source, measured_rows
from paceline.latency_models.features import OperatorFeatures, kind_of
from paceline.latency_models.model import Floats, Row, single
from paceline.latency_models.regressors.regressor import Regressor


class RegressedCost(BaseEstimator):  # type: ignore[misc]
    """`regressor` on `features`, fitted on the rows of operators. None is predicted below half of the fastest row."""

    def __init__(self, regressor: Regressor, features: OperatorFeatures, name: str) -> None:
        self.regressor, self.features, self.name = regressor, features, name

    def fit(self, rows: Sequence[Row]) -> Self:
        measured = measured_rows(rows)
        if not measured:
            raise LatencyModelError(f"the model {self.name!r} needs measured operators, there are none")
        counts = dict.fromkeys(measured, 0)
        for row in single(rows):
            counts[row.operators[0]] += 1
        ms = np.array(list(measured.values()))
        self.kinds_ = sorted({kind_of(spec) for spec in measured})
        self.least_ms_ = float(ms.min()) / 2
        self.features_: OperatorFeatures = clone(self.features).fit(list(measured))
        self.regressor_: Regressor = clone(self.regressor).fit(
            self.features_.transform(list(measured)),
            ms,
            sample_weight=np.array(list(counts.values()), float),
        )
        return self

    def without(self, operators: Collection[OpSpec]) -> Self | None:
        return None

    def predict(self, operators: Sequence[OpSpec]) -> Floats:
        if not operators:
            return np.zeros(0)
        return np.asarray(np.maximum(self.regressor_.predict(self.features_.transform(operators)), self.least_ms_))

    def sources(self, operators: Sequence[OpSpec]) -> list[Source]:
        return ["regressed" if kind_of(spec) in self.kinds_ else "unknown" for spec in operators]
