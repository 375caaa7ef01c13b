"""How evolution changes an architecture."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol

import numpy as np
import numpy.typing as npt

from paceline.arch import Choice, Space
from paceline.errors import ConfigError, SpaceError
from paceline.pipeline.search.genome import Genes, Genome

OptionCosts = Mapping[tuple[str, str], float]
"""What an option of a choice costs, by (choice, option): milliseconds, MACs, params."""


class Mutation(Protocol):
    """Changes genes. `HierarchicalMutation` combines several."""

    def mutate(self, genes: Genes, genome: Genome, rng: np.random.Generator) -> Genes:
        """Other genes (sometimes the same) that are an architecture, as `genes` are, which stay as they were."""
        ...


class ResetMutation:
    """Each gene takes, with a probability, one of its other values; by default one gene in expectation."""

    def __init__(self, probability: float | None = None) -> None:
        if probability is not None and not 0 < probability <= 1:
            raise ConfigError(f"genes mutate with a probability above 0 and up to 1, not {probability}")
        self.probability = probability

    def mutate(self, genes: Genes, genome: Genome, rng: np.random.Generator) -> Genes:
        probability = 1.0 / len(genes) if self.probability is None else self.probability
        hit = rng.random(len(genes)) < probability
        other = 1 + rng.integers(0, np.maximum(genome.highest, 1))
        return genome.repair(np.where(hit, (genes + other) % (genome.highest + 1), genes), rng)


class OneChoiceMutation:
    """One random choice, of those that leave something to choose, is decided anew and otherwise (Real et al. 2019, section 3)."""

    def mutate(self, genes: Genes, genome: Genome, rng: np.random.Generator) -> Genes:
        open_ = genome.open
        if not open_:
            return genes
        choice, part = open_[rng.integers(len(open_))]
        while True:  # ends: the choice has two or more decisions
            changed = genes.copy()
            changed[part] = genome.decide(choice, rng)
            if not np.array_equal(changed, genes):
                return changed


class RouletteMutation:
    """One random choice is decided anew by a wheel on which cheap options have the larger part (MoreMNAS, arXiv 1901.01074).

    `costs` has one table per predictable objective; each mutation draws one of them. An option is taken with a probability
    proportional to 1 / cost; what costs nothing, such as a skip, counts like the cheapest of the others. With `dear` it is
    proportional to the cost, for objectives to maximise (MoGA's params).

    Reconstruction: the paper's formula was not available, this is the simplest decreasing one.
    """

    def __init__(self, space: Space, costs: Sequence[OptionCosts], dear: Sequence[OptionCosts] = ()) -> None:
        if not costs and not dear:
            raise ConfigError("a roulette needs the costs of options for at least one objective")
        self.space = space
        self._wheels = [_wheel(space, table, -1) for table in costs] + [_wheel(space, table, 1) for table in dear]

    def mutate(self, genes: Genes, genome: Genome, rng: np.random.Generator) -> Genes:
        if genome.space != self.space:
            raise SpaceError("this roulette has the costs of another space; make one for the space that is searched")
        if not genome.open:
            return genes
        choice, part = genome.open[rng.integers(len(genome.open))]
        wheel = self._wheels[rng.integers(len(self._wheels))][choice.name]
        changed = genes.copy()
        changed[part] = genome.decide(choice, rng, wheel)
        return changed


class HierarchicalMutation:
    """First the kind of mutation is drawn, then that one changes a gene (MoreMNAS, arXiv 1901.01074, section on mutation).

    `first` with probability `share`, else `second`; either may be hierarchical in turn. MoreMNAS: natural mutation with 0.5, else
    a regulated one, which is reinforced for what is hard to predict and a roulette for what is predictable. Reconstruction: the
    paper's probabilities were not available.
    """

    def __init__(self, first: Mutation, second: Mutation, share: float = 0.5) -> None:
        if not 0 <= share <= 1:
            raise ConfigError(f"the share of the first mutation lies in 0…1, got {share}")
        self.first, self.second, self.share = first, second, share

    def mutate(self, genes: Genes, genome: Genome, rng: np.random.Generator) -> Genes:
        drawn = self.first if rng.random() < self.share else self.second
        return drawn.mutate(genes, genome, rng)


def _wheel(space: Space, table: OptionCosts, power: int) -> dict[str, npt.NDArray[np.float64]]:
    return {choice.name: _shares(choice, table, power) for choice in space.choices}


def _shares(choice: Choice, table: OptionCosts, power: int) -> npt.NDArray[np.float64]:
    """Probabilities of the options of a choice."""
    missing = [option for option in choice.options if (choice.name, option) not in table]
    if missing:
        raise SpaceError(
            f"the roulette has no cost of option {missing[0]!r} of choice {choice.name!r}; give one for every option"
        )
    costs = np.array([table[choice.name, option] for option in choice.options], np.float64)
    if not np.isfinite(costs).all() or (costs < 0).any():
        raise SpaceError(f"the costs of choice {choice.name!r} must be finite and not below 0, got {costs.tolist()}")
    costs = np.where(costs > 0, costs, costs[costs > 0].min() if (costs > 0).any() else 1.0)
    weights = costs**power
    return np.asarray(weights / weights.sum())
