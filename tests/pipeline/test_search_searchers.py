"""Every searcher against known optima, mutations, and the weighted crowding distance against pymoo's own."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pymoo.core.population import Population
from pymoo.core.problem import Problem
from pymoo.operators.survival.rank_and_crowding import RankAndCrowding

from paceline.arch import Arch, Choice, Space
from paceline.errors import ConfigError, LimitError, SpaceError
from paceline.pipeline.objectives import Objective, keeps_cheap_limits
from paceline.pipeline.search import (
    HierarchicalMutation,
    LocalSearch,
    Mutation,
    Nsga2,
    OneChoiceMutation,
    RandomSearch,
    RegularisedEvolution,
    ResetMutation,
    RouletteMutation,
    Searcher,
    WeightedCrowding,
    search,
)
from paceline.pipeline.search.genome import Genes, Genome
from paceline.pipeline.testing import check_searcher

Make = Callable[[Space, Sequence[Objective], int], Searcher]

MIXED = Space(
    (
        Choice("one", ("a", "b", "c")),
        Choice("pair", ("p", "q", "r"), 2, 2),
        Choice("any", ("x", "y"), 0, 2),
        Choice("fixed", ("only",)),
    )
)
CHAIN = Space(tuple(Choice(f"layer{i}", ("k3", "k5", "k7", "skip")) for i in range(7)))
SEARCHERS: dict[str, Make] = {
    "random": lambda space, objectives, seed: RandomSearch(space, objectives, population=8, seed=seed),
    "nsga2": lambda space, objectives, seed: Nsga2(space, objectives, population=8, seed=seed),
    "nsga2, rejection": lambda space, objectives, seed: Nsga2(
        space, objectives, population=8, seed=seed, only=keeps_cheap_limits(objectives)
    ),
    "nsga2, hierarchical": lambda space, objectives, seed: Nsga2(
        space, objectives, population=8, seed=seed, mutation=hierarchical(space)
    ),
    "evolution": lambda space, objectives, seed: RegularisedEvolution(space, objectives, population=8, seed=seed, goal=None),
    "evolution, batches": lambda space, objectives, seed: RegularisedEvolution(
        space, objectives, population=8, sample=3, batch=4, seed=seed, only=keeps_cheap_limits(objectives)
    ),
    "local": lambda space, objectives, seed: LocalSearch(space, objectives, population=4, seed=seed),
}


def hierarchical(space: Space) -> Mutation:
    costs = {(c.name, o): float(i) for c in space.choices for i, o in enumerate(c.options)}
    return HierarchicalMutation(ResetMutation(), HierarchicalMutation(OneChoiceMutation(), RouletteMutation(space, [costs])))


_MS, _GAINS = np.random.default_rng(0).random((2, 7, 4))


def numbers(arch: Arch) -> list[int]:
    return [c.options.index(arch[c.name][0]) for c in CHAIN.choices]


def total(arch: Arch) -> float:
    """Milliseconds: one of a table per layer."""
    return float(_MS[range(7), numbers(arch)].sum())


def gain(arch: Arch) -> float:
    """Another table's sum and a bonus for neighbours that agree."""
    taken = numbers(arch)
    return float(_GAINS[range(7), taken].sum()) + 0.2 * sum(a == b for a, b in pairwise(taken))


GAIN, TOTAL = Objective("gain", gain, "max"), Objective("total", total, at_most=3.0, cheap=True)


@pytest.mark.parametrize("name", SEARCHERS)
def test_it_is_a_searcher(name: str) -> None:
    check_searcher(SEARCHERS[name])


