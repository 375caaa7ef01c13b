"""The lookup table: an operator costs what it was measured to cost; one without a row what similar ones let expect."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Self

import numpy as np
from sklearn.base import BaseEstimator

from paceline.errors import LatencyModelError
from paceline.graph import OpSpec
from paceline.latency_models.costs.operator_cost import Source, measured_rows
from paceline.latency_models.costs.rates import Rates
from paceline.latency_models.features import group_of, kind_of, sizes
from paceline.latency_models.model import Floats, Row

_NEAR = math.log(2.0)
"""Rows whose sizes all lie within this factor count as neighbours between which is interpolated."""


@dataclass(frozen=True)
class Neighbours:
    """Rows of operators alike: logarithms of their sizes, shape (rows, 4), and of measured over rated milliseconds, (rows,)."""

    positions: Floats
    ratios: Floats

    def factor(self, position: Floats) -> float:
        """By how much the rows around are slower than their rates (inverse distance weighting: Shepard 1968)."""
        weights = 1 / (((self.positions - position) ** 2).sum(axis=1) + 0.01)
        return math.exp(weights @ self.ratios / weights.sum())

    def near(self, position: Floats) -> bool:
        return bool((np.abs(self.positions - position).max(axis=1) <= _NEAR + 1e-9).any())


class TableCost(BaseEstimator):  # type: ignore[misc]
    """Exact rows. An operator without one costs its kind's rates, times what rows of its group (kind, window, stride …) around
    its shape pay more or less; where there are none of its group, rows of its kind, or all.

    `strict` refuses operators without a row instead: LatencyModelError names them and the command that measures them.
    """

    name = "table"

    def __init__(self, strict: bool = False) -> None:
        self.strict = strict

    def fit(self, rows: Sequence[Row]) -> Self:
        self.rows_ = measured_rows(rows)
        if self.strict:
            return self
        if not self.rows_:
            raise LatencyModelError(f"the model {self.name!r} needs measured operators, there are none")
        ms = np.array(list(self.rows_.values()))
        self.rates_ = Rates().fit(list(self.rows_), ms)
        ratios = dict(zip(self.rows_, np.log(ms / self.rates_.predict(list(self.rows_))).tolist(), strict=True))
        self.groups_ = _neighbours(ratios, group_of)
        self.kinds_ = _neighbours(ratios, kind_of)
        self.all_ = _neighbours(ratios, lambda spec: "")[""]
        return self

    def without(self, operators: Collection[OpSpec]) -> Self | None:
        return None

    def predict(self, operators: Sequence[OpSpec]) -> Floats:
        missing = [spec for spec in operators if spec not in self.rows_]
        if missing and self.strict:
            raise LatencyModelError(
                f"the table has no row for {missing[0].key} ({len(set(missing))} missing in all). "
                "Measure them with: paceline table build MODEL.tflite, and fit again"
            )
        expected = {}
        for spec, ms in zip(missing, self.rates_.predict(missing).tolist() if missing else (), strict=True):
            around = self.groups_.get(group_of(spec)) or self.kinds_.get(kind_of(spec)) or self.all_
            expected[spec] = ms * around.factor(_position(spec))
        return np.array([self.rows_[spec] if spec in self.rows_ else expected[spec] for spec in operators], float)

    def sources(self, operators: Sequence[OpSpec]) -> list[Source]:
        return [self._source(spec) for spec in operators]

    def _source(self, spec: OpSpec) -> Source:
        if spec in self.rows_:
            return "row"
        rows = self.groups_.get(group_of(spec))
        if rows is None:
            return "kind" if kind_of(spec) in self.kinds_ else "unknown"
        return "interpolated" if rows.near(_position(spec)) else "nearest"


def _neighbours(ratios: Mapping[OpSpec, float], label: Callable[[OpSpec], str]) -> dict[str, Neighbours]:
    members = defaultdict[str, list[OpSpec]](list)
    for spec in ratios:
        members[label(spec)].append(spec)
    return {
        name: Neighbours(np.array([_position(spec) for spec in specs]), np.array([ratios[spec] for spec in specs]))
        for name, specs in members.items()
    }


def _position(spec: OpSpec) -> Floats:
    return np.asarray(np.log1p(np.array(sizes(spec), float)))
