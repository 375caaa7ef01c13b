from __future__ import annotations

import json
import os
import random
import subprocess
import sys
from collections import Counter
from collections.abc import Mapping
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from paceline.arch import Arch, Choice, Space
from paceline.errors import ConfigError, SpaceError
from paceline.pipeline.objectives import Objective, feasible, in_order
from paceline.pipeline.search import Archive, Evaluated, Nsga2, front, search
from paceline.pipeline.search.genome import Genome
from paceline.pipeline.search.proposals import every

SPACE = Space(tuple(Choice(f"layer{i}", ("k3", "k5", "k7", "skip")) for i in range(7)))
COST = {"k3": 2.0, "k5": 3.0, "k7": 5.0, "skip": 0.0}


def cost(arch: Arch) -> float:
    return sum(COST[o] for _, taken in arch.picks for o in taken)


def gain(arch: Arch) -> float:
    """Best where large kernels come late; k5 pays everywhere."""
    return sum({"k3": 1.0, "k5": 1.8, "k7": 0.4 * i, "skip": 0.1}[taken[0]] for i, (_, taken) in enumerate(arch.picks))


LATENCY = Objective("latency", cost, at_most=15.0, cheap=True)
GAIN = Objective("gain", gain, "max")


def run(seed: int = 1, generations: int = 12, cache: dict[str, Mapping[str, float]] | None = None) -> Archive:
    searcher = Nsga2(SPACE, (GAIN, LATENCY), population=16, seed=seed)
    return search(searcher, (GAIN, LATENCY), generations=generations, cache={} if cache is None else cache)


choices = st.integers(1, 5).flatmap(
    lambda n: st.integers(0, n).flatmap(lambda low: st.integers(max(low, 1), n).map(lambda high: (n, low, high)))
)
spaces = st.lists(choices, min_size=1, max_size=6).map(
    lambda cs: Space(tuple(Choice(f"c{i}", tuple(f"o{j}" for j in range(n)), low, high) for i, (n, low, high) in enumerate(cs)))
)


@given(spaces, st.integers(0, 2**32))
def test_genome_and_encoding_round_trip(space: Space, seed: int) -> None:
    rng = np.random.default_rng(seed)
    genome = Genome(space)
    arch = space.sample(rng)
    assert genome.decode(genome.encode(arch)) == arch
    assert space.decode(space.encode(arch)) == arch
    assert Arch.from_json(arch.to_json()) == arch
    genes = rng.integers(0, genome.highest + 1)
    repaired = genome.repair(genes, rng)
    assert np.array_equal(genome.encode(genome.decode(repaired)), repaired)
    legal = genome.encode(arch)
    assert np.array_equal(genome.repair(legal, rng), legal)


@given(spaces.filter(lambda space: space.size <= 2000), st.integers(0, 2**32))
def test_a_space_is_gone_through_whole(space: Space, seed: int) -> None:
    archs = list(every(space))
    assert len(set(archs)) == len(archs) == space.size
    assert space.sample(np.random.default_rng(seed)) in archs


def test_repair_changes_as_little_as_needed_and_is_not_biased() -> None:
    genome = Genome(Space((Choice("c", ("a", "b", "c", "d"), 1, 2),)))
    rng = np.random.default_rng(0)
    kept = Counter()
    for _ in range(400):
        repaired = genome.repair(np.array([1, 1, 1, 0]), rng)
        assert repaired.sum() == 2
        assert repaired[3] == 0
        kept.update(np.flatnonzero(repaired).tolist())
    assert min(kept[i] for i in range(3)) > 220
    with pytest.raises(SpaceError, match="takes 1 to 2"):
        genome.decode(np.array([0, 0, 0, 0]))
    with pytest.raises(SpaceError, match="outside of"):
        genome.decode(np.array([0, 0, 0, 2]))


def test_the_front_keeps_the_limit() -> None:
    members = front(run(generations=20))
    assert members
    assert all(m.values["latency"] <= 15.0 for m in members)


