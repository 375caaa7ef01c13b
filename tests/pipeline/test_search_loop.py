"""The loop: budgets, early stop, parallel evaluation, archives as text, hypervolumes on a given scale."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pymoo.indicators.hv import HV

from paceline.arch import Arch, Choice, Space
from paceline.errors import ConfigError, DataError
from paceline.pipeline.objectives import Objective
from paceline.pipeline.search import (
    Archive,
    Evaluated,
    Nsga2,
    Patience,
    RandomSearch,
    RegularisedEvolution,
    Scale,
    hypervolume,
    search,
)

SPACE = Space(tuple(Choice(f"c{i}", ("a", "b", "c", "d")) for i in range(5)))


def numbers(arch: Arch) -> list[int]:
    return ["abcd".index(option) for _, (option,) in arch.picks]


def cost(arch: Arch) -> float:
    return float(sum(numbers(arch)))


def gain(arch: Arch) -> float:
    return float(np.sin(np.array(numbers(arch)) * np.arange(1, 6)).sum())


GAIN, COST = Objective("gain", gain, "max"), Objective("cost", cost, at_most=9.0, cheap=True)
OBJECTIVES = (GAIN, COST)


def nsga2(seed: int = 0, objectives: Sequence[Objective] = OBJECTIVES) -> Nsga2:
    return Nsga2(SPACE, objectives, population=10, seed=seed)


def test_a_budget_of_evaluations_is_kept_to_the_last_one() -> None:
    archive = search(nsga2(), OBJECTIVES, evaluations=37, cache={})
    assert [m.generation for m in archive.members] == [i // 10 for i in range(37)]
    longer = search(nsga2(), OBJECTIVES, evaluations=64, cache={})
    assert longer.members[:37] == archive.members
    both = search(nsga2(), OBJECTIVES, generations=2, evaluations=37, cache={})
    assert both.members == archive.members[:20]
    with pytest.raises(ConfigError, match="needs an end"):
        search(nsga2(), OBJECTIVES, cache={})


@pytest.mark.parametrize(
    ("limits", "last"),
    [({"generations": 3}, (30, 30)), ({"evaluations": 25}, (25, 25)), ({"generations": 3, "evaluations": 25}, (25, 25))],
)
def test_progress_counts_architectures(limits: Mapping[str, int], last: tuple[int, int]) -> None:
    shown: list[tuple[int, int]] = []

    def progress(done: int, total: int, note: str = "") -> None:
        shown.append((done, total))

    search(nsga2(), OBJECTIVES, cache={}, progress=progress, **limits)
    assert [done for done, _ in shown] == list(range(1, last[0] + 1))
    assert shown[-1] == last
    assert all(done <= total for done, total in shown)


def test_it_ends_where_the_hypervolume_no_longer_grows() -> None:
    goal = (Objective("cost", cost),)
    archive = search(nsga2(objectives=goal), goal, generations=60, patience=Patience(4), cache={})
    generations = archive.members[-1].generation + 1
    best = np.minimum.accumulate([m.values["cost"] for m in archive.members])[9::10]
    assert generations < 60
    assert best[-1] == best[-5]  # for 4 generations nothing better
    assert all(best[g] < best[g - 4] for g in range(4, generations - 1))  # and not for so long before


def test_patience_does_not_end_before_something_feasible_is_found() -> None:
    impossible = (GAIN, Objective("cost", cost, at_most=-1.0, cheap=True))
    archive = search(nsga2(objectives=impossible), impossible, generations=7, patience=Patience(1), cache={})
    assert archive.members[-1].generation == 6
    with pytest.raises(ConfigError, match="1 generation or more"):
        Patience(0)


def evaluated(workers: int) -> tuple[Archive, dict[str, Mapping[str, float]]]:
    cache: dict[str, Mapping[str, float]] = {}
    with ProcessPoolExecutor(workers) as executor:
        objectives = (GAIN, replace(COST, at_least=2.0))
        return search(nsga2(), objectives, generations=4, cache=cache, executor=executor), cache


def test_the_number_of_workers_changes_nothing() -> None:
    objectives = (GAIN, replace(COST, at_least=2.0))
    cache: dict[str, Mapping[str, float]] = {}
    alone = search(nsga2(), objectives, generations=4, cache=cache)
    for workers in (1, 3):
        archive, kept = evaluated(workers)
        assert archive.members == alone.members
        assert kept == cache


def test_costly_objectives_run_at_the_same_time() -> None:
    together = threading.Barrier(5, timeout=60)  # breaks where fewer than 5 run at once

    def waits(arch: Arch) -> float:
        together.wait()
        return cost(arch)

    goal = (Objective("cost", waits),)
    with ThreadPoolExecutor(5) as executor:
        archive = search(RandomSearch(SPACE, goal, population=5, seed=0), goal, generations=2, cache={}, executor=executor)
    assert len(archive.members) == 10


def test_what_is_evaluated_when_another_fails_is_kept() -> None:
    """One of six fails at once; the others, which run by then, finish and need not be evaluated again."""
    calls: Counter[str] = Counter()
    started = threading.Barrier(6, timeout=60)
    broken = True

    def fails(arch: Arch) -> float:
        calls[arch.key] += 1
        if broken:
            started.wait()
            if arch == archs[2]:
                raise RuntimeError("out of memory")
        return cost(arch)

    goal = (Objective("cost", fails),)
    archs = RandomSearch(SPACE, goal, population=6, seed=0).ask()
    cache: dict[str, Mapping[str, float]] = {}
    with ThreadPoolExecutor(6) as executor, pytest.raises(RuntimeError, match="out of memory"):
        search(RandomSearch(SPACE, goal, population=6, seed=0), goal, generations=1, cache=cache, executor=executor)
    assert len(cache) == 5
    broken = False
    archive = search(RandomSearch(SPACE, goal, population=6, seed=0), goal, generations=1, cache=cache)
    assert [m.arch for m in archive.members] == archs
    assert sorted(calls.values()) == [1, 1, 1, 1, 1, 2]


def test_several_costly_objectives_are_kept_one_by_one() -> None:
    """The second fails for one architecture; the first is not evaluated again."""
    calls: Counter[str] = Counter()

    def first(arch: Arch) -> float:
        calls["first"] += 1
        return cost(arch)

    def second(arch: Arch) -> float:
        calls["second"] += 1
        if calls["second"] == 1:
            raise RuntimeError("killed")
        return gain(arch)

    objectives = (Objective("first", first), Objective("second", second, "max"))
    cache: dict[str, Mapping[str, float]] = {}
    with pytest.raises(RuntimeError):
        search(nsga2(objectives=objectives), objectives, generations=1, cache=cache)
    search(nsga2(objectives=objectives), objectives, generations=1, cache=cache)
    assert calls == {"first": 10, "second": 11}


def test_a_minimum_quality_is_a_limit() -> None:
    objectives = (replace(GAIN, at_least=0.5), COST)
    archive = search(nsga2(objectives=objectives), objectives, generations=8, cache={})
    kept = archive.feasible()
    assert 0 < len(kept) < len(archive.members)
    assert all(m.values["gain"] >= 0.5 for m in kept)


def test_archives_are_text_and_back() -> None:
    archive = search(nsga2(), OBJECTIVES, generations=3, cache={})
    back = Archive.from_json(archive.to_json(), OBJECTIVES)
    assert back == archive
    assert back.hypervolumes() == archive.hypervolumes()
    with pytest.raises(ConfigError, match=r"objectives \['gain', 'cost'\], not \['cost'\]"):
        Archive.from_json(archive.to_json(), (COST,))
    for text in ("", "[]", '{"objectives": ["gain", "cost"], "members": [{"arch": 3}]}'):
        with pytest.raises(DataError, match="no archive of a search"):
            Archive.from_json(text, OBJECTIVES)


SCALE = Scale({"gain": 3.0, "cost": 2.0}, {"gain": 1.0, "cost": 12.0})
FREE = (GAIN, replace(COST, at_most=None))


def test_hypervolume_is_right_for_two_points_on_a_scale() -> None:
    one, other = {"gain": 2.0, "cost": 4.0}, {"gain": 3.0, "cost": 7.0}  # (0.5, 0.2) and (0, 0.5) from the best
    assert hypervolume([one], FREE, SCALE) == pytest.approx(0.6 * 0.9)
    assert hypervolume([one, other], FREE, SCALE) == pytest.approx(0.6 * 0.9 + 0.5 * 0.6)
    beyond = {"gain": 0.5, "cost": 2.0}
    assert hypervolume([one, beyond], FREE, SCALE) == hypervolume([one], FREE, SCALE)
    assert hypervolume([], FREE, SCALE) == 0.0


@given(st.lists(st.tuples(st.integers(0, 8), st.integers(0, 14)), min_size=1, max_size=15))
def test_hypervolume_by_generations_is_that_of_all_members_so_far(points: list[tuple[int, int]]) -> None:
    arch = SPACE.sample(np.random.default_rng(0))
    members = tuple(Evaluated(arch, {"gain": g / 2, "cost": float(c)}, i // 2) for i, (g, c) in enumerate(points))
    volumes = Archive(OBJECTIVES, members).hypervolumes(SCALE)
    for generation, volume in enumerate(volumes):
        kept = [m.values for m in members if m.generation <= generation and m.values["cost"] <= 9.0]
        scaled = np.array([[(3.0 - v["gain"]) / 2.0, (v["cost"] - 2.0) / 10.0] for v in kept]).reshape(-1, 2)
        expected = float(HV(ref_point=np.array([1.1, 1.1]))(scaled)) if len(scaled) else 0.0
        assert volume == pytest.approx(expected)


def test_a_scale_spans_the_values_it_is_of() -> None:
    values = [{"gain": 1.0, "cost": 12.0}, {"gain": 3.0, "cost": 5.0}, {"gain": 2.0, "cost": 2.0}]
    assert Scale.of(values, FREE) == SCALE
    assert SCALE.apply(values, FREE).tolist() == [[1.0, 1.0], [0.0, 0.3], [0.5, 0.0]]
    with pytest.raises(ConfigError, match="one architecture or more"):
        Scale.of([], FREE)


def test_a_searcher_that_asks_for_one_at_a_time() -> None:
    searcher = RegularisedEvolution(SPACE, OBJECTIVES, population=10, seed=0, goal="gain")
    archive = search(searcher, OBJECTIVES, generations=20, cache={})
    assert [m.generation for m in archive.members] == [0] * 10 + list(range(1, 20))
    assert len(archive.hypervolumes()) == 20
