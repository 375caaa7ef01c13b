"""Objectives and limits: what is broken by how much, and the limit that has to be kept with a chance."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import cast

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from paceline.arch import Arch, Choice, Space
from paceline.errors import ConfigError, LatencyModelError, LimitError
from paceline.graph import OpSpec, TensorSpec, attrs
from paceline.latency_models.calibration import interval
from paceline.latency_models.model import Prediction
from paceline.latency_models.space_latency import SpaceLatency
from paceline.latency_models.spaces.chance import kept_ms
from paceline.pipeline.objectives import (
    LatencyLimit,
    Objective,
    each_device,
    feasible,
    fleet,
    in_order,
    kept_by_share,
    latency_limit,
    macs,
    params,
    quality,
)
from paceline.pipeline.search import Nsga2, search
from paceline.space_operators import SpaceOperators

SPACE = Space(tuple(Choice(f"c{i}", tuple("0123456789")) for i in range(3)))


class Latency:
    """Milliseconds are the sum of the digits, uncertain by 2 % times a difficulty that grows with the last digit."""

    space = SPACE

    def predict(self, archs: Sequence[Arch]) -> Prediction:
        digits = np.array([[int(o) for _, (o,) in arch.picks] for arch in archs])
        return interval(1.0 + digits.sum(axis=1), np.linspace(-0.04, 0.04, 39), 1 + digits[:, 2] / 3, 0.9)

    def fastest(self) -> Arch:
        return Arch(tuple((c.name, ("0",)) for c in SPACE.choices))

    def quantile(self, share: float, rng: np.random.Generator) -> float:
        return float(np.quantile(self.predict([SPACE.sample(rng) for _ in range(100)]).ms, share))


LATENCY = cast(SpaceLatency, Latency())


@pytest.mark.parametrize("chance", [0.1, 0.5, 0.9, 0.95])
def test_the_limit_is_kept_exactly_where_its_chance_suffices(chance: float) -> None:
    limit = LatencyLimit(14.1, chance, "given")
    objective = limit.objective(LATENCY)
    rng = np.random.default_rng(0)
    decided = set()
    for _ in range(300):
        arch = SPACE.sample(rng)
        enough = LATENCY.predict([arch]).chance(limit.ms)[0] >= chance
        assert feasible({objective.name: objective.of(arch)}, [objective]) == enough
        decided.add(enough)
    assert decided == {True, False}


def test_a_search_keeps_the_limit_with_its_chance() -> None:
    """The more certain the limit has to be kept, the less the best architecture has of what is wanted."""
    best = []
    for chance in (0.1, 0.95):
        limit = LatencyLimit(20.0, chance, "given")
        objectives = [Objective("digits", lambda a: sum(int(o) for _, (o,) in a.picks), "max"), limit.objective(LATENCY)]
        archive = search(Nsga2(SPACE, objectives, population=20, seed=0), objectives, generations=15, cache={})
        kept = archive.feasible()
        assert all(LATENCY.predict([m.arch]).chance(limit.ms)[0] >= chance for m in kept)
        best.append(max(m.values["digits"] for m in kept))
    assert best[0] > best[1]


def test_how_far_an_architecture_is_over_the_limit_leads_the_search() -> None:
    """Of two that are certainly too slow the slower one breaks the limit more."""
    objective = LatencyLimit(2.0, 0.95, "given").objective(LATENCY)
    slow, slower = (Arch(tuple((c.name, (o,)) for c in SPACE.choices)) for o in "59")
    assert LATENCY.predict([slow, slower]).chance(2.0).tolist() == [0, 0]
    assert 0 < objective.violations(objective.of(slow))[0] < objective.violations(objective.of(slower))[0]


def limit(ms: float | None = None, chance: float | None = None, interval: float = 0.9) -> LatencyLimit:
    rng = np.random.default_rng(0)
    return latency_limit(LATENCY, ms=ms, quantile=0.3, chance=chance, interval=interval, rng=rng)


def test_a_limit_is_given_or_a_quantile_of_the_space() -> None:
    assert (limit(5.0).ms, limit(5.0).origin) == (5.0, "given")
    assert limit().ms == Latency().quantile(0.3, np.random.default_rng(0))
    assert limit().origin == "the 30% quantile of the space's latencies"


def test_the_default_chance_is_that_of_the_upper_end_of_the_interval() -> None:
    """And with few held-out errors, here 39, what they can show."""
    assert limit(20.0, interval=0.9).chance == pytest.approx(0.95)
    assert limit(20.0, interval=0.99).chance == 39 / 40
    assert limit(20.0, chance=0.5, interval=0.9).chance == 0.5
    best = LATENCY.predict([LATENCY.fastest()])
    assert kept_ms(best, limit(20.0).chance)[0] == pytest.approx(best.high[0])


def test_limits_that_cannot_be_kept_are_refused() -> None:
    assert limit(1.03, chance=0.5).ms == 1.03  # the fastest takes 1 ms
    with pytest.raises(LimitError, match=r"keeps 1\.03 ms .*predicted at 1 ms \(1\.04 ms with a chance of 97\.5%\)"):
        limit(1.03, chance=0.975)
    with pytest.raises(LatencyModelError, match=r"99\.0% can't be shown by 39 held-out errors"):
        limit(20.0, chance=0.99)


def test_violations_are_relative_and_negative_where_kept() -> None:
    both = Objective("x", lambda a: 0.0, at_most=10.0, at_least=5.0)
    assert both.violations(12.0) == [pytest.approx(0.2), pytest.approx(-1.4)]
    assert both.violations(4.0) == [pytest.approx(-0.6), pytest.approx(0.2)]
    assert both.limits == 2
    assert feasible({"x": 7.0}, [both])
    assert not feasible({"x": 11.0}, [both])
    assert not feasible({}, [both])


def test_cheap_objectives_come_first_and_goals_are_checked() -> None:
    costly, cheap = Objective("a", lambda a: 0.0), Objective("b", lambda a: 0.0, cheap=True)
    assert [o.name for o in in_order([costly, cheap, costly])] == ["b", "a", "a"]
    assert (costly.sign, Objective("c", lambda a: 0.0, "max").sign) == (1.0, -1.0)
    with pytest.raises(ConfigError, match="goal 'up'"):
        Objective("d", lambda a: 0.0, "up")  # type: ignore[arg-type]


@dataclass(frozen=True)
class Phone:
    """Milliseconds are `slow` times the sum of the digits, and `last` times the last digit; known without error."""

    slow: float
    last: float

    def predict(self, archs: Sequence[Arch]) -> Prediction:
        digits = np.array([[int(o) for _, (o,) in arch.picks] for arch in archs])
        ms = 1.0 + self.slow * digits.sum(axis=1) + self.last * digits[:, 2]
        return Prediction(ms, ms, ms)


PHONES = {"old": Phone(2.0, 0.0), "new": Phone(1.0, 0.0), "odd": Phone(0.5, 3.0)}


def digits(*numbers: int) -> Arch:
    return Arch(tuple((c.name, (str(n),)) for c, n in zip(SPACE.choices, numbers, strict=True)))


def test_every_device_has_its_own_limit() -> None:
    limits = {"old": LatencyLimit(30.0, 0.9, "given"), "odd": LatencyLimit(10.0, 0.9, "given")}
    objectives = each_device(limits, {device: PHONES[device] for device in limits})
    assert [(o.name, o.at_most, o.cheap) for o in objectives] == [("kept_ms old", 30.0, True), ("kept_ms odd", 10.0, True)]
    archive = search(Nsga2(SPACE, objectives, population=20, seed=0), objectives, generations=8, cache={})
    kept = archive.feasible()
    assert 0 < len(kept) < len(archive.members)
    for m in kept:
        assert PHONES["old"].predict([m.arch]).ms[0] <= 30.0
        assert PHONES["odd"].predict([m.arch]).ms[0] <= 10.0
    with pytest.raises(ConfigError, match="devices old, odd and latencies of old, new, odd: name the same"):
        each_device(limits, PHONES)


def test_a_fleet_keeps_what_a_share_of_its_devices_keeps() -> None:
    arch = digits(2, 2, 2)  # old 13, new 7, odd 10
    weights = {"old": 20, "new": 50, "odd": 30}

    def ms(share: float) -> float:
        return fleet(PHONES, weights, share=share, limit=LatencyLimit(10.0, 0.9, "given")).of(arch)

    assert [ms(share) for share in (0.01, 0.5, 0.51, 0.8, 0.81, 1.0)] == [7, 7, 10, 10, 13, 13]
    objective = fleet(PHONES, weights, share=0.8, limit=LatencyLimit(10.0, 0.9, "given"), weight=2.0)
    assert (objective.name, objective.at_most, objective.weight, objective.cheap) == ("fleet_ms", 10.0, 2.0, True)
    assert feasible({"fleet_ms": objective.of(arch)}, [objective])


def test_a_fleet_counts_each_device_with_its_chance() -> None:
    arch = digits(3, 3, 9)
    limit = LatencyLimit(20.0, 0.95, "given")
    uncertain = fleet({"phone": LATENCY}, {"phone": 1}, share=1.0, limit=limit).of(arch)
    assert uncertain == kept_ms(LATENCY.predict([arch]), 0.95)[0] > LATENCY.predict([arch]).ms[0]


@given(st.lists(st.tuples(st.integers(1, 9), st.integers(1, 5)), min_size=1, max_size=8), st.integers(1, 20))
def test_the_share_of_a_fleet_is_the_least_that_is_enough(devices: list[tuple[int, int]], twentieths: int) -> None:
    ms, weights = (np.array(column, np.float64) for column in zip(*devices, strict=True))
    found = kept_by_share(ms, weights, twentieths / 20)

    def enough(limit: float) -> bool:
        return bool(20 * weights[ms <= limit].sum() >= twentieths * weights.sum())

    assert found in ms
    assert enough(found)
    assert not any(enough(m) for m in ms if m < found)


def test_impossible_fleets_are_refused() -> None:
    limit = LatencyLimit(10.0, 0.9, "given")
    with pytest.raises(ConfigError, match="name the same"):
        fleet(PHONES, {"old": 1.0}, share=0.9, limit=limit)
    with pytest.raises(ConfigError, match="weight above 0"):
        fleet(PHONES, {"old": 1.0, "new": 0.0, "odd": 1.0}, share=0.9, limit=limit)
    with pytest.raises(ConfigError, match="above 0 and up to 1, got 0"):
        fleet(PHONES, {"old": 1.0, "new": 1.0, "odd": 1.0}, share=0.0, limit=limit)
    with pytest.raises(ConfigError, match="latencies of none"):
        fleet({}, {}, share=0.5, limit=limit)


def test_macs_params_and_quality() -> None:
    def conv(width: int) -> OpSpec:
        inputs = (TensorSpec((1, 4, 4, 3)), TensorSpec((width, 1, 1, 3)), TensorSpec((width,)))
        same = attrs(stride=(1, 1), dilation=(1, 1), padding="SAME", activation="NONE")
        return OpSpec("CONV_2D", inputs, (TensorSpec((1, 4, 4, width)),), same, (1, 2))

    space = Space((Choice("layer", ("narrow", "wide")),))
    operators = SpaceOperators(space, (conv(1),), {("layer", "narrow"): (conv(2),), ("layer", "wide"): (conv(8), conv(8))})
    wide = Arch((("layer", ("wide",)),))
    assert macs(operators, at_most=1e3).of(wide) == 4 * 4 * 3 * 17
    assert (macs(operators, at_most=1e3).goal, macs(operators, at_most=1e3).at_most) == ("min", 1e3)
    most = params(operators, goal="max", at_least=10.0, weight=0.2)
    assert most.of(wide) == 3 * 17 + 17
    assert (most.goal, most.at_least, most.weight, most.cheap) == ("max", 10.0, 0.2, True)
    good = quality(lambda arch: 0.7, at_least=0.8)
    assert (good.name, good.goal, good.cheap) == ("accuracy", "max", False)
    assert not feasible({"accuracy": good.of(wide)}, [good])