def test_survivors_all_keep_the_limit() -> None:
    searcher = Nsga2(SPACE, (GAIN, LATENCY), population=16, seed=3)
    search(searcher, (GAIN, LATENCY), generations=10, cache={})
    assert len(searcher.population()) == 16
    assert all(cost(a) <= 15.0 for a in searcher.population())


def test_limits_in_both_directions() -> None:
    objectives = (Objective("latency", cost, at_least=6.0, at_most=9.0, cheap=True), Objective("gain", gain, "max", at_least=5.0))
    archive = search(Nsga2(SPACE, objectives, population=16, seed=3), objectives, generations=10, cache={})
    members = front(archive)
    assert members
    assert all(6.0 <= m.values["latency"] <= 9.0 and m.values["gain"] >= 5.0 for m in members)


def test_costly_objectives_are_evaluated_once_and_only_under_the_limit() -> None:
    calls: Counter[Arch] = Counter()

    def counted(arch: Arch) -> float:
        calls[arch] += 1
        assert cost(arch) <= 15.0
        return gain(arch)

    objectives = (Objective("gain", counted, "max"), LATENCY)
    archive = search(Nsga2(SPACE, objectives, population=16, seed=1), objectives, generations=12, cache={})
    assert set(calls.values()) == {1}
    assert 0 < len(calls) < len(archive.members)
    assert all(("gain" in m.values) == (cost(m.arch) <= 15.0) for m in archive.members)


def test_a_killed_search_replays_without_evaluating_again() -> None:
    class Killed(BaseException):
        pass

    cache: dict[str, Mapping[str, float]] = {}
    calls: Counter[str] = Counter()

    def counted(arch: Arch) -> float:
        if killing and len(calls) == 50:
            raise Killed
        calls[arch.key] += 1
        return gain(arch)

    objectives = (Objective("gain", counted, "max"), LATENCY)

    def go() -> Archive:
        return search(Nsga2(SPACE, objectives, population=16, seed=1), objectives, generations=12, cache=cache)

    killing = True
    with pytest.raises(Killed):
        go()
    assert len(calls) == 50
    killing = False
    archive = go()
    assert set(calls.values()) == {1}
    assert archive.members == run().members


def test_values_of_an_earlier_search_with_a_tighter_limit_are_completed() -> None:
    cache: dict[str, Mapping[str, float]] = {}
    tight = (GAIN, Objective("latency", cost, at_most=8.0, cheap=True))
    search(Nsga2(SPACE, tight, population=16, seed=1), tight, generations=1, cache=cache)
    archive = search(Nsga2(SPACE, (GAIN, LATENCY), population=16, seed=1), (GAIN, LATENCY), generations=1, cache=cache)
    assert archive.members == run(generations=1).members


SCRIPT = """
import sys; sys.path.insert(0, {folder!r})
import json
from test_search import run, front
archive = run()
print(json.dumps([[m.arch.key for m in archive.members], [m.arch.key for m in front(archive)], archive.hypervolumes()]))
"""


def test_same_seed_same_search_in_a_second_process_and_nothing_is_printed() -> None:
    env = {**os.environ, "PYTHONHASHSEED": "1" if os.environ.get("PYTHONHASHSEED") != "1" else "2"}
    script = SCRIPT.format(folder=os.path.dirname(__file__))
    other = subprocess.run([sys.executable, "-c", script], env=env, capture_output=True, text=True, check=True, timeout=120)
    archive = run()
    mine = [[m.arch.key for m in archive.members], [m.arch.key for m in front(archive)], archive.hypervolumes()]
    assert json.loads(other.stdout) == mine  # so nothing else was printed either
    assert run(seed=2).members != archive.members


def test_global_generators_are_left_alone() -> None:
    np.random.seed(5)
    random.seed(5)
    before = repr(np.random.get_state()), random.getstate()
    one = run()
    assert before == (repr(np.random.get_state()), random.getstate())
    np.random.seed(6)
    assert run().members == one.members


