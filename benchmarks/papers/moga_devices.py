"""MoGA's claims (Chu et al. 2020): devices order networks differently, so search for each; many parameters need not cost time.

    python benchmarks/papers/moga_devices.py [--targets DEVICE:DELEGATE DEVICE:DELEGATE] [--seeds 5] [--budget small|default]
        [--data FOLDER] [--json FILE]

A target is a simulated phone's profile or "local" (this machine), with a delegate. On both, the operators of the space and 100
random whole networks are measured; a table of the operators gives the milliseconds that a search sees. Then, with the one-shot
accuracy of a strictly fair supernet: NSGA-II on accuracy and milliseconds of the first target, the same of the second, and on the
first with parameters to maximise as a third objective, plain and with MoGA's weights (0.4, 0.4, 0.2) in the crowding distance.
Figures of simulated phones are invented; what they can show is what a search makes of two devices that differ.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing, nullcontext
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
from common import BATCH, Job, Result, epochs_of, load, results
from reporting import Estimate, Floats, Rankings, Report, mean, options_of, parser, verdict

from paceline.arch import Arch, Space
from paceline.devices.device import Device
from paceline.devices.kinds.local import open_local
from paceline.devices.kinds.simulated import open_simulated
from paceline.graph import macs_of, params_of
from paceline.latency_models.collection.collect import Collector
from paceline.latency_models.space_latency import SpaceLatency
from paceline.measurement import silent
from paceline.pipeline.latency import fit_predictors
from paceline.pipeline.networks import Builder
from paceline.pipeline.objectives import Objective
from paceline.pipeline.operators import space_operators
from paceline.pipeline.search import Nsga2, Scale, front, hypervolume, search
from paceline.pipeline.spaces import SPACES, Chain
from paceline.pipeline.supernet import StrictFair, train_supernet
from paceline.pipeline.supernet.evaluate import OneShot
from paceline.pipeline.tasks import Task
from paceline.seeds import Seeds
from paceline.store import Store

SIZE = 16
LR = 0.1
WEIGHTS = {"accuracy": 0.4, "ms": 0.4, "params": 0.2}


@dataclass(frozen=True)
class Budget:
    networks: int
    fit_networks: int
    updates: int
    population: int
    generations: int


BUDGETS = {"tiny": Budget(4, 4, 2, 4, 2), "small": Budget(40, 10, 128, 16, 6), "default": Budget(100, 12, 320, 30, 12)}
Costs = Mapping[str, float]
"""What each option of each choice adds ("choice option"), and what every network costs ("")."""


def chain_for(task: Task) -> Chain:
    return SPACES["moga_small"].chain.for_images(task.channels, len(task.classes), task.image_size)


def opened(name: str) -> Device:
    return open_local() if name == "local" else open_simulated(name, name, seed=1)


def measure(data: str, targets: Sequence[str], networks: int, fit_networks: int) -> Result:
    """What networks cost on each target, measured and by the table, and what each option costs by the table; their parameters."""
    task = load(data, SIZE)
    net = chain_for(task).supernet(0)
    operators = space_operators(net, task.example())
    with tempfile.TemporaryDirectory() as place, Store(Path(place) / "store.sqlite") as store:
        builder = Builder(net, operators, task.example(), Path(place) / "networks", Seeds(0))
        found = {target: _measured(target, builder, store, networks, fit_networks) for target in targets}
    return {"targets": found, "params": costs(operators.space, lambda arch: float(params_of(operators.of(arch))))}


def _measured(target: str, builder: Builder, store: Store, networks: int, fit_networks: int) -> Result:
    name, _, delegate = target.partition(":")
    with closing(opened(name)) as device:
        collector = Collector(device, device.default_bench(delegate), store, builder.folder / "operators")
        fitted = fit_predictors(
            builder,
            collector,
            fit_networks=fit_networks,
            test_networks=networks,
            confidence=0.9,
            seeds=builder.seeds,
            show=lambda _: nullcontext(silent),
        )
        is_simulated = device.info.simulated
    archs = [network.arch for network in fitted.test.networks]
    latency = SpaceLatency(fitted.table, builder.operators)
    return {
        "simulated": is_simulated,
        "measured": fitted.test.measured.tolist(),
        "predicted": latency.predict(archs).ms.tolist(),
        "noise": fitted.test.noise_floor,
        "macs": [macs_of(builder.operators.of(arch)) for arch in archs],
        "ms": costs(latency.space, lambda arch: float(latency.predict([arch]).ms[0])),
    }


def costs(space: Space, of: Callable[[Arch], float]) -> dict[str, float]:
    """The parts of something that is additive over choices, checked on random architectures."""
    first = {c.name: c.options[0] for c in space.choices}

    def total(picks: Mapping[str, str]) -> float:
        return of(Arch(tuple((name, (option,)) for name, option in picks.items())))

    base = total(first)
    found = {f"{c.name} {o}": total({**first, c.name: o}) - base for c in space.choices for o in c.options} | {"": base}
    rng = np.random.default_rng(0)
    for arch in (space.sample(rng) for _ in range(20)):
        if not np.isclose(cost(arch, found), of(arch), rtol=1e-6):
            raise ValueError(f"{of(arch)} of {arch.key} is not the sum {cost(arch, found)} of what its options add")
    return found


def cost(arch: Arch, parts: Costs) -> float:
    return parts[""] + sum(parts[f"{name} {option}"] for name, options in arch.picks for option in options)


def explore(
    data: str, epochs: int, population: int, generations: int, seed: int, ms: Mapping[str, Costs], params: Costs
) -> Result:
    """A supernet, and the fronts of four searches in it."""
    task = load(data, SIZE)
    net = chain_for(task).supernet(seed)
    train_supernet(net, StrictFair(), task, epochs=epochs, batch=BATCH, lr=LR, seed=seed)
    accuracy = cache(OneShot(net, task, seed=seed, calibration=2).accuracy)
    first, second = ms

    def found(target: str, weights: Mapping[str, float]) -> list[Result]:
        objectives = [
            Objective("accuracy", accuracy, "max", weight=weights["accuracy"]),
            Objective("ms", lambda arch: cost(arch, ms[target]), weight=weights["ms"], cheap=True),
            *(
                [Objective("params", lambda arch: cost(arch, params), "max", weight=weights["params"], cheap=True)]
                if "params" in weights
                else []
            ),
        ]
        searcher = Nsga2(chain_for(task).space(), objectives, population=population, seed=seed)
        members = front(search(searcher, objectives, generations=generations, cache={}))
        return [
            {
                "accuracy": accuracy(m.arch),
                "params": cost(m.arch, params),
                **{f"ms {t}": cost(m.arch, parts) for t, parts in ms.items()},
            }
            for m in members
        ]

    two = {"accuracy": 1.0, "ms": 1.0}
    return {
        "first": found(first, two),
        "second": found(second, two),
        "params": found(first, {**two, "params": 1.0}),
        "weighted": found(first, WEIGHTS),
    }


def volume(members: Sequence[Mapping[str, float]], rivals: Sequence[Mapping[str, float]], target: str) -> float:
    """The hypervolume of accuracy against milliseconds on a target, scaled by all that are compared."""
    objectives = [Objective("accuracy", _unused, "max"), Objective(f"ms {target}", _unused)]
    return hypervolume(members, objectives, Scale.of([*members, *rivals], objectives))


def _unused(arch: Arch) -> float:
    raise NotImplementedError


def params_at_equal_ms(members: Sequence[Mapping[str, float]], target: str, at: Floats) -> Floats:
    """The parameters of a front along milliseconds: of its members, interpolated, shape of `at`."""
    ordered = sorted((m[f"ms {target}"], m["params"]) for m in members)
    x, y = np.array(ordered).T
    return np.asarray(np.interp(at, x, y))


def accuracy_within(members: Sequence[Mapping[str, float]], target: str, at: Floats) -> Floats:
    """The best accuracy of a front within each limit."""
    return np.array([max((m["accuracy"] for m in members if m[f"ms {target}"] <= limit), default=0.0) for limit in at])


def compared(run: Result, target: str, which: str, against: str) -> tuple[float, float]:
    """Relative parameters and the difference of the best accuracy, means over limits that both fronts cover."""
    a, b = run[which], run[against]
    low = max(min(m[f"ms {target}"] for m in members) for members in (a, b))
    high = min(max(m[f"ms {target}"] for m in members) for members in (a, b))
    at = np.linspace(low, max(low, high), 20)
    params = params_at_equal_ms(a, target, at) / params_at_equal_ms(b, target, at) - 1
    return float(params.mean()), float((accuracy_within(a, target, at) - accuracy_within(b, target, at)).mean())


def agreement(a: Sequence[float], b: Sequence[float]) -> Estimate:
    """Kendall's tau of two figures of the same networks."""
    return Rankings(np.array([a]), np.array(b)).tau()


