"""NSGA-II over a space, through pymoo's ask and tell."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from pymoo.config import Config

Config.warnings["not_compiled"] = False  # pymoo prints a hint otherwise

from pymoo.algorithms.moo.nsga2 import NSGA2  # noqa: E402
from pymoo.core.crossover import Crossover  # noqa: E402
from pymoo.core.duplicate import DuplicateElimination  # noqa: E402
from pymoo.core.evaluator import Evaluator  # noqa: E402
from pymoo.core.mutation import Mutation as PymooMutation  # noqa: E402
from pymoo.core.population import Population  # noqa: E402
from pymoo.core.problem import Problem  # noqa: E402
from pymoo.core.sampling import Sampling  # noqa: E402
from pymoo.core.termination import NoTermination  # noqa: E402
from pymoo.operators.survival.rank_and_crowding import RankAndCrowding  # noqa: E402
from pymoo.problems.static import StaticProblem  # noqa: E402

from paceline.arch import Arch, Space  # noqa: E402
from paceline.errors import ConfigError  # noqa: E402
from paceline.pipeline.objectives import Objective  # noqa: E402
from paceline.pipeline.search.crowding import WeightedCrowding  # noqa: E402
from paceline.pipeline.search.genome import Genome  # noqa: E402
from paceline.pipeline.search.mutation import Mutation, ResetMutation  # noqa: E402
from paceline.pipeline.search.proposals import Passes, Proposals  # noqa: E402
from paceline.seeds import Seeds  # noqa: E402

NOT_EVALUATED = 1e30
"""Stands for the value of an objective that was not evaluated, because a limit is broken: worse than any real one."""


class Nsga2:
    """The elitist non-dominated sorting genetic algorithm (Deb et al. 2002) with its constraint domination.

    Genes are integers (`Genome`): binary tournament, uniform crossover of choices with probability `crossover`, then `mutation`
    (default `ResetMutation()`). The objectives' weights enter the crowding distance (`WeightedCrowding`, as in MoGA); equal ones
    make it plain NSGA-II. With `only`, what doesn't pass is never proposed. No architecture is proposed twice. The same seed and
    the same scores give the same proposals in every process.
    """

    def __init__(
        self,
        space: Space,
        objectives: Sequence[Objective],
        *,
        population: int,
        seed: int,
        mutation: Mutation | None = None,
        crossover: float = 0.9,
        only: Passes | None = None,
    ) -> None:
        if population < 2:
            raise ConfigError(f"a population of {population} can't evolve; take 2 or more")
        if not 0 <= crossover <= 1:
            raise ConfigError(f"a crossover happens with a probability in 0…1, not {crossover}")
        self.objectives = tuple(objectives)
        self.genome = Genome(space)
        self._proposals = Proposals(space, Seeds(seed).rng("proposals"), only)  # pymoo has a stream of its own
        genes = len(self.genome.highest)
        self._problem = Problem(
            n_var=genes,
            n_obj=len(self.objectives),
            n_ieq_constr=sum(o.limits for o in self.objectives),
            xl=np.zeros(genes, np.int64),
            xu=self.genome.highest,
            vtype=int,
        )
        self._algorithm = _Nsga2(
            self._newcomers,
            pop_size=population,
            sampling=_Sampling(self._newcomers),
            crossover=_ChoiceCrossover(self.genome, crossover),
            mutation=_Mutate(self.genome, ResetMutation() if mutation is None else mutation),
            survival=RankAndCrowding(crowding_func=WeightedCrowding([o.weight for o in self.objectives])),
            eliminate_duplicates=_New(self.genome, self._proposals),
            output=None,
        )
        self._algorithm.setup(self._problem, termination=NoTermination(), seed=seed % 2**31, verbose=False)
        self._asked: Any = None

    def ask(self) -> list[Arch]:
        self._asked = self._algorithm.ask()
        return self._proposals.ask([] if self._asked is None else [self.genome.decode(g) for g in self._asked.get("X")])

    def tell(self, archs: Sequence[Arch], scores: Sequence[Mapping[str, float]]) -> None:
        self._proposals.told(archs, scores)
        values = [[o.sign * s[o.name] if o.name in s else NOT_EVALUATED for o in self.objectives] for s in scores]
        limits = [
            [v for o in self.objectives if o.limits for v in (o.violations(s[o.name]) if o.name in s else [0.0] * o.limits)]
            for s in scores
        ]
        told = {"F": np.array(values)} | ({"G": np.array(limits)} if self._problem.n_ieq_constr else {})
        Evaluator().eval(StaticProblem(self._problem, **told), self._asked)
        self._algorithm.tell(infills=self._asked)
        self._asked = None

    def _newcomers(self, wanted: int) -> npt.NDArray[np.int64]:
        """Genes of different random architectures, shape (up to wanted, genes)."""
        found = [self.genome.encode(arch) for arch in self._proposals.random(wanted)]
        return np.array(found, np.int64).reshape(len(found), len(self.genome.highest))

    def population(self) -> list[Arch]:
        """The survivors of the last generation."""
        return [] if self._algorithm.pop is None else [self.genome.decode(g) for g in self._algorithm.pop.get("X")]


class _Nsga2(NSGA2):  # type: ignore[misc]
    """pymoo's, but where mating finds nothing new, newcomers are drawn instead of ending the search."""

    def __init__(self, newcomers: Callable[[int], Any], **settings: Any) -> None:
        super().__init__(**settings)
        self.newcomers = newcomers

    def _infill(self) -> Any:
        children = self.mating.do(self.problem, self.pop, self.n_offsprings, algorithm=self, random_state=self.random_state)
        if len(children) == 0:
            children = Population.new("X", self.newcomers(self.n_offsprings))
        if len(children) == 0:
            self.termination.force_termination = True
            return None
        return children


