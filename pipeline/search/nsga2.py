"""NSGA-II over a space, through pymoo's ask and tell."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from pymoo.config import Config

Config.warnings["not_compiled"] = False  # pymoo prints a hint otherwise

from pymoo.algorithms.moo.nsga2 import NSGA2  # noqa: E402
from pymoo.core.duplicate import DuplicateElimination  # noqa: E402
from pymoo.core.evaluator import Evaluator  # noqa: E402
from pymoo.core.mutation import Mutation  # noqa: E402
from pymoo.core.problem import Problem  # noqa: E402
from pymoo.core.repair import Repair  # noqa: E402
from pymoo.core.sampling import Sampling  # noqa: E402
from pymoo.core.termination import NoTermination  # noqa: E402
from pymoo.operators.crossover.ux import UX  # noqa: E402
from pymoo.problems.static import StaticProblem  # noqa: E402

from paceline.arch import Arch, Space  # noqa: E402
from paceline.errors import ConfigError, SpaceError  # noqa: E402
from paceline.pipeline.objectives import Objective  # noqa: E402
from paceline.pipeline.search.genome import Genome  # noqa: E402

NOT_EVALUATED = 1e30
"""Stands for the value of an objective that was not evaluated, because a limit is broken: worse than any real one."""


class Nsga2:
    """The elitist non-dominated sorting genetic algorithm (Deb et al. 2002) with its constraint domination.

    Genes are integers (`Genome`): tournament selection, uniform crossover with probability 0.9, then each gene takes a random
    other value with probability `mutation` (default: one gene in expectation). No architecture is proposed twice. The same
    seed and the same scores give the same proposals in every process.
    """

    def __init__(
        self, space: Space, objectives: Sequence[Objective], *, population: int, seed: int, mutation: float | None = None
    ) -> None:
        if population < 2:
            raise ConfigError(f"a population of {population} can't evolve; take 2 or more")
        self.objectives = tuple(objectives)
        self.genome = Genome(space)
        genes = len(self.genome.highest)
        self._seen: set[tuple[int, ...]] = set()
        self._problem = Problem(
            n_var=genes,
            n_obj=len(self.objectives),
            n_ieq_constr=sum(o.limits for o in self.objectives),
            xl=np.zeros(genes, np.int64),
            xu=self.genome.highest,
            vtype=int,
        )
        self._algorithm = NSGA2(
            pop_size=population,
            sampling=_Sampling(self.genome),
            crossover=UX(prob=0.9),
            mutation=_RandomReset(1.0 / genes if mutation is None else mutation),
            repair=_Repair(self.genome),
            eliminate_duplicates=_Unseen(self._seen),
            output=None,
        )
        self._algorithm.setup(self._problem, termination=NoTermination(), seed=seed, verbose=False)
        self._asked: Any = None

    def ask(self) -> list[Arch]:
        self._asked = self._algorithm.ask()
        if self._asked is None:
            return []
        archs = [self.genome.decode(genes) for genes in self._asked.get("X")]
        self._seen.update(tuple(genes) for genes in self._asked.get("X").tolist())
        return archs

    def tell(self, archs: Sequence[Arch], scores: Sequence[Mapping[str, float]]) -> None:
        if (
            self._asked is None
            or list(archs) != [self.genome.decode(g) for g in self._asked.get("X")]
            or len(scores) != len(archs)
        ):
            raise SpaceError("tell() needs the architectures that the last ask() gave, in that order, with one score each")
        values = [[o.sign * s[o.name] if o.name in s else NOT_EVALUATED for o in self.objectives] for s in scores]
        limits = [
            [v for o in self.objectives if o.limits for v in (o.violations(s[o.name]) if o.name in s else [0.0] * o.limits)]
            for s in scores
        ]
        told = {"F": np.array(values)} | ({"G": np.array(limits)} if self._problem.n_ieq_constr else {})
        Evaluator().eval(StaticProblem(self._problem, **told), self._asked)
        self._algorithm.tell(infills=self._asked)
        self._asked = None

    def population(self) -> list[Arch]:
        """The survivors of the last generation."""
        return [] if self._algorithm.pop is None else [self.genome.decode(g) for g in self._algorithm.pop.get("X")]


class _Sampling(Sampling):  # type: ignore[misc]
    """Different random architectures."""

    def __init__(self, genome: Genome) -> None:
        super().__init__()
        self.genome = genome

    def _do(self, problem: Problem, n_samples: int, *args: Any, random_state: np.random.Generator, **kwargs: Any) -> Any:
        found: dict[tuple[int, ...], None] = {}
        for _ in range(100 * n_samples):  # a small space may not have as many
            found[tuple(self.genome.encode(self.genome.space.sample(random_state)).tolist())] = None
            if len(found) == n_samples:
                break
        return np.array(list(found), np.int64)


class _RandomReset(Mutation):  # type: ignore[misc]
    """Each gene takes, with a probability, one of its other values."""

    def __init__(self, probability: float) -> None:
        super().__init__(prob=1.0)
        self.probability = probability

    def _do(self, problem: Problem, x: Any, *args: Any, random_state: np.random.Generator, **kwargs: Any) -> Any:
        hit = random_state.random(x.shape) < self.probability
        other = 1 + random_state.integers(0, np.maximum(problem.xu, 1), size=x.shape)
        return np.where(hit, (x + other) % (problem.xu + 1), x)


class _Repair(Repair):  # type: ignore[misc]
    def __init__(self, genome: Genome) -> None:
        super().__init__()
        self.genome = genome

    def _do(self, problem: Problem, x: Any, *args: Any, random_state: np.random.Generator, **kwargs: Any) -> Any:
        return np.array([self.genome.repair(genes, random_state) for genes in x])


class _Unseen(DuplicateElimination):  # type: ignore[misc]
    """Drops what any generation has proposed already, not only the living ones."""

    def __init__(self, seen: set[tuple[int, ...]]) -> None:
        super().__init__()
        self.seen = seen

    def _do(self, pop: Any, other: Any, is_duplicate: Any) -> Any:
        known = set(self.seen) if other is None else {tuple(genes) for genes in other.get("X").tolist()}
        for i, genes in enumerate(pop.get("X").tolist()):
            is_duplicate[i] = tuple(genes) in known
            if other is None:
                known.add(tuple(genes))
        return is_duplicate
