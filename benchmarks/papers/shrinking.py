"""BS-NAS's claim (Shen et al. 2020): turning bad options off while the supernet trains helps what is left, and its ranking.

    python benchmarks/papers/shrinking.py [--space planted|six] [--seeds 5] [--budget small|default] [--data FOLDER] [--json FILE]

In the space `planted` every layer has an option that gives zeros; `six` is the same space without these. Three supernets a seed
with the same number of single-path steps: nothing turned off; the worst options turned off again and again (one regression on the
one-shot accuracy of random networks); as many turned off at random, by the same code with random scores. Supernet rankings of
networks of the space that shrinking left are judged against their stand-alone training. One-shot accuracy is also what shrinking
looks at, on the same images.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from common import BATCH, Alone, Job, Result, epochs_of, load, one_shot, per_arch, results
from reporting import Floats, Rankings, Report, mean, options_of, parser, verdict
from small_spaces import chain_of

from paceline.arch import Arch, Space
from paceline.pipeline.supernet import Uniform, train_supernet
from paceline.pipeline.supernet.evaluate import OneShot
from paceline.pipeline.supernet.shrinking import Shrinker, Shrinking
from paceline.seeds import Seeds

PLANTED = "zero"
LR = 0.1


@dataclass(frozen=True)
class Budget:
    """`warmup` and `every` are updates too: when options go for the first time, and how often then. Half of them go."""

    archs: int
    alone: Alone
    updates: int
    warmup: int
    every: int
    samples: int


BUDGETS = {
    "tiny": Budget(3, Alone(2, 1), 6, 2, 2, 8),
    "small": Budget(10, Alone(192, 1), 960, 320, 80, 48),
    "default": Budget(20, Alone(400, 2), 2560, 640, 160, 64),
}


def survivors(space: Space, count: int, seed: int) -> list[Arch]:
    """Random architectures of what is left."""
    rng = Seeds(seed).rng("survivors")
    return [space.sample(rng) for _ in range(count)]


def shrink(data: str, space: str, how: str, epochs: int, lr: float, seed: int, archs: int, schedule: Mapping[str, Any]) -> Result:
    """A supernet that turns options off by their "worth" or at "random"; what went when, and networks of what is left."""
    task = load(data)
    net = chain_of(space, task).supernet(seed)
    rng = Seeds(seed).rng("random scores")
    score: Callable[[Arch], float] = OneShot(net, task, seed=seed).accuracy if how == "worth" else lambda _: float(rng.random())
    policy = Shrinker(Shrinking(**schedule), Uniform(), chain_of(space, task).space(), score, seed=seed)
    history = train_supernet(net, policy, task, epochs=epochs, batch=BATCH, lr=lr, seed=seed)
    left = survivors(policy.space, archs, seed)
    return {
        "removed": [list(option) for r in policy.rounds for option in r.removed],
        "left": policy.space.width,
        "archs": [arch.to_json() for arch in left],
        "found": one_shot(net, task, left),
        "history": history,
    }


def keep_all(data: str, space: str, epochs: int, lr: float, seed: int, archs: Sequence[str]) -> Result:
    """A supernet that keeps every option; the architectures of `archs` and as many of the whole space in it."""
    task = load(data)
    chain = chain_of(space, task)
    net = chain.supernet(seed)
    history = train_supernet(net, Uniform(), task, epochs=epochs, batch=BATCH, lr=lr, seed=seed)
    return {
        "left": chain.space().width,
        "removed": [],
        "found": one_shot(net, task, survivors(chain.space(), len(archs), seed)),
        "shared": one_shot(net, task, [Arch.from_json(arch) for arch in archs]),
        "history": history,
    }


def accuracies(found: Sequence[Result], key: str = "found") -> Floats:
    """Shape (seeds, archs)."""
    return np.array([[f["accuracy"] for f in r[key]] for r in found])


def main(argv: Sequence[str] | None = None) -> None:
    arguments = parser(__doc__, BUDGETS, 5)
    arguments.add_argument("--space", choices=("planted", "six"), default="planted")
    given = arguments.parse_args(argv)
    options, budget = options_of(given), BUDGETS[given.budget]
    task, seeds = load(options.data), range(options.seeds)
    space = chain_of(given.space, task).space()
    schedule = Shrinking(epochs_of(task, budget.warmup), epochs_of(task, budget.every), samples=budget.samples)
    common = {"data": options.data, "space": given.space, "epochs": epochs_of(task, budget.updates), "lr": LR}
    settings = {**common, "archs": budget.archs, "schedule": asdict(schedule)}
    first = results([Job(shrink, {**settings, "how": how, "seed": s}) for how in ("worth", "random") for s in seeds], options)
    shrunk, random = first[: len(seeds)], first[len(seeds) :]
    plain = [Job(keep_all, {**common, "seed": s, "archs": r["archs"]}) for s, r in zip(seeds, shrunk, strict=True)]
    left = [Arch.from_json(arch) for r in shrunk for arch in r["archs"]]
    second = results([*plain, *budget.alone.jobs(options.data, given.space, left)], options)
    kept = second[: len(plain)]
    truth = per_arch(second[len(plain) :], len(left)).mean(1).reshape(len(seeds), -1)
    kinds = {"nothing turned off": kept, "shrinking": shrunk, "random removal": random}
    shared = {"nothing turned off": accuracies(kept, "shared"), "shrinking": accuracies(shrunk)}
    taus = {name: Rankings(values, truth) for name, values in shared.items()}
    own = {name: accuracies(runs).mean(1) for name, runs in kinds.items()}
    planted = sum(PLANTED in c.options for c in space.choices)

    def gone(run: Result, among: int | None = None) -> int:
        return sum(option == PLANTED for _, option in run["removed"][:among])

    rows = {
        name: (
            float(np.mean([r["left"] for r in runs])),
            float(np.mean([planted - gone(r) for r in runs])),
            mean(own[name]),
            mean(shared[name].mean(1)) if name in shared else "",
            taus[name].tau() if name in taus else "",
        )
        for name, runs in kinds.items()
    }
    columns = ("options left", "planted left", "one-shot accuracy, own space", "in shrinking's space", "tau in shrinking's space")
    sentences = [
        verdict(
            "one-shot accuracy in the space that is left, shrinking - nothing turned off",
            mean((shared["shrinking"] - shared["nothing turned off"]).mean(1)),
            +1,
        ),
        verdict("one-shot accuracy in its own space, shrinking - random", mean(own["shrinking"] - own["random removal"]), +1),
        verdict("tau in the space left, shrinking - nothing turned off", taus["shrinking"].minus(taus["nothing turned off"]), +1),
    ]
    if planted:
        early = {name: np.mean([gone(r, planted) for r in runs]) for name, runs in kinds.items()}
        sentences.insert(
            0,
            f"Of the first {planted} options removed, {early['shrinking']:.1f} are planted with shrinking, "
            f"{early['random removal']:.1f} at random (expected {planted**2 / space.width:.1f}).",
        )
    facts = {
        "task": task.name,
        "n": f"{budget.archs} for each seed",
        "supernet": f"{budget.updates} single paths, options go after {budget.warmup} and then every {budget.every}",
        "stand-alone": budget.alone.about(truth),
        "computed": f"in {sum(r['seconds'] for r in [*first, *second]):.0f} s of one core",
    }
    title = f"Shrinking, {'a planted bad option in each layer' if planted else 'no planted option'}"
    Report(title, columns, rows, sentences, facts).show(options)


if __name__ == "__main__":
    main()
