"""What operators cost by the rows of similar ones, where similar is what the rows themselves say."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from copy import copy
from typing import Self

import numpy as np
from sklearn.base import BaseEstimator

from paceline.errors import LatencyModelError
from paceline.graph import OpSpec
from paceline.latency_models.costs.operator_cost import Source, measured_rows
from paceline.latency_models.costs.rates import Rates
from paceline.latency_models.features import LabelledFeatures, group_of, kind_of
from paceline.latency_models.model import Floats, Row, single
from paceline.latency_models.regressors.gaussian_process import GaussianProcessRegressor

_NEAREST = 12
_BEYOND = 0.3
"""How far (in logarithms) an operator may be outside of the range of its nearest rows."""

_OTHER_GROUP, _OTHER_KIND = 0.5, 1.0
"""How far (in lengths of the kernel) rows of another group or kind are away, shapes apart."""

_BLOCK = 1 << 22


class SimilarCost(BaseEstimator):  # type: ignore[misc]
    """A Gaussian process says by which factor an operator is slower than its kind's rates (see `Rates`).

    Its `refine` and `random_state` are the regressor's. Where it extrapolates it may say anything, so an operator is never much
    faster or slower, at its rates, than the rows nearest to it.
    """

    name = "similar"

    def __init__(self, refine: int = 30, random_state: int = 0) -> None:
        self.refine, self.random_state = refine, random_state

    def fit(self, rows: Sequence[Row]) -> Self:
        measured = measured_rows(rows)
        if not measured:
            raise LatencyModelError(f"the model {self.name!r} needs measured operators, there are none")
        counts = dict.fromkeys(measured, 0)
        for row in single(rows):
            counts[row.operators[0]] += 1
        ms = np.array(list(measured.values()))
        self.operators_ = tuple(measured)
        self.rates_ = Rates().fit(self.operators_, ms)
        self.factors_ = ms / self.rates_.predict(self.operators_)
        self.features_ = LabelledFeatures().fit(self.operators_)
        regressor = GaussianProcessRegressor(
            relative=True, labelled=True, refine=self.refine, trust=0.05, random_state=self.random_state
        )
        weights = np.array(list(counts.values()), float)
        self.regressor_ = regressor.fit(self.features_.transform(self.operators_), self.factors_, sample_weight=weights)
        return self

    def without(self, operators: Collection[OpSpec]) -> Self | None:
        """As if these operators had no rows, but for the rates of their kinds and which operators are alike."""
        gone = np.array([spec in operators for spec in self.operators_], bool)
        if gone.all():
            return None
        found = copy(self)
        found.regressor_ = self.regressor_.without(np.flatnonzero(gone))
        found.operators_ = tuple(spec for spec, left in zip(self.operators_, gone, strict=True) if not left)
        found.factors_ = self.factors_[~gone]
        return found

    def predict(self, operators: Sequence[OpSpec]) -> Floats:
        if not operators:
            return np.zeros(0)
        features = self.features_.transform(operators)
        low, high = self._bounds(operators, features)
        return np.asarray(np.clip(self.regressor_.predict(features), low, high) * self.rates_.predict(operators))

    def sources(self, operators: Sequence[OpSpec]) -> list[Source]:
        kinds = {kind_of(spec) for spec in self.operators_}
        return ["regressed" if kind_of(spec) in kinds else "unknown" for spec in operators]

    def _bounds(self, operators: Sequence[OpSpec], features: Floats) -> tuple[Floats, Floats]:
        """The least and the largest factor that the nearest rows allow, each of shape (operators,)."""
        lengths = np.array(self.regressor_.kernel_.smooth)
        known = self.features_.transform(self.operators_)[:, :-1] / lengths
        kinds, groups = (np.array([label(spec) for spec in self.operators_]) for label in (kind_of, group_of))
        nearest = min(_NEAREST, len(known))
        low, high = np.zeros(len(operators)), np.zeros(len(operators))
        step = max(1, _BLOCK // len(known))
        for start in range(0, len(operators), step):
            part = slice(start, start + step)
            x = features[part, :-1] / lengths
            squares = (x**2).sum(axis=1)[:, None] + (known**2).sum(axis=1)[None, :] - 2 * x @ known.T
            kind, group = (np.array([label(spec) for spec in operators[part]]) for label in (kind_of, group_of))
            distance = np.sqrt(np.maximum(squares, 0.0))
            distance += _OTHER_GROUP * (group[:, None] != groups[None, :])
            distance += _OTHER_KIND * (kind[:, None] != kinds[None, :])
            around = self.factors_[np.argpartition(distance, nearest - 1, axis=1)[:, :nearest]]
            low[part], high[part] = around.min(axis=1) * np.exp(-_BEYOND), around.max(axis=1) * np.exp(_BEYOND)
        return low, high