class Faulty:
    """Random search with one fault."""

    def __init__(self, fault: str, space: Space, objectives: Sequence[Objective], seed: int) -> None:
        self.fault = fault
        self.inner = RandomSearch(space, objectives, population=8, seed=0 if fault == "another seed proposes the same" else seed)
        self.first: list[Arch] = []

    def ask(self) -> list[Arch]:
        archs = self.inner.ask()
        if self.fault == "numpy's global generator":
            np.random.random()
        if self.fault == "proposes an architecture twice":
            self.first = archs = self.first or archs
        if self.fault == "space asks" and archs:
            return [Arch(archs[0].picks[1:]), *archs[1:]]
        return archs

    def tell(self, archs: Sequence[Arch], scores: Sequence[Mapping[str, float]]) -> None:
        if self.fault in ("other architectures than it asked for", "proposes an architecture twice"):
            return
        self.inner.tell(archs, scores)


@pytest.mark.parametrize(
    "fault",
    [
        "another seed proposes the same",
        "numpy's global generator",
        "proposes an architecture twice",
        "space asks",
        "other architectures than it asked for",
    ],
)
def test_the_check_finds_faults(fault: str) -> None:
    with pytest.raises((AssertionError, SpaceError, KeyError), match=fault):
        check_searcher(lambda space, objectives, seed: Faulty(fault, space, objectives, seed))


@pytest.mark.parametrize("name", [name for name in SEARCHERS if name != "random"])
def test_it_finds_better_ones_than_random_search(name: str) -> None:
    """Of 16,384 architectures 200 are evaluated: the mean over 8 seeds is above random search's."""

    def found(make: Make) -> float:
        objectives = (GAIN, TOTAL)
        runs = [search(make(CHAIN, objectives, seed), objectives, evaluations=200, cache={}) for seed in range(8)]
        return float(np.mean([max(m.values["gain"] for m in run.feasible()) for run in runs]))

    assert found(SEARCHERS[name]) > found(SEARCHERS["random"])


@pytest.mark.parametrize("name", ["nsga2, rejection", "evolution, batches"])
def test_what_is_rejected_is_never_proposed(name: str) -> None:
    archive = search(SEARCHERS[name](CHAIN, (GAIN, TOTAL), 0), (GAIN, TOTAL), evaluations=100, cache={})
    assert len(archive.feasible()) == len(archive.members) == 100
    nothing = (GAIN, Objective("total", total, at_most=-1.0, cheap=True))
    with pytest.raises(LimitError, match=r"none of .* keeps the limits"):
        SEARCHERS[name](CHAIN, nothing, 0).ask()


def test_rejection_looks_at_cheap_limits_alone() -> None:
    def costly(arch: Arch) -> float:
        raise AssertionError("evaluated")

    passes = keeps_cheap_limits((Objective("accuracy", costly, "max", at_least=0.9), TOTAL))
    archs = [CHAIN.sample(np.random.default_rng(i)) for i in range(30)]
    assert [passes(a) for a in archs] == [total(a) <= 3.0 for a in archs]


@pytest.mark.parametrize("mutation", [ResetMutation(), ResetMutation(1.0), OneChoiceMutation(), hierarchical(MIXED)])
@settings(max_examples=30)
@given(seed=st.integers(0, 2**32))
def test_mutations_make_architectures(mutation: Mutation, seed: int) -> None:
    genome, rng = Genome(MIXED), np.random.default_rng(seed)
    genes = genome.encode(MIXED.sample(rng))
    before = genes.copy()
    changed = mutation.mutate(genes, genome, rng)
    assert np.array_equal(genes, before)
    MIXED.check(genome.decode(changed))


def differing(genome: Genome, one: Genes, other: Genes) -> list[str]:
    return [c.name for c, part in genome.parts if not np.array_equal(one[part], other[part])]


def test_one_choice_is_mutated_and_always_changed() -> None:
    genome, rng = Genome(MIXED), np.random.default_rng(0)
    genes = genome.encode(MIXED.sample(rng))
    changed = [differing(genome, genes, OneChoiceMutation().mutate(genes, genome, rng)) for _ in range(300)]
    assert all(len(names) == 1 for names in changed)
    counts = Counter(name for (name,) in changed)
    assert set(counts) == {"one", "pair", "any"}
    assert min(counts.values()) > 70
    fixed = Genome(Space((Choice("fixed", ("only",)),)))
    assert OneChoiceMutation().mutate(np.array([0]), fixed, rng).tolist() == [0]


