"""What a latency model is: it learns from rows that were measured and predicts milliseconds of networks that were not."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Protocol, Self

import numpy as np
import numpy.typing as npt

from paceline.graph import OpSpec

Floats = npt.NDArray[np.float64]
Network = Sequence[OpSpec]
"""What a device executes for one inference, as `Graph.operators()` or `SpaceOperators.of(arch)` list it."""


@dataclass(frozen=True)
class Row:
    """Something that was measured: a single operator (one OpSpec) or a whole network."""

    operators: tuple[OpSpec, ...]
    ms: float


@dataclass(frozen=True)
class Prediction:
    """Milliseconds of each network, with the bounds of an interval; arrays of shape (networks,).

    `errors` are the model's held-out errors, sorted: measured / predicted - 1, each divided by how difficult its network was;
    `difficulty`, shape (networks,), says the same of these networks. Both are empty where the model knows no errors.
    """

    ms: Floats
    low: Floats
    high: Floats
    errors: Floats = field(default_factory=lambda: np.zeros(0))
    difficulty: Floats = field(default_factory=lambda: np.zeros(0))

    def chance(self, limit_ms: float) -> Floats:
        """P(latency <= limit_ms) of each network, from the held-out errors (Vovk et al., arXiv 1707.01875: conformal predictive
        systems; the lower end, which promises least). 0 or 1 where no errors are known."""
        if len(self.errors) == 0:
            return (self.ms <= limit_ms).astype(float)
        below = np.searchsorted(self.errors, (limit_ms / self.ms - 1) / self.difficulty, side="right")
        return np.asarray(below / (len(self.errors) + 1))


class LatencyModel(Protocol):
    """`paceline.latency_models.testing.LatencyModelTestSuite` is what it must pass."""

    @property
    def name(self) -> str: ...

    def fit(self, rows: Sequence[Row]) -> Self: ...

    def predict(self, networks: Sequence[Network]) -> Prediction:
        """Raises LatencyModelError for an operator that it can't judge, naming it."""

    def operator_ms(self, operators: Sequence[OpSpec]) -> Floats:
        """What each operator adds to a network that holds it, shape (operators,)."""

    @property
    def base_ms(self) -> float:
        """What a network costs besides its operators."""


def single(rows: Sequence[Row]) -> list[Row]:
    """The rows of one operator."""
    return [row for row in rows if len(row.operators) == 1]


def whole(rows: Sequence[Row]) -> list[Row]:
    """The rows of whole networks."""
    return [row for row in rows if len(row.operators) > 1]