def test_hypervolume_never_falls_and_is_right_for_two_points() -> None:
    volumes = run().hypervolumes()
    assert len(volumes) == 12
    assert all(b >= a for a, b in pairwise(volumes))
    assert volumes[-1] > volumes[0]
    arch = SPACE.sample(np.random.default_rng(0))
    two = Archive(
        (GAIN, LATENCY), (Evaluated(arch, {"gain": 1.0, "latency": 2.0}, 0), Evaluated(arch, {"gain": 3.0, "latency": 12.0}, 1))
    )
    assert two.hypervolumes() == pytest.approx([1.1 * 0.1, 1.1 * 0.1 * 2 - 0.1 * 0.1])


def test_no_member_under_the_limit() -> None:
    impossible = (GAIN, Objective("latency", cost, at_most=-1.0, cheap=True))
    archive = search(Nsga2(SPACE, impossible, population=8, seed=1), impossible, generations=3, cache={})
    assert front(archive) == []
    assert archive.hypervolumes() == [0.0, 0.0, 0.0]
    assert len(archive.members) == 24


def test_one_objective_without_limit() -> None:
    goal = (Objective("latency", cost),)
    archive = search(Nsga2(SPACE, goal, population=8, seed=1), goal, generations=15, cache={})
    assert [m.values["latency"] for m in front(archive)] == [min(m.values["latency"] for m in archive.members)]
    assert archive.hypervolumes()[-1] == pytest.approx(1.1)


@settings(max_examples=50)
@given(st.lists(st.tuples(st.integers(0, 5), st.integers(0, 5)), min_size=1, max_size=12))
def test_front_is_what_nothing_dominates(values: list[tuple[int, int]]) -> None:
    arch = SPACE.sample(np.random.default_rng(0))
    free = (Objective("a", cost), Objective("b", cost, "max"))
    archive = Archive(free, tuple(Evaluated(arch, {"a": float(a), "b": float(b)}, 0) for a, b in values))
    found = {(m.values["a"], m.values["b"]) for m in front(archive)}
    expected = {(a, b) for a, b in values if not any(c <= a and d >= b and (c, d) != (a, b) for c, d in values)}
    assert found == expected


def test_mistakes_are_named() -> None:
    with pytest.raises(ConfigError, match="different names"):
        search(Nsga2(SPACE, (GAIN,), population=4, seed=0), (GAIN, GAIN), generations=1, cache={})
    with pytest.raises(ConfigError, match="population of 1"):
        Nsga2(SPACE, (GAIN,), population=1, seed=0)
    with pytest.raises(ConfigError, match="it is 'min' or 'max'"):
        Objective("a", cost, "least")  # type: ignore[arg-type]
    nan = (Objective("nan", lambda a: float("nan")),)
    cache: dict[str, Mapping[str, float]] = {}
    with pytest.raises(SpaceError, match="'nan' is nan for architecture"):
        search(Nsga2(SPACE, nan, population=4, seed=0), nan, generations=1, cache=cache)
    assert not cache
    searcher = Nsga2(SPACE, (GAIN,), population=4, seed=0)
    archs = searcher.ask()
    with pytest.raises(SpaceError, match="last ask"):
        searcher.tell(archs[:2], [{"gain": 1.0}] * 2)


def test_objectives_know_their_order_and_limits() -> None:
    assert in_order((GAIN, LATENCY)) == [LATENCY, GAIN]
    assert LATENCY.violations(18.0) == [pytest.approx(0.2)]
    assert feasible({"latency": 15.0, "gain": 0.0}, (GAIN, LATENCY))
    assert not feasible({"latency": 15.1, "gain": 0.0}, (GAIN, LATENCY))
    assert not feasible({"latency": 1.0}, (GAIN, LATENCY))