def main(argv: Sequence[str] | None = None) -> None:
    arguments = parser(__doc__, BUDGETS, 5)
    arguments.add_argument("--targets", nargs=2, default=["simulated-mid:gpu", "simulated-mid:xnnpack"])
    given = arguments.parse_args(argv)
    options, (first, second) = options_of(given), given.targets
    budget, task = BUDGETS[options.budget], load(options.data, SIZE)
    asked = {"data": options.data, "networks": budget.networks, "fit_networks": budget.fit_networks}
    (costing,) = results([Job(measure, {**asked, "targets": given.targets})], options)
    measured = costing["targets"]
    settings = {
        "data": options.data,
        "epochs": epochs_of(task, budget.updates),
        "population": budget.population,
        "generations": budget.generations,
        "ms": {target: found["ms"] for target, found in measured.items()},
        "params": costing["params"],
    }
    runs = results([Job(explore, {**settings, "seed": seed}) for seed in range(options.seeds)], options)
    volumes = {
        (which, target): np.array([volume(r[which], r[other], target) for r in runs])
        for which, other in (("first", "second"), ("second", "first"))
        for target in measured
    }
    rows: dict[str, tuple[Estimate | float | str, ...]] = {}
    for which, target in (("first", first), ("second", second)):
        found = measured[target]
        error = np.abs(np.array(found["predicted"]) / np.array(found["measured"]) - 1)
        rows[f"{target}{' (simulated)' if found['simulated'] else ''}"] = (
            f"{error.mean():.1%}",
            f"{found['noise']:.1%}",
            agreement(found["predicted"], found["measured"]),
            agreement(found["macs"], found["measured"]),
            mean(volumes[which, first]),
            mean(volumes[which, second]),
        )
    columns = (
        *("error of the table", "noise floor", "tau, table and measured", "tau, MACs and measured"),
        *(f"hypervolume of its front on {first}", f"on {second}"),
    )
    between = agreement(measured[first]["measured"], measured[second]["measured"])
    sentences = [
        f"tau of the two targets over {budget.networks} random networks, measured: {between} (claim: below 1).",
        *(
            verdict(
                f"hypervolume on {target}, front found for it - front found for the other",
                mean(volumes[which, target] - volumes[other, target]),
                +1,
            )
            for which, other, target in (("first", "second", first), ("second", "first", second))
        ),
    ]
    for which, against in (("weighted", "first"), ("params", "first"), ("weighted", "params")):
        names = {"weighted": "weighted params", "params": "plain params", "first": "two objectives"}
        pairs = np.array([compared(r, first, which, against) for r in runs])
        what = f"{names[which]} against {names[against]}, at equal milliseconds on {first}"
        sentences += [
            verdict(f"relative parameters, {what}", mean(pairs[:, 0]), +1),
            f"best one-shot accuracy, {what}: {mean(pairs[:, 1])} (reported; nothing is claimed at this scale).",
        ]
    facts = {
        "task": task.name,
        "n": budget.networks,
        "supernet updates": budget.updates,
        "search": f"{budget.population} x {budget.generations}",
        "computed": f"in {sum(r['seconds'] for r in [costing, *runs]):.0f} s of one core",
    }
    Report("Search for one device or another, in MoGA's space", columns, rows, sentences, facts).show(options)


if __name__ == "__main__":
    main()