def test_neighbours_are_all_that_differ_in_one_step() -> None:
    genome = Genome(MIXED)
    start = Arch((("one", ("a",)), ("pair", ("p", "q")), ("any", ("x",)), ("fixed", ("only",))))
    found = {genome.decode(genes) for genes in genome.neighbours(genome.encode(start))}
    expected = {("one", o) for o in (("b",), ("c",))}
    expected |= {("pair", o) for o in (("p", "r"), ("q", "r"))}
    expected |= {("any", o) for o in ((), ("x", "y"), ("y",))}  # type: ignore[arg-type]
    assert found == {Arch(tuple((n, o if n == name else taken) for n, taken in start.picks)) for name, o in expected}


def test_the_roulette_prefers_what_is_cheap_and_with_dear_what_is_not() -> None:
    """One free choice: the wheel's shares are 1/cost over their sum; what costs nothing counts like the cheapest."""
    space = Space((Choice("c", ("skip", "k3", "k5", "k7")),))
    genome, rng = Genome(space), np.random.default_rng(0)
    costs = {("c", "skip"): 0.0, ("c", "k3"): 1.0, ("c", "k5"): 2.0, ("c", "k7"): 4.0}

    def shares(mutation: Mutation) -> list[float]:
        drawn = Counter(int(mutation.mutate(np.array([0]), genome, rng)[0]) for _ in range(4000))
        return [drawn[i] / 4000 for i in range(4)]

    weights = np.array([1, 1, 1 / 2, 1 / 4])
    assert shares(RouletteMutation(space, [costs])) == pytest.approx(weights / weights.sum(), abs=0.03)
    assert shares(RouletteMutation(space, [], dear=[costs])) == pytest.approx(np.array([1, 1, 2, 4]) / 8, abs=0.03)


def test_the_roulette_lowers_what_children_cost() -> None:
    space = Space(tuple(Choice(f"c{i}", ("k3", "k5", "k7")) for i in range(6)))
    genome, rng = Genome(space), np.random.default_rng(0)
    costs = {(c.name, o): float(4**i) for c in space.choices for i, o in enumerate(c.options)}
    parents = [genome.encode(space.sample(rng)) for _ in range(400)]

    def cost(mutation: Mutation) -> float:
        return float(np.mean([np.sum(4.0 ** mutation.mutate(genes, genome, rng)) for genes in parents]))

    assert cost(RouletteMutation(space, [costs])) < cost(OneChoiceMutation())


def test_the_hierarchy_draws_its_kinds_by_their_share() -> None:
    class Named:
        def __init__(self, value: int) -> None:
            self.value = value

        def mutate(self, genes: Genes, genome: Genome, rng: np.random.Generator) -> Genes:
            return np.full_like(genes, self.value)

    mutation = HierarchicalMutation(Named(0), HierarchicalMutation(Named(1), Named(2), 0.25), 0.6)
    genome, rng = Genome(CHAIN), np.random.default_rng(0)
    drawn = Counter(int(mutation.mutate(np.zeros(7, np.int64), genome, rng)[0]) for _ in range(4000))
    assert [drawn[i] / 4000 for i in range(3)] == pytest.approx([0.6, 0.1, 0.3], abs=0.03)


