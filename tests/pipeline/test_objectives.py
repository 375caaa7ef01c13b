"""Objectives and limits: what is broken by how much, and the limit that has to be kept with a chance."""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

import numpy as np
import pytest

from paceline.arch import Arch, Choice, Space
from paceline.errors import ConfigError, LatencyModelError, LimitError
from paceline.latency_models.calibration import interval
from paceline.latency_models.model import Prediction
from paceline.latency_models.space_latency import SpaceLatency
from paceline.latency_models.spaces.chance import kept_ms
from paceline.pipeline.objectives import LatencyLimit, Objective, feasible, in_order, latency_limit
from paceline.pipeline.search import Nsga2, search

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
