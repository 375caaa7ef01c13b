"""Which widths a training step takes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any

import numpy as np

from paceline.arch import Arch, Choice, Space
from paceline.errors import ConfigError, SpaceError
from paceline.pipeline.supernet.mixed import Path, hard
from paceline.pipeline.supernet.policies import Policy, embedded
from paceline.pipeline.supernet.shrinking import restricted

WIDTHS = "*_width"
"""What the width choices of Paceline's spaces are called, as a pattern."""


@dataclass(frozen=True)
class Sandwich:
    """The sandwich rule (Yu and Huang 2019, arXiv 1903.05134, section 3.1): the largest widths, the smallest, `random` others.

    So the least used channels learn in every step, and so does the narrowest network. In each path the other choices take
    uniform options. `widths` is a pattern of the names of the width choices. Raises SpaceError where a space has none.
    """

    random: int = 2
    widths: str = WIDTHS

    def paths(self, space: Space, rng: np.random.Generator) -> list[Path]:
        names = {c.name for c in width_choices(space, self.widths)}
        first, second, *others = (space.sample(rng) for _ in range(2 + self.random))
        extremes = [(first, -1), (second, 0)]
        ends = [
            Arch(tuple((c.name, (c.options[end],) if c.name in names else arch[c.name]) for c in space.choices))
            for arch, end in extremes
        ]
        return [hard(space, arch) for arch in (*ends, *others)]


@dataclass(frozen=True)
class Broadening:
    """How the widths that are trained spread from the middle one: a reconstruction of the "spring" of BS-NAS (Shen et al. 2020).

    At first each width choice has the `start` narrower and the `start` wider options beside its middle one, and after every
    `every` epochs one more on either side. Raises ConfigError for values that make no sense.
    """

    every: int
    start: int = 0
    widths: str = WIDTHS

    def __post_init__(self) -> None:
        if self.every < 1 or self.start < 0:
            raise ConfigError(f"{self}: needs every >= 1, start >= 0")

    def after(self, space: Space, epochs: int) -> Space:
        """The part of a space that is trained after so many epochs. Raises SpaceError where it has no such widths."""
        reach = self.start + epochs // self.every
        alive = {c.name: c.options for c in space.choices}
        for c in width_choices(space, self.widths):
            middle = len(c.options) // 2
            alive[c.name] = c.options[max(0, middle - reach) : middle + reach + 1]
        return restricted(space, alive)


class Spring:
    """A policy that trains by another one, on widths that broaden between epochs. Its state is part of a checkpoint."""

    def __init__(self, schedule: Broadening, policy: Policy, whole: Space) -> None:
        self.schedule, self.policy, self.whole = schedule, policy, whole
        self.after_epoch(0)

    def __repr__(self) -> str:
        return f"Spring({self.schedule!r}, {self.policy!r})"

    def paths(self, space: Space, rng: np.random.Generator) -> list[Path]:
        return [embedded(p, self.space, space) for p in self.policy.paths(self.space, rng)]

    def after_epoch(self, epochs: int) -> None:
        """Broadens the widths where that is due after this many epochs."""
        self.epochs, self.space = epochs, self.schedule.after(self.whole, epochs)

    def state_dict(self) -> dict[str, Any]:
        return {"epochs": self.epochs}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.after_epoch(state["epochs"])


def width_choices(space: Space, pattern: str) -> list[Choice]:
    """The choices of a space whose names fit, their options from narrow to wide. Raises SpaceError where there is none."""
    found = [c for c in space.choices if fnmatchcase(c.name, pattern)]
    if not found:
        names = ", ".join(c.name for c in space.choices)
        raise SpaceError(f"no choice is called {pattern!r} ({names}); give the pattern of the width choices")
    return found
