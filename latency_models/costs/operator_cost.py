"""What tells the milliseconds of single operators, and where it has them from."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Sequence
from typing import Literal, Protocol, Self

import numpy as np

from paceline.graph import OpSpec
from paceline.latency_models.model import Floats, Row, single

Source = Literal["row", "interpolated", "regressed", "nearest", "kind", "unknown"]
"""Where a figure comes from: the operator's own row, rows of the same group around its shape, a regression on shapes, the
nearest rows of its group though they are not near, all rows of its kind, or all rows, because there is none of its kind."""


class OperatorCost(Protocol):
    """An estimator by scikit-learn's conventions: settings as constructor parameters, `clone`, what was learned ends with `_`."""

    name: str

    def fit(self, rows: Sequence[Row]) -> Self:
        """From rows of single operators and of whole networks, of which it takes what it can use."""

    def predict(self, operators: Sequence[OpSpec]) -> Floats:
        """Milliseconds of each operator alone, all positive or zero, shape (operators,).

        Raises LatencyModelError for an operator that it refuses to judge, naming it.
        """

    def sources(self, operators: Sequence[OpSpec]) -> list[Source]:
        """Where each figure comes from."""

    def without(self, operators: Collection[OpSpec]) -> Self | None:
        """A fitted copy as if these operators had no rows; None where that needs a fit."""


def measured_rows(rows: Sequence[Row]) -> dict[OpSpec, float]:
    """Milliseconds of each operator that has rows, their median."""
    measured = defaultdict[OpSpec, list[float]](list)
    for row in single(rows):
        measured[row.operators[0]].append(row.ms)
    return {spec: float(np.median(ms)) for spec, ms in measured.items()}
