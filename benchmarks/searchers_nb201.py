"""Searchers against known optima: the most accurate architecture under a latency limit, and the front of accuracy and latency.

    python benchmarks/searchers_nb201.py --data FOLDER [--seeds 20] [--evaluations 500] [--reject] [--json FILE]
    python benchmarks/searchers_nb201.py --data FOLDER --space nasbench_macro

NAS-Bench-201 has five limits: on each of five devices what 30 % of all architectures keep. NAS-Bench-Macro has no latencies, so
its limits are on FLOPs and on parameters. Every proposal counts as an evaluation, also one that breaks the limit; with --reject
limits are known before, nothing that breaks them is proposed, and random search doesn't either.

Regret: accuracy of the best architecture under the limit less that of the best one found, in percent of the images. Hypervolume:
on the scale of the table's Pareto front under the limit, relative to that front's. Seeds of searchers are compared with the same
seeds of random search. Regularised evolution has the paper's settings. NSGA-II's population of 20 is as good as one of 10, and
better than one of 40, on six devices that are not among the five.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.table import Table
from scipy import stats

from paceline.arch import Space
from paceline.pipeline.objectives import Objective, keeps_cheap_limits
from paceline.pipeline.search import (
    Archive,
    Evaluated,
    HierarchicalMutation,
    LocalSearch,
    Nsga2,
    OptionCosts,
    RandomSearch,
    RegularisedEvolution,
    ResetMutation,
    RouletteMutation,
    Scale,
    Searcher,
    front,
    hypervolume,
    search,
)
from paceline.pipeline.spaces.tabular import NB201_TASKS, Tabular, nasbench201, nasbench_macro
from paceline.progress import progress

DEVICES = ("pixel2", "pixel3", "raspi4", "samsung_a50", "eyeriss")
RANDOM = "random"
Make = Callable[[int], Searcher]


@dataclass(frozen=True)
class Result:
    limit: str
    searcher: str
    seed: int
    regret: float
    hypervolume: float
    seconds: float


def searchers(tabular: Tabular, name: str, objectives: Sequence[Objective], reject: bool) -> dict[str, Make]:
    """What is compared, by name, each made from a seed."""
    space: Space = tabular.space
    only = keeps_cheap_limits(objectives) if reject else None
    roulette = RouletteMutation(space, [marginal_costs(tabular, name)])
    hierarchical = HierarchicalMutation(ResetMutation(), roulette)
    return {
        RANDOM: lambda seed: RandomSearch(space, objectives, population=20, seed=seed, only=only),
        "local search": lambda seed: LocalSearch(space, objectives, population=10, seed=seed, only=only),
        "regularised evolution": lambda seed: RegularisedEvolution(space, objectives, population=100, seed=seed, only=only),
        "nsga2": lambda seed: Nsga2(space, objectives, population=20, seed=seed, only=only),
        "nsga2, hierarchical mutation": lambda seed: Nsga2(
            space, objectives, population=20, seed=seed, mutation=hierarchical, only=only
        ),
        "nsga2, accuracy weighs 2:1": lambda seed: Nsga2(
            space, [weighted(o) for o in objectives], population=20, seed=seed, only=only
        ),
    }


def weighted(objective: Objective) -> Objective:
    return replace(objective, weight=2.0 if objective.name == "accuracy" else 1.0)


def marginal_costs(tabular: Tabular, name: str) -> OptionCosts:
    """What an option adds to the cost in the mean over all architectures, compared with the cheapest one of its choice."""
    grid = tabular.costs[name].reshape([len(c.options) for c in tabular.space.choices])
    costs: dict[tuple[str, str], float] = {}
    for i, choice in enumerate(tabular.space.choices):
        means = grid.mean(axis=tuple(j for j in range(grid.ndim) if j != i))
        costs |= {(choice.name, o): float(m - means.min()) for o, m in zip(choice.options, means, strict=True)}
    return costs


def compare(
    tabular: Tabular, name: str, share: float, evaluations: int, seeds: int, reject: bool, say: Callable[[str], None]
) -> list[Result]:
    """Every searcher under the limit that a `share` of the table keeps of this cost."""
    limit = tabular.quantile(name, share)
    objectives = (
        Objective("accuracy", tabular.quality_of, "max"),
        Objective("cost", tabular.cost(name), at_most=limit, cheap=True),
    )
    best = tabular.quality_of(tabular.best({name: limit}))
    values = [{"accuracy": float(q), "cost": float(c)} for q, c in zip(tabular.quality, tabular.costs[name], strict=True)]
    every = Archive(objectives, tuple(Evaluated(tabular.arch(i), v, 0) for i, v in enumerate(values) if v["cost"] <= limit))
    optimal = [m.values for m in front(every)]
    scale = Scale.of(optimal, objectives)
    whole = hypervolume(optimal, objectives, scale)
    results = []
    for searcher, make in searchers(tabular, name, objectives, reject).items():
        for seed in range(seeds):
            start = time.perf_counter()
            found = search(make(seed), objectives, evaluations=evaluations, cache={}).feasible()
            seconds = time.perf_counter() - start
            regret = best - max((m.values["accuracy"] for m in found), default=0.0)
            volume = hypervolume([m.values for m in found], objectives, scale) / whole
            results.append(Result(f"{name} {limit:.4g}", searcher, seed, regret, volume, seconds))
        say(f"{name}: {searcher}")
    return results


def show(results: Sequence[Result]) -> Table:
    table = Table(
        "limit",
        "searcher",
        "regret, mean ± sd",
        "95 %",
        "less than random's by (95 %)",
        "hypervolume, mean",
        "min",
        "at least random's",
        "s a run",
    )
    for limit in dict.fromkeys(r.limit for r in results):
        by_name: dict[str, list[Result]] = {}
        for r in results:
            if r.limit == limit:
                by_name.setdefault(r.searcher, []).append(r)
        base = by_name[RANDOM]
        for i, (name, rows) in enumerate(by_name.items()):
            regrets, volumes = np.array([r.regret for r in rows]), np.array([r.hypervolume for r in rows])
            gained = np.array([b.regret for b in base]) - regrets
            at_least = int(np.sum(volumes >= np.array([b.hypervolume for b in base])))
            table.add_row(
                "" if i else limit,
                name,
                f"{regrets.mean():.3f} ± {regrets.std(ddof=1):.3f}",
                interval(regrets),
                "" if name == RANDOM else f"{gained.mean():.3f} ({interval(gained)})",
                f"{volumes.mean():.4f}",
                f"{volumes.min():.4f}",
                "" if name == RANDOM else f"{at_least} of {len(rows)}",
                f"{np.mean([r.seconds for r in rows]):.2f}",
                end_section=name == list(by_name)[-1],
            )
    return table


def interval(values: np.ndarray) -> str:
    """Student's 95 % interval of the mean over seeds."""
    half = float(stats.t.ppf(0.975, len(values) - 1) * values.std(ddof=1) / np.sqrt(len(values)))
    return f"{values.mean() - half:.3f} to {values.mean() + half:.3f}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="the folder that holds nb201 and nb_macro")
    parser.add_argument("--space", choices=("nasbench201", "nasbench_macro"), default="nasbench201")
    parser.add_argument("--task", choices=NB201_TASKS, default=NB201_TASKS[0], help="of NAS-Bench-201")
    parser.add_argument("--limits", nargs="+", metavar="COST", help=f"devices or counts; default {' '.join(DEVICES)}")
    parser.add_argument("--share", type=float, default=0.3, help="of all architectures that keep each limit")
    parser.add_argument("--evaluations", type=int, default=500)
    parser.add_argument("--seeds", type=int, default=20)
    parser.add_argument("--reject", action="store_true", help="propose nothing that breaks the limit")
    parser.add_argument("--json", type=Path, metavar="FILE", help="every run")
    options = parser.parse_args()
    macro = options.space == "nasbench_macro"
    tabular = nasbench_macro(options.data) if macro else nasbench201(options.data, options.task)
    limits = options.limits or (("flops", "params") if macro else DEVICES)
    results: list[Result] = []
    with progress("searches") as shown:
        done = 0

        def say(note: str) -> None:
            nonlocal done
            done += 1
            shown(done, 6 * len(limits), note)

        for name in limits:
            results += compare(tabular, name, options.share, options.evaluations, options.seeds, options.reject, say)
    print(f"{tabular.name}: {tabular.space.size} architectures, {options.share:.0%} of them keep each limit")
    proposed = "evaluations that all keep the limit" if options.reject else "evaluations"
    print(f"{options.evaluations} {proposed}, {options.seeds} seeds")
    Console(width=None if sys.stdout.isatty() else 170).print(show(results))
    if options.json:
        options.json.write_text(json.dumps([asdict(r) for r in results], indent=1))


if __name__ == "__main__":
    main()
