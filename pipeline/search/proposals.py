"""What several searchers share: random candidates, and which of two is better."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence

import numpy as np

from paceline.arch import Arch, Space
from paceline.errors import ConfigError, LimitError, SpaceError
from paceline.pipeline.objectives import Objective

Passes = Callable[[Arch], bool]
"""Whether an architecture may be proposed at all; `paceline.pipeline.objectives.keeps_cheap_limits` makes one."""

TRIES = 100
"""So many random draws or mutations, for each one wanted, may be known or not pass."""


_LISTED = 20_000
"""Spaces up to this size are gone through one by one before they count as used up."""


class Proposals:
    """The architectures that were proposed so far, and new random ones."""

    def __init__(self, space: Space, rng: np.random.Generator, only: Passes | None) -> None:
        self.space, self.rng, self.only = space, rng, only
        self.asked: list[Arch] = []
        """What the last `ask` gave."""
        self._seen: set[Arch] = set()

    def new(self, arch: Arch) -> bool:
        """Whether it was not proposed yet, and may be."""
        return arch not in self._seen and (self.only is None or self.only(arch))

    def random(self, wanted: int) -> list[Arch]:
        """So many different random architectures that are new; fewer where the space is used up, or is large and hardly any pass.

        Raises LimitError where the very first ones all fail to pass.
        """
        found: dict[Arch, None] = {}
        for _ in range(TRIES * wanted):
            if len(found) == wanted:
                return list(found)
            arch = self.space.sample(self.rng)
            if arch not in found and self.new(arch):
                found[arch] = None
        if self.space.size <= _LISTED:
            left = [arch for arch in every(self.space) if arch not in found and self.new(arch)]
            found |= {left[i]: None for i in self.rng.permutation(len(left))[: wanted - len(found)]}
        if not found and not self._seen and self.only is not None:
            raise LimitError(
                f"none of {TRIES * wanted} random architectures keeps the limits, so none can be proposed. Raise the limits, or "
                "search without `only`: then how far a limit is broken leads the search to those that keep it."
            )
        return list(found)

    def ask(self, archs: Sequence[Arch]) -> list[Arch]:
        """Notes that these are proposed now."""
        self.asked = list(archs)
        self._seen.update(self.asked)
        return list(archs)

    def told(self, archs: Sequence[Arch], scores: Sequence[Mapping[str, float]]) -> None:
        """Raises SpaceError where these are not scores of what was asked."""
        if not self.asked or list(archs) != self.asked or len(scores) != len(archs):
            raise SpaceError("tell() needs the architectures that the last ask() gave, in that order, with one score each")
        self.asked = []


def every(space: Space) -> Iterator[Arch]:
    """All architectures of a space, the last choice changing fastest."""
    decisions = [
        [taken for n in range(c.at_least, c.at_most + 1) for taken in itertools.combinations(c.options, n)] for c in space.choices
    ]
    names = [c.name for c in space.choices]
    return (Arch(tuple(zip(names, taken, strict=True))) for taken in itertools.product(*decisions))


class Fitness:
    """Ranks by one goal: the smaller the better. Whoever keeps all limits comes before whoever breaks one (Deb 2000).

    A fitness is (how far limits are broken in sum, relative to them; the goal's value with its sign). `goal` is the name of an
    objective, by default the first one; what the others say counts as limits only.
    """

    def __init__(self, objectives: Sequence[Objective], goal: str | None) -> None:
        by_name = {o.name: o for o in objectives}
        if not by_name or (goal is not None and goal not in by_name):
            raise ConfigError(f"the goal is {goal!r}, the objectives are {', '.join(by_name) or 'none'}; name one of them")
        self.objectives = tuple(objectives)
        self.goal = self.objectives[0] if goal is None else by_name[goal]

    def __call__(self, score: Mapping[str, float]) -> tuple[float, float]:
        broken = sum(max(v, 0.0) for o in self.objectives if o.name in score for v in o.violations(score[o.name]))
        return (broken, 0.0 if broken > 0 else self.goal.sign * score[self.goal.name])
