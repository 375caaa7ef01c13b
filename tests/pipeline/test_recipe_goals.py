"""Goals as objectives, what options cost, and the searchers that recipes use."""

from __future__ import annotations

from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest

from paceline.arch import Arch, Choice, Space
from paceline.graph import OpSpec
from paceline.latency_models.model import Prediction
from paceline.latency_models.space_latency import SpaceLatency
from paceline.pipeline.objectives import LatencyLimit, feasible
from paceline.pipeline.recipes.goals import ACCURATE, FAST, FEW_MACS, Goal, objectives_of
from paceline.pipeline.recipes.recipe import MakeSearcher
from paceline.pipeline.recipes.searchers import Problem, evolution, hierarchical_nsga2, nsga2, option_costs
from paceline.pipeline.search import front, search
from paceline.pipeline.targets import Target
from paceline.space_operators import SpaceOperators

SPACE = Space(tuple(Choice(f"c{i}", tuple("0123")) for i in range(4)))


def convolution(channels: int) -> OpSpec:
    return OpSpec.parse(f"CONV_2D 1x8x8x4 @{channels}x1x1x4 @{channels} -> 1x8x8x{channels} padding=SAME stride=(1,1)")


class Model:
    def operator_ms(self, specs: Sequence[OpSpec]) -> np.ndarray:
        return np.array([spec.outputs[0].shape[-1] / 10 - 0.1 for spec in specs])


class Latency:
    """Option n is a convolution of n channels; the milliseconds of a network are a tenth of all its channels, times `factor`."""

    def __init__(self, factor: float = 1.0) -> None:
        self.factor = factor

    model = Model()
    operators = SpaceOperators(
        SPACE,
        (),
        {(c.name, o): (convolution(int(o)),) if o != "0" else () for c in SPACE.choices for o in c.options},
    )

    def predict(self, archs: Sequence[Arch]) -> Prediction:
        ms = np.array([self.factor * sum(int(o) for _, (o,) in arch.picks) / 10 for arch in archs])
        return Prediction(ms, ms, ms)


LATENCY = cast(SpaceLatency, Latency())
NOTHING: Any = None


def target(ms: float, factor: float = 1.0, name: str = "phone") -> Target:
    """A device that takes `factor` times the milliseconds, with a limit."""
    latency = cast(SpaceLatency, Latency(factor))
    device: Any = SimpleNamespace(name=name)
    collector: Any = SimpleNamespace(bench=SimpleNamespace(delegate="gpu", threads=1))
    return Target(device, collector, NOTHING, latency, LatencyLimit(ms, 0.9, "given"))


TARGET = target(0.6)


def accuracy(arch: Arch) -> float:
    return float(np.mean([int(o) * weight for (_, (o,)), weight in zip(arch.picks, (1, 2, 3, 4), strict=True)]))


def arch(digits: str) -> Arch:
    return Arch(tuple((c.name, (d,)) for c, d in zip(SPACE.choices, digits, strict=True)))


def test_goals_are_objectives_with_their_direction_and_weight() -> None:
    made = objectives_of((Goal("accuracy", "max", 0.4), FAST, Goal("params", "max", 0.2)), [TARGET], accuracy)
    assert [(o.goal, o.weight, o.cheap) for o in made] == [("max", 0.4, False), ("min", 1.0, True), ("max", 0.2, True)]
    assert [o.of(arch("1230")) for o in made] == [accuracy(arch("1230")), pytest.approx(0.6), 4 * 6 + 6.0]
    assert made[1].at_most == 0.6


def test_where_latency_is_no_goal_the_limit_is_a_constraint_alone() -> None:
    made = objectives_of((ACCURATE, FEW_MACS), [TARGET], accuracy)
    limit = made[-1]
    assert [limit.of(arch(digits)) for digits in ("0000", "3300", "3330")] == pytest.approx([0.0, 0.0, 0.5])
    assert limit.weight == 0.0
    for digits, kept in (("3300", True), ("3310", False)):
        assert feasible({o.name: o.of(arch(digits)) for o in made}, made) is kept


def test_what_is_above_the_limit_is_a_share_of_it() -> None:
    assert [TARGET.over(arch(digits)) for digits in ("0000", "3300", "3330", "3333")] == pytest.approx([0.0, 0.0, 0.5, 1.0])


def test_every_device_has_a_limit_and_the_first_is_searched_for() -> None:
    made = objectives_of((ACCURATE, FAST), [TARGET, target(1.0, 2.0, "tablet"), target(9.0, 2.0, "watch")], accuracy)
    assert [o.name for o in made] == ["accuracy", "kept_ms", "over_limit tablet (gpu)", "over_limit watch (gpu)"]
    assert [o.of(arch("3300")) for o in made[1:]] == pytest.approx([0.6, 0.2, 0.0])
    for digits, kept in (("3200", True), ("3300", False), ("3330", False)):
        assert feasible({o.name: o.of(arch(digits)) for o in made}, made) is kept


def test_costs_of_options_are_those_of_their_operators() -> None:
    costs = option_costs(LATENCY)
    assert [costs["macs"]["c1", o] for o in "0123"] == [0, 256, 512, 768]
    assert [costs["params"]["c1", o] for o in "0123"] == [0, 5, 10, 15]
    assert [costs["latency"]["c1", o] for o in "0123"] == pytest.approx([0, 0.0, 0.1, 0.2])


@pytest.mark.parametrize("make", [nsga2, hierarchical_nsga2, evolution])
def test_searchers_find_what_is_best_under_the_limit(make: MakeSearcher) -> None:
    goals = (ACCURATE, FEW_MACS, Goal("params", "max"))
    objectives = objectives_of(goals, [TARGET], accuracy)
    problem = Problem(SPACE, goals, objectives, option_costs(LATENCY))
    archives = [search(make(problem, population=16, seed=2), objectives, generations=8, cache={}) for _ in range(2)]
    assert archives[0].members == archives[1].members
    found = front(archives[0])
    assert all(LATENCY.predict([m.arch]).ms[0] <= 0.6 + 1e-12 for m in found)
    assert max(m.values["accuracy"] for m in found) == accuracy(arch("0033"))
