"""What a search wants, and the limits it must keep."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from paceline.arch import Arch
from paceline.errors import ConfigError


@dataclass(frozen=True)
class Objective:
    """One figure of an architecture, its direction and its hard limits.

    `cheap` ones are evaluated first, and where they break a limit the others are not evaluated at all. `weight` is for
    searchers that prefer some objectives to others.
    """

    name: str
    of: Callable[[Arch], float]
    goal: Literal["min", "max"] = "min"
    at_most: float | None = None
    at_least: float | None = None
    weight: float = 1.0
    cheap: bool = False

    def __post_init__(self) -> None:
        if self.goal not in ("min", "max"):
            raise ConfigError(f"objective {self.name!r} has goal {self.goal!r}; it is 'min' or 'max'")

    @property
    def sign(self) -> float:
        """Times this, smaller is better."""
        return 1.0 if self.goal == "min" else -1.0

    def violations(self, value: float) -> list[float]:
        """How far each limit is broken, relative to the limit: at most 0 where it is kept."""
        over = [] if self.at_most is None else [(value - self.at_most) / (abs(self.at_most) or 1.0)]
        under = [] if self.at_least is None else [(self.at_least - value) / (abs(self.at_least) or 1.0)]
        return over + under

    @property
    def limits(self) -> int:
        """How many violations there are."""
        return (self.at_most is not None) + (self.at_least is not None)


def in_order(objectives: Iterable[Objective]) -> list[Objective]:
    """The order in which they are evaluated: cheap before costly, among equals as given."""
    return sorted(objectives, key=lambda o: not o.cheap)


def feasible(values: Mapping[str, float], objectives: Sequence[Objective]) -> bool:
    """Whether every objective has a value and every limit is kept."""
    return all(o.name in values and all(v <= 0.0 for v in o.violations(values[o.name])) for o in objectives)
