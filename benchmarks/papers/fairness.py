"""FairNAS's claim (Chu et al. 2021): strictly fair training of a supernet ranks its networks better than uniform sampling.

    python benchmarks/papers/fairness.py [--seeds 6] [--budget small|default] [--data FOLDER] [--json FILE]

Four supernets a seed, equal but for which paths their steps train: strictly fair (an update is one path for each option, m in
all); uniform with m paths an update (equal updates and equal gradient passes: only fairness differs); uniform with one path an
update and m times the updates (equal passes, as much computing); uniform with one path and as many updates (1/m of the passes).
Each is judged against stand-alone training of random networks.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from common import BATCH, Alone, Job, Result, epochs_of, load, one_shot, per_arch, results, sampled
from reporting import Rankings, Report, mean, options_of, parser, verdict
from small_spaces import chain_of

from paceline.arch import Arch, Space
from paceline.pipeline.supernet import PartlyFrozen, Path, Policy, StrictFair, Uniform, space_of, train_supernet

SPACE, OPTIONS = "six", 6


@dataclass(frozen=True)
class Budget:
    """`updates` are those of the strictly fair supernet."""

    archs: int
    alone: Alone
    updates: int


BUDGETS = {
    "tiny": Budget(4, Alone(2, 1), 2),
    "small": Budget(16, Alone(192, 2), 192),
    "default": Budget(32, Alone(400, 3), 640),
}
LR = 0.1


@dataclass(frozen=True)
class Kind:
    """One way to train. `longer`: its updates for each of the strictly fair supernet."""

    policy: Policy
    longer: int = 1


KINDS = {
    "strict": Kind(StrictFair()),
    "uniform, m paths an update": Kind(Uniform(OPTIONS)),
    "uniform, equal passes": Kind(Uniform(), OPTIONS),
    "uniform, equal updates": Kind(Uniform()),
}


@dataclass(frozen=True)
class Counted:
    """`policy`, counting how often each option has had a gradient."""

    policy: Policy
    counts: Counter[tuple[str, int]] = field(default_factory=Counter)

    def paths(self, space: Space, rng: np.random.Generator) -> list[Path]:
        found = self.policy.paths(space, rng)
        for weights in found:
            frozen = weights.frozen if isinstance(weights, PartlyFrozen) else ()
            self.counts.update((name, int(w.argmax())) for name, w in weights.items() if name not in frozen)
        return found


def train_one(data: str, kind: str, epochs: int, lr: float, seed: int, archs: Sequence[str]) -> Result:
    """A supernet of a kind, and every architecture in it."""
    task, how = load(data), KINDS[kind]
    net = chain_of(SPACE, task).supernet(seed)
    policy = Counted(how.policy)
    history = train_supernet(net, policy, task, epochs=epochs * how.longer, batch=BATCH, lr=lr, seed=seed)
    updates = np.array([policy.counts[c.name, i] for c in space_of(net).choices for i in range(len(c.options))])
    return {
        "found": one_shot(net, task, [Arch.from_json(arch) for arch in archs]),
        "history": history,
        "passes": int(updates.sum()) // len(space_of(net).choices),
        "spread": float(updates.std()),
    }


def main(argv: Sequence[str] | None = None) -> None:
    options = options_of(parser(__doc__, BUDGETS, 6).parse_args(argv))
    budget, task = BUDGETS[options.budget], load(options.data)
    archs = sampled(chain_of(SPACE, task).space(), budget.archs, "fairness")
    names = [arch.to_json() for arch in archs]
    apart = budget.alone.jobs(options.data, SPACE, archs)
    settings = {"data": options.data, "epochs": epochs_of(task, budget.updates), "lr": LR, "archs": names}
    jobs = [Job(train_one, {**settings, "kind": kind, "seed": seed}) for seed in range(options.seeds) for kind in KINDS]
    found = results([*jobs, *apart], options)
    truth = per_arch(found[len(jobs) :], len(archs))
    by_kind = {kind: [r for j, r in zip(jobs, found, strict=False) if j.settings["kind"] == kind] for kind in KINDS}
    accuracy = {kind: np.array([[f["accuracy"] for f in r["found"]] for r in rs]) for kind, rs in by_kind.items()}
    loss = {kind: np.array([[-f["loss"] for f in r["found"]] for r in rs]) for kind, rs in by_kind.items()}
    taus = {kind: Rankings(accuracy[kind], truth.mean(1)) for kind in KINDS}
    strict = "strict"
    rows = {
        kind: (
            by_kind[kind][0]["passes"],
            float(np.mean([r["spread"] for r in by_kind[kind]])),
            mean(accuracy[kind].mean(1)),
            mean(accuracy[kind].std(1)),
            taus[kind].tau(),
            Rankings(loss[kind], truth.mean(1)).tau(),
        )
        for kind in KINDS
    }
    columns = ("passes", "updates, sd over options", "one-shot accuracy", "its sd over networks", "tau", "tau of the loss")
    sentences = [verdict(f"tau, strict - {kind}", taus[strict].minus(taus[kind]), +1) for kind in KINDS if kind != strict]
    sentences += [
        verdict(f"one-shot accuracy, strict - {kind}", mean(accuracy[strict].mean(1) - accuracy[kind].mean(1)), +1)
        for kind in KINDS
        if kind != strict
    ]
    facts = {
        "task": task.name,
        "n": len(archs),
        "strictly fair updates": budget.updates,
        "stand-alone": budget.alone.about(truth.mean(1)),
        "computed": f"in {sum(r['seconds'] for r in found):.0f} s of one core",
    }
    Report("Strict fairness against uniform sampling", columns, rows, sentences, facts).show(options)


if __name__ == "__main__":
    main()
