"""What operators cost by a regression on their shapes."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from copy import copy
from typing import Protocol, Self, runtime_checkable

import numpy as np
import numpy.typing as npt
from sklearn.base import BaseEstimator, clone

from paceline.errors import LatencyModelError
from paceline.graph import OpSpec
from paceline.latency_models.costs.operator_cost import Source, measured_rows
from paceline.latency_models.costs.rates import Rates
from paceline.latency_models.features import OperatorFeatures, kind_of
from paceline.latency_models.model import Floats, Row, single
from paceline.latency_models.regressors.regressor import Regressor


@runtime_checkable
class Forgetful(Protocol):
    """A regressor that can be had without some of its rows and without fitting again."""

    def without(self, part: npt.NDArray[np.int64]) -> Self:
        """A fitted copy as if it had not learned from these rows, indices in the order of `fit`."""


class RegressedCost(BaseEstimator):  # type: ignore[misc]
    """`regressor` on `features`, fitted on the rows of operators. None is predicted below half of the fastest row.

    `rated`: it learns by which factor operators are slower than their kind's rates (see `Rates`) instead of their milliseconds.
    """

    def __init__(self, regressor: Regressor, features: OperatorFeatures, name: str, rated: bool = False) -> None:
        self.regressor, self.features, self.name, self.rated = regressor, features, name, rated

    def fit(self, rows: Sequence[Row]) -> Self:
        measured = measured_rows(rows)
        if not measured:
            raise LatencyModelError(f"the model {self.name!r} needs measured operators, there are none")
        self.operators_ = tuple(measured)
        counts = dict.fromkeys(measured, 0)
        for row in single(rows):
            counts[row.operators[0]] += 1
        ms = np.array(list(measured.values()))
        self.kinds_ = sorted({kind_of(spec) for spec in measured})
        self.least_ms_ = float(ms.min()) / 2
        self.rates_ = Rates().fit(self.operators_, ms) if self.rated else None
        self.features_: OperatorFeatures = clone(self.features).fit(self.operators_)
        self.regressor_: Regressor = clone(self.regressor).fit(
            self.features_.transform(self.operators_),
            ms / self._rated(self.operators_),
            sample_weight=np.array(list(counts.values()), float),
        )
        return self

    def without(self, operators: Collection[OpSpec]) -> Self | None:
        """A fitted copy as if these operators had no rows (their kinds' rates apart); None where that needs a fit."""
        if not isinstance(self.regressor_, Forgetful):
            return None
        other = copy(self)
        part = np.array([i for i, spec in enumerate(self.operators_) if spec in operators], np.int64)
        other.regressor_ = self.regressor_.without(part)
        return other

    def predict(self, operators: Sequence[OpSpec]) -> Floats:
        if not operators:
            return np.zeros(0)
        ms = self.regressor_.predict(self.features_.transform(operators)) * self._rated(operators)
        return np.asarray(np.maximum(ms, self.least_ms_))

    def sources(self, operators: Sequence[OpSpec]) -> list[Source]:
        return ["regressed" if kind_of(spec) in self.kinds_ else "unknown" for spec in operators]

    def _rated(self, operators: Sequence[OpSpec]) -> Floats:
        return np.ones(len(operators)) if self.rates_ is None else self.rates_.predict(operators)
