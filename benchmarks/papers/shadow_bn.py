"""MixPath's claim (Chu et al. 2023): one BatchNorm for each number of active paths lets a multi-path supernet rank better.

    python benchmarks/papers/shadow_bn.py [--seeds 6] [--budget small|default] [--data FOLDER] [--json FILE]

Two supernets a seed, equal but for the norm behind the sum of the kernels: one BatchNorm, or one for each number of kernels.
Paths are drawn as in the paper's code: for each block a rate, a number of kernels, then that many kernels. The networks are
judged with the BatchNorm statistics that training left ("raw") and with recalibrated ones, against stand-alone training.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from common import BATCH, Alone, Job, Result, epochs_of, load, one_shot, per_arch, results, sampled
from reporting import Rankings, Report, mean, options_of, parser, verdict
from small_spaces import chain_of
from torch import Tensor, nn

from paceline.arch import Arch
from paceline.pipeline.supernet import ShadowBatchNorm, Uniform, train_supernet

KINDS = {"one BatchNorm": "one_bn", "shadow BatchNorm": "shadow_bn"}
LR = 0.1


@dataclass(frozen=True)
class Budget:
    archs: int
    alone: Alone
    updates: int


BUDGETS = {
    "tiny": Budget(4, Alone(2, 1), 2),
    "small": Budget(16, Alone(192, 1), 640),
    "default": Budget(32, Alone(400, 3), 2560),
}


def growth(net: nn.Module) -> dict[str, list[float]]:
    """Running mean (its absolute value) and variance behind n kernels over those behind one, summed over norms and channels."""
    shadows = [m for m in net.modules() if isinstance(m, ShadowBatchNorm)]
    means = np.array([[float(_statistic(bn, "running_mean").abs().sum()) for bn in m.norms.values()] for m in shadows]).sum(0)
    variances = np.array([[float(_statistic(bn, "running_var").sum()) for bn in m.norms.values()] for m in shadows]).sum(0)
    return {"mean": (means / means[0]).tolist(), "variance": (variances / variances[0]).tolist()}


def _statistic(norm: nn.Module, name: str) -> Tensor:
    return dict(norm.named_buffers())[name]


def train_one(data: str, space: str, epochs: int, lr: float, seed: int, archs: Sequence[str]) -> Result:
    """A supernet of a kind, and every architecture in it, raw and recalibrated."""
    task = load(data)
    net = chain_of(space, task).supernet(seed)
    history = train_supernet(net, Uniform(), task, epochs=epochs, batch=BATCH, lr=lr, seed=seed)
    asked = [Arch.from_json(arch) for arch in archs]
    return {
        "raw": one_shot(net, task, asked, calibration=0),
        "calibrated": one_shot(net, task, asked),
        "history": history,
        "growth": growth(net) if space == "shadow_bn" else {},
    }


def main(argv: Sequence[str] | None = None) -> None:
    options = options_of(parser(__doc__, BUDGETS, 6).parse_args(argv))
    budget, task = BUDGETS[options.budget], load(options.data)
    archs = sampled(chain_of("one_bn", task).space(), budget.archs, "shadow")
    apart = budget.alone.jobs(options.data, "one_bn", archs)
    settings = {"data": options.data, "epochs": epochs_of(task, budget.updates), "lr": LR, "archs": [a.to_json() for a in archs]}
    jobs = [
        Job(train_one, {**settings, "space": space, "seed": seed}) for space in KINDS.values() for seed in range(options.seeds)
    ]
    found = results([*jobs, *apart], options)
    truth = per_arch(found[len(jobs) :], len(archs)).mean(1)
    by_kind = {kind: found[i * options.seeds : (i + 1) * options.seeds] for i, kind in enumerate(KINDS)}
    accuracy = {
        (kind, how): np.array([[f["accuracy"] for f in r[how]] for r in rs])
        for kind, rs in by_kind.items()
        for how in ("raw", "calibrated")
    }
    taus = {which: Rankings(values, truth) for which, values in accuracy.items()}
    rows = {
        f"{kind}, {how}": (mean(values.mean(1)), mean(values.std(1)), taus[kind, how].tau())
        for (kind, how), values in accuracy.items()
    }
    one, shadow = KINDS
    grown = {figure: np.mean([r["growth"][figure] for r in by_kind[shadow]], axis=0) for figure in ("mean", "variance")}
    sentences = []
    for how in ("raw", "calibrated"):
        new, old = accuracy[shadow, how], accuracy[one, how]
        sentences += [
            verdict(f"one-shot accuracy, {how}, shadow - one", mean(new.mean(1) - old.mean(1)), +1),
            verdict(f"its sd over networks, {how}, shadow - one", mean(new.std(1) - old.std(1)), -1),
            verdict(f"tau, {how}, shadow - one", taus[shadow, how].minus(taus[one, how]), +1),
        ]
    sentences += [
        f"Running {figure} behind 1, 2, 3 kernels over that behind 1: {', '.join(f'{g:.2f}' for g in grown[figure])} "
        "(expected: n times the mean, n to n^2 times the variance)."
        for figure in grown
    ]
    facts = {
        "task": task.name,
        "n": len(archs),
        "supernet updates": budget.updates,
        "stand-alone": budget.alone.about(truth),
        "computed": f"in {sum(r['seconds'] for r in found):.0f} s of one core",
    }
    columns = ("one-shot accuracy", "its sd over networks", "tau")
    Report("Shadow BatchNorm against one BatchNorm", columns, rows, sentences, facts).show(options)


if __name__ == "__main__":
    main()
