"""One model of costs for each class of operators: what makes a convolution slow is not what makes an addition slow."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Sequence
from copy import copy
from typing import Self

import numpy as np
from sklearn.base import BaseEstimator, clone

from paceline.errors import LatencyModelError
from paceline.graph import OpSpec
from paceline.latency_models.costs.operator_cost import OperatorCost, Source
from paceline.latency_models.features import class_of
from paceline.latency_models.model import Floats, Row, single


class ByClassCost(BaseEstimator):  # type: ignore[misc]
    """`cost` for each class of operators (`features.class_of`); a class without rows is judged as the largest one."""

    def __init__(self, cost: OperatorCost) -> None:
        self.cost = cost

    @property
    def name(self) -> str:
        return self.cost.name

    def fit(self, rows: Sequence[Row]) -> Self:
        members = defaultdict[str, list[Row]](list)
        for row in single(rows):
            members[class_of(row.operators[0])].append(row)
        if not members:
            raise LatencyModelError(f"the model {self.name!r} needs measured operators, there are none")
        self.costs_: dict[str, OperatorCost] = {name: clone(self.cost).fit(members[name]) for name in sorted(members)}
        self.largest_ = max(sorted(members), key=lambda name: len(members[name]))
        return self

    def without(self, operators: Collection[OpSpec]) -> Self | None:
        found = copy(self)
        found.costs_ = {}
        for name, cost in self.costs_.items():
            rest = cost.without(operators)
            if rest is None:
                return None
            found.costs_[name] = rest
        return found

    def predict(self, operators: Sequence[OpSpec]) -> Floats:
        found = np.zeros(len(operators))
        for cost, at in self._parts(operators):
            found[at] = cost.predict([operators[i] for i in at])
        return found

    def sources(self, operators: Sequence[OpSpec]) -> list[Source]:
        found: list[Source] = ["unknown"] * len(operators)
        for cost, at in self._parts(operators):
            for i, source in zip(at, cost.sources([operators[i] for i in at]), strict=True):
                found[i] = source
        return found

    def _parts(self, operators: Sequence[OpSpec]) -> list[tuple[OperatorCost, list[int]]]:
        parts = defaultdict[str, list[int]](list)
        for i, spec in enumerate(operators):
            name = class_of(spec)
            parts[name if name in self.costs_ else self.largest_].append(i)
        return [(self.costs_[name], at) for name, at in parts.items()]
