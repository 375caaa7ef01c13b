"""Regularised evolution."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping, Sequence

import numpy as np

from paceline.arch import Arch, Space
from paceline.errors import ConfigError
from paceline.pipeline.objectives import Objective
from paceline.pipeline.search.genome import Genome
from paceline.pipeline.search.mutation import Mutation, OneChoiceMutation
from paceline.pipeline.search.proposals import TRIES, Fitness, Passes, Proposals


class RegularisedEvolution:
    """Aging evolution (Real et al. 2019, arXiv 1802.01548, algorithm 1): the best of a random `sample` of the population has a
    mutated child, which takes the place of the oldest.

    It serves one `goal` (see `Fitness`) under the limits of all objectives, by constraint domination; with `only`, what doesn't
    pass is never proposed (rejection). The first proposal is the population, then `batch` children at a time: more than the
    paper's one, so that they can be evaluated in parallel. `sample` is a quarter of the population by default, as in the paper.
    No architecture is proposed twice: a known child is mutated further.
    """

    def __init__(
        self,
        space: Space,
        objectives: Sequence[Objective],
        *,
        population: int,
        seed: int,
        sample: int | None = None,
        goal: str | None = None,
        batch: int = 1,
        mutation: Mutation | None = None,
        only: Passes | None = None,
    ) -> None:
        sample = max(1, population // 4) if sample is None else sample
        if not 1 <= sample <= population or batch < 1:
            raise ConfigError(f"needs 1 <= sample <= population and 1 <= batch, got {sample}, {population} and {batch}")
        self.population, self.sample, self.batch = population, sample, batch
        self.fitness = Fitness(objectives, goal)
        self.mutation: Mutation = OneChoiceMutation() if mutation is None else mutation
        self._genome = Genome(space)
        self._rng = np.random.default_rng(seed)
        self._proposals = Proposals(space, self._rng, only)
        self._living: deque[tuple[Arch, tuple[float, float]]] = deque(maxlen=population)

    def ask(self) -> list[Arch]:
        if not self._living:
            return self._proposals.ask(self._proposals.random(self.population))
        children: dict[Arch, None] = {}
        for _ in range(self.batch):
            child = self._child(children)
            if child is not None:
                children[child] = None
        return self._proposals.ask(list(children) or self._proposals.random(1))

    def tell(self, archs: Sequence[Arch], scores: Sequence[Mapping[str, float]]) -> None:
        self._proposals.told(archs, scores)
        self._living.extend((arch, self.fitness(score)) for arch, score in zip(archs, scores, strict=True))

    def _child(self, siblings: Mapping[Arch, None]) -> Arch | None:
        """None where nothing new is near."""
        drawn = self._rng.integers(len(self._living), size=self.sample)
        parent, _ = min((self._living[i] for i in drawn), key=lambda member: member[1])
        genes = self._genome.encode(parent)
        for _ in range(TRIES):
            genes = self.mutation.mutate(genes, self._genome, self._rng)
            child = self._genome.decode(genes)
            if child not in siblings and self._proposals.new(child):
                return child
        return None