def test_crossover_exchanges_whole_choices() -> None:
    """Without mutation children hold, choice by choice, what the first population held: several 0/1 genes stay together."""

    class Nothing:
        def mutate(self, genes: Genes, genome: Genome, rng: np.random.Generator) -> Genes:
            return genes

    space = Space(tuple(Choice(f"c{i}", ("p", "q", "r", "s"), 2, 2) for i in range(8)))
    goal = (Objective("first", lambda a: float(sum(taken == ("p", "q") for _, taken in a.picks)), "max"),)
    searcher = Nsga2(space, goal, population=4, seed=0, mutation=Nothing())
    first = searcher.ask()
    held = {pick for arch in first for pick in arch.picks}
    searcher.tell(first, [{"first": goal[0].of(a)} for a in first])
    second = searcher.ask()
    assert len(second) == 4
    assert {pick for arch in second for pick in arch.picks} <= held


points = st.integers(1, 4).flatmap(
    lambda columns: st.lists(st.lists(st.integers(0, 6).map(float), min_size=columns, max_size=columns), min_size=1, max_size=25)
)


@given(points, st.floats(0.01, 100))
def test_with_equal_weights_it_is_pymoos_crowding_distance_to_the_last_bit(values: list[list[float]], weight: float) -> None:
    f = np.array(values) * np.pi
    mine = WeightedCrowding([weight] * f.shape[1]).do(f)
    theirs = RankAndCrowding(crowding_func="cd").crowding_func.do(f)
    assert np.array_equal(mine, theirs)


