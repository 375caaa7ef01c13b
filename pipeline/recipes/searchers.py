"""Search algorithms as recipes use them: made for one problem, with the settings that the papers share."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from paceline.arch import Space
from paceline.graph import OpSpec, macs_of, params_of
from paceline.latency_models.space_latency import SpaceLatency
from paceline.pipeline.objectives import Objective
from paceline.pipeline.recipes.goals import Figure, Goal
from paceline.pipeline.search import (
    HierarchicalMutation,
    Nsga2,
    OptionCosts,
    RegularisedEvolution,
    ResetMutation,
    RouletteMutation,
    Searcher,
)


@dataclass(frozen=True)
class Problem:
    """What is searched: the space, the goals, the same as objectives, and what each option costs of what can be predicted."""

    space: Space
    goals: tuple[Goal, ...]
    objectives: Sequence[Objective]
    costs: Mapping[Figure, OptionCosts]


def option_costs(latency: SpaceLatency) -> dict[Figure, OptionCosts]:
    """MACs, params and milliseconds of every option by itself."""
    figures: dict[Figure, Callable[[tuple[OpSpec, ...]], float]] = {
        "latency": lambda operators: max(0.0, float(latency.model.operator_ms(operators).sum())),
        "macs": macs_of,
        "params": params_of,
    }
    return {figure: latency.operators.of_options(of) for figure, of in figures.items()}


def nsga2(problem: Problem, *, population: int, seed: int) -> Searcher:
    """NSGA-II with random mutation; the goals' weights are those of its crowding."""
    return Nsga2(problem.space, problem.objectives, population=population, seed=seed)


def hierarchical_nsga2(problem: Problem, *, population: int, seed: int) -> Searcher:
    """NSGA-II in which every second mutation prefers options that are good for the goals that can be predicted (MoreMNAS)."""
    wanted = {goal.figure: goal.direction for goal in problem.goals if goal.figure in problem.costs}
    small = [problem.costs[figure] for figure, direction in wanted.items() if direction == "min"]
    large = [problem.costs[figure] for figure, direction in wanted.items() if direction == "max"]
    mutation = HierarchicalMutation(ResetMutation(), RouletteMutation(problem.space, small, large))
    return Nsga2(problem.space, problem.objectives, population=population, seed=seed, mutation=mutation)


def evolution(problem: Problem, *, population: int, seed: int) -> Searcher:
    """Regularised evolution of accuracy under the limits, a whole population of children at a time."""
    return RegularisedEvolution(
        problem.space,
        problem.objectives,
        population=population,
        sample=max(2, population // 4),
        batch=population,
        goal="accuracy",
        seed=seed,
    )
