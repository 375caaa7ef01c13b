"""Local search with restarts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from paceline.arch import Arch, Space
from paceline.errors import ConfigError
from paceline.pipeline.objectives import Objective
from paceline.pipeline.search.genome import Genome
from paceline.pipeline.search.proposals import Fitness, Passes, Proposals


class LocalSearch:
    """Hill climbing (White et al. 2021, arXiv 2005.02960): of all architectures that differ in one step it moves to the best, as
    long as that is better; then it restarts, from the best of `population` random ones.

    It serves one `goal` (see `Fitness`) under the limits of all objectives. With `only`, what doesn't pass is never proposed.
    """

    def __init__(
        self,
        space: Space,
        objectives: Sequence[Objective],
        *,
        population: int,
        seed: int,
        goal: str | None = None,
        only: Passes | None = None,
    ) -> None:
        if population < 1:
            raise ConfigError(f"a start from the best of {population} architectures is none; take 1 or more")
        self.population = population
        self.fitness = Fitness(objectives, goal)
        self._genome = Genome(space)
        self._rng = np.random.default_rng(seed)
        self._proposals = Proposals(space, self._rng, only)
        self._known: dict[Arch, tuple[float, float]] = {}
        self._at: Arch | None = None
        """Where it stands; nowhere before a restart."""

    def ask(self) -> list[Arch]:
        while self._at is not None:
            around = [self._genome.decode(genes) for genes in self._genome.neighbours(self._genome.encode(self._at))]
            new = [arch for arch in around if self._proposals.new(arch)]
            if new:
                return self._proposals.ask([new[i] for i in self._rng.permutation(len(new))])
            best = min((arch for arch in around if arch in self._known), key=self._known.__getitem__, default=self._at)
            self._at = best if self._known[best] < self._known[self._at] else None
        return self._proposals.ask(self._proposals.random(self.population))

    def tell(self, archs: Sequence[Arch], scores: Sequence[Mapping[str, float]]) -> None:
        self._proposals.told(archs, scores)
        told = {arch: self.fitness(score) for arch, score in zip(archs, scores, strict=True)}
        self._known |= told
        if self._at is None:
            self._at = min(told, key=told.__getitem__)