@settings(max_examples=50)
@given(points, st.integers(0, 2**31))
def test_with_equal_weights_the_same_survive_as_with_pymoos_nsga2(values: list[list[float]], seed: int) -> None:
    f = np.array(values)
    problem = Problem(n_var=1, n_obj=f.shape[1], xl=0, xu=1)

    def survivors(survival: RankAndCrowding) -> list[int]:
        population = Population.new("X", np.arange(len(f))[:, None], "F", f)
        kept = survival.do(problem, population, n_survive=max(1, len(f) // 2), random_state=np.random.default_rng(seed))
        return [int(x) for x in kept.get("X")[:, 0]]

    weighted = RankAndCrowding(crowding_func=WeightedCrowding([0.3] * f.shape[1]))
    assert survivors(weighted) == survivors(RankAndCrowding())


def retained(weights: list[float], at_once: int) -> npt.NDArray[np.float64]:
    """25 of 200 points of one front along which two objectives are exchanged unevenly; so many are dropped at a time."""
    at = np.sort(np.random.default_rng(0).random(200))
    front = np.stack([at, (1 - at**3)], axis=1)
    survival = RankAndCrowding(crowding_func=WeightedCrowding(weights))
    problem = Problem(n_var=1, n_obj=2, xl=0, xu=1)
    population = Population.new("X", np.arange(200)[:, None], "F", front)
    while len(population) > 25:
        left = max(25, len(population) - at_once)
        population = survival.do(problem, population, n_survive=left, random_state=np.random.default_rng(0))
    return np.sort(population.get("F"), axis=0)


@pytest.mark.parametrize("objective", [0, 1])
def test_a_larger_weight_makes_what_is_retained_denser_along_that_objective(objective: int) -> None:
    """The mean gap of neighbours along an objective, each gap counted by its length: small where no stretch is left empty."""

    def sparseness(weights: list[float]) -> float:
        gaps = np.diff(retained(weights, at_once=1)[:, objective])
        return float(np.sum(gaps**2) / np.sum(gaps))

    favoured, other = [1.0, 1.0], [1.0, 1.0]
    favoured[objective], other[1 - objective] = 9.0, 9.0
    assert sparseness(favoured) < sparseness([1.0, 1.0]) < sparseness(other)


def test_an_objective_of_weight_0_does_not_count() -> None:
    f = np.array([[0.0, 5.0, 3.0], [1.0, 1.0, 2.0], [3.0, 0.0, 7.0], [7.0, 4.0, 1.0]])
    assert np.array_equal(WeightedCrowding([2.0, 0.0, 2.0]).do(f), WeightedCrowding([1.0, 1.0]).do(f[:, [0, 2]]))


def test_weights_change_what_nsga2_proposes() -> None:
    def proposed(weight: float) -> list[Arch]:
        objectives = (Objective("gain", gain, "max", weight=weight), TOTAL)
        archive = search(Nsga2(CHAIN, objectives, population=12, seed=0), objectives, generations=8, cache={})
        return [m.arch for m in archive.members]

    assert proposed(9.0) != proposed(1.0)


def test_evolution_ages() -> None:
    """Of a population of 3 none of the first is a parent after three children, although they were by far the best."""
    genome = Genome(CHAIN)
    searcher = RegularisedEvolution(CHAIN, (Objective("gain", gain, "max"),), population=3, sample=3, seed=0)
    first = searcher.ask()
    searcher.tell(first, [{"gain": 100.0}] * 3)
    living = list(first)
    for age in range(20):
        (child,) = searcher.ask()
        nearest = min(len(differing(genome, genome.encode(child), genome.encode(a))) for a in living[-3:])
        assert nearest <= 2, f"child {age} is of none that lives"  # 2 where it was known and was mutated again
        living.append(child)
        searcher.tell([child], [{"gain": float(age)}])
    assert min(len(differing(genome, genome.encode(living[-1]), genome.encode(a))) for a in first) > 2


def test_local_search_climbs_to_an_optimum_and_restarts() -> None:
    """It asks for neighbours of the best that it can walk to, and restarts only where none of them is better."""
    genome = Genome(CHAIN)
    searcher = LocalSearch(CHAIN, (Objective("gain", gain, "max"),), population=3, seed=1)
    known: dict[Arch, float] = {}
    at: Arch | None = None
    starts = 0

    def around(arch: Arch) -> set[Arch]:
        return {genome.decode(genes) for genes in genome.neighbours(genome.encode(arch))}

    for _ in range(60):
        archs = searcher.ask()
        while at is not None and around(at) <= known.keys():
            best = max(around(at), key=known.__getitem__)
            at = best if known[best] > known[at] else None
        starts += at is None
        assert len(archs) == 3 if at is None else set(archs) == around(at) - known.keys()
        told = {a: gain(a) for a in archs}
        known |= told
        at = max(told, key=told.__getitem__) if at is None else at
        searcher.tell(archs, [{"gain": told[a]} for a in archs])
    assert starts >= 3


def test_mistakes_are_named() -> None:
    objectives = (GAIN, TOTAL)
    with pytest.raises(ConfigError, match="the goal is 'speed', the objectives are gain, total"):
        LocalSearch(CHAIN, objectives, population=4, seed=0, goal="speed")
    with pytest.raises(ConfigError, match="1 <= sample <= population"):
        RegularisedEvolution(CHAIN, objectives, population=4, sample=5, seed=0)
    with pytest.raises(ConfigError, match="proposes nothing"):
        RandomSearch(CHAIN, objectives, population=0, seed=0)
    with pytest.raises(ConfigError, match="not all 0"):
        WeightedCrowding([0.0, 0.0])
    with pytest.raises(ConfigError, match="above 0 and up to 1"):
        ResetMutation(0.0)
    with pytest.raises(ConfigError, match=r"lies in 0…1, got 1\.5"):
        HierarchicalMutation(ResetMutation(), ResetMutation(), 1.5)
    with pytest.raises(SpaceError, match="no cost of option 'k5' of choice 'layer0'"):
        RouletteMutation(CHAIN, [{("layer0", "k3"): 1.0}])
    with pytest.raises(SpaceError, match="finite and not below 0"):
        RouletteMutation(CHAIN, [{(c.name, o): -1.0 for c in CHAIN.choices for o in c.options}])
    with pytest.raises(SpaceError, match="another space"):
        hierarchical(MIXED).mutate(np.zeros(7, np.int64), Genome(CHAIN), Stuck())  # type: ignore[arg-type]


class Stuck:
    """Draws the second branch always."""

    def random(self) -> float:
        return 1.0
