"""Random search: what every other searcher has to beat."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from paceline.arch import Arch, Space
from paceline.errors import ConfigError
from paceline.pipeline.objectives import Objective
from paceline.pipeline.search.proposals import Passes, Proposals


class RandomSearch:
    """`population` different random architectures at a time. With `only`, those that don't pass are never proposed.

    It takes the objectives as other searchers do, and looks at none of them.
    """

    def __init__(
        self, space: Space, objectives: Sequence[Objective], *, population: int, seed: int, only: Passes | None = None
    ) -> None:
        if population < 1:
            raise ConfigError(f"a population of {population} proposes nothing; take 1 or more")
        self.population = population
        self._proposals = Proposals(space, np.random.default_rng(seed), only)

    def ask(self) -> list[Arch]:
        return self._proposals.ask(self._proposals.random(self.population))

    def tell(self, archs: Sequence[Arch], scores: Sequence[Mapping[str, float]]) -> None:
        self._proposals.told(archs, scores)