class _Sampling(Sampling):  # type: ignore[misc]
    def __init__(self, newcomers: Callable[[int], Any]) -> None:
        super().__init__()
        self.newcomers = newcomers

    def _do(self, problem: Problem, n_samples: int, *args: Any, **kwargs: Any) -> Any:
        return self.newcomers(n_samples)


class _ChoiceCrossover(Crossover):  # type: ignore[misc]
    """Two children: each choice is exchanged whole, with probability 1/2. So both are architectures again."""

    def __init__(self, genome: Genome, probability: float) -> None:
        super().__init__(2, 2, prob=probability)
        self.choice_of_gene = np.concatenate([np.full(part.stop - part.start, i) for i, (_, part) in enumerate(genome.parts)])

    def _do(self, problem: Problem, x: Any, *args: Any, random_state: np.random.Generator, **kwargs: Any) -> Any:
        _, matings, _ = x.shape
        exchanged = (random_state.random((matings, self.choice_of_gene[-1] + 1)) < 0.5)[:, self.choice_of_gene]
        return np.stack([np.where(exchanged, x[1], x[0]), np.where(exchanged, x[0], x[1])])


class _Mutate(PymooMutation):  # type: ignore[misc]
    def __init__(self, genome: Genome, mutation: Mutation) -> None:
        super().__init__(prob=1.0)
        self.genome, self.mutation = genome, mutation

    def _do(self, problem: Problem, x: Any, *args: Any, random_state: np.random.Generator, **kwargs: Any) -> Any:
        return np.array([self.mutation.mutate(genes, self.genome, random_state) for genes in x], np.int64)


class _New(DuplicateElimination):  # type: ignore[misc]
    """Drops what any generation has proposed already, not only the living ones, and what may not be proposed."""

    def __init__(self, genome: Genome, proposals: Proposals) -> None:
        super().__init__()
        self.genome, self.proposals = genome, proposals

    def _do(self, pop: Any, other: Any, is_duplicate: Any) -> Any:
        known: set[tuple[int, ...]] = set() if other is None else {tuple(genes) for genes in other.get("X").tolist()}
        for i, genes in enumerate(pop.get("X")):
            key = tuple(genes.tolist())
            is_duplicate[i] = key in known or (other is None and not self.proposals.new(self.genome.decode(genes)))
            if other is None:
                known.add(key)
        return is_duplicate
