"""RepNAS and re-parameterisation (Zhang et al. 2021; Ding et al. 2021): what branches are worth when the deployed network is one.

    python benchmarks/papers/repnas_masks.py [--seeds 6] [--budget small|default] [--data FOLDER] [--json FILE]

Six layers that deploy as 3x3 convolutions are trained from new weights: plain ones, RepVGG's and Diverse Branch Blocks, all of
RepNAS's branches, the branches that its search keeps, and as many at random (another set for each seed, one branch a layer at
least). The search is judged by what it finds, retrained, as the random sets are: so their difference is what searching is worth.
A set without a full kernel deploys as a smaller convolution: "params shipped" says how much less some searched and random
networks cost, so that they are not compared at exactly equal cost. Each network is merged after training and tested again. The
search takes two thirds of the epochs of a training.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from common import BATCH, Job, Result, load, results
from reporting import Report, mean, options_of, parser, verdict
from torch import nn

from paceline.arch import Arch
from paceline.exporters.merge import merged
from paceline.pipeline.ops import DBB, ODBB, REPVGG
from paceline.pipeline.spaces import Chain, Op, RepOp, SearchedRepOp, Stage, Tail, slots_of
from paceline.pipeline.supernet import BranchGates, BranchSearch, Uniform, train_supernet
from paceline.pipeline.supernet.gates import kept_branches
from paceline.pipeline.tasks import Task
from paceline.pipeline.training import accuracy, train
from paceline.seeds import Seeds

LR, SCORES_LR, KEEP = 0.1, 0.02, 0.34
IDENTITY = ("identity",)
FIXED: Mapping[str, tuple[str, ...]] = {
    "plain": ("kxk",),
    "RepVGG": REPVGG,
    "DBB + identity": DBB + IDENTITY,
    "all six + identity": ODBB + IDENTITY,
}
SEARCHED, RANDOM = "searched", "random"
STAGES = (Stage(8, 1, 1), Stage(16, 3, 2), Stage(32, 2, 2))


@dataclass(frozen=True)
class Budget:
    epochs: int


BUDGETS = {"tiny": Budget(2), "small": Budget(12), "default": Budget(40)}


def chain_of(op: Op, task: Task) -> Chain:
    """Six layers of one kind of block, for the images of `task`."""
    chain = Chain("masks", None, slots_of(1, STAGES, lambda _: {"k3": op}), Tail(None), 1, 10, 8)
    return chain.for_images(task.channels, len(task.classes), task.image_size)


def _searchable(task: Task) -> Chain:
    return chain_of(SearchedRepOp(ODBB, 3), task)


def searched(task: Task, epochs: int, seed: int) -> Arch:
    """The branches that RepNAS's search keeps, with weights of its own."""
    net = _searchable(task).supernet(Seeds(seed).seed("search"))
    schedule = BranchSearch(round(0.1 * epochs), max(1, round(2 * epochs / 3)), KEEP, SCORES_LR)
    gates = BranchGates(schedule, Uniform(), net)
    train_supernet(net, gates, task, epochs=schedule.fixed_after, batch=BATCH, lr=LR, seed=seed)
    return gates.space.sample(np.random.default_rng(0))


def drawn(task: Task, seed: int) -> Arch:
    """As many branches at random: what the search would keep if its scores were noise."""
    space = _searchable(task).space()
    choices = tuple(c for c in space.choices if c.at_most > 1)
    total = sum(len(c.options) for c in choices)
    mask = kept_branches(choices, Seeds(seed).rng("mask").logistic(size=total).astype(np.float32), int(KEEP * total))
    taken = {c.name: mask[i * len(ODBB) : (i + 1) * len(ODBB)] for i, c in enumerate(choices)}
    return Arch(
        tuple(
            (c.name, tuple(o for o, kept in zip(c.options, taken[c.name], strict=True) if kept) if c in choices else c.options)
            for c in space.choices
        )
    )


def train_one(data: str, kind: str, epochs: int, seed: int) -> Result:
    """A network of a kind from new weights, and what becomes of it when it is merged."""
    task = load(data)
    make: Mapping[str, Callable[[], Arch]] = {SEARCHED: lambda: searched(task, epochs, seed), RANDOM: lambda: drawn(task, seed)}
    chain = _searchable(task) if kind in make else chain_of(RepOp(FIXED[kind]), task)
    arch = make[kind]() if kind in make else chain.space().sample(np.random.default_rng(0))
    net = chain.network(arch, Seeds(seed).seed("alone"))
    history = train(net, task, epochs=epochs, batch=BATCH, lr=LR, seed=seed)
    net.eval()
    shipped = merged(net).module
    images = torch.cat([x for x, _ in task.batches("val", 256)])
    with torch.no_grad():
        logits, after = net(images), shipped(images)
    return {
        "accuracy": accuracy(net, task, "val"),
        "merged_accuracy": accuracy(shipped, task, "val"),
        "error": float((after - logits).abs().max() / logits.abs().max()),
        "decisions_changed": int((after.argmax(1) != logits.argmax(1)).sum()),
        "trained_params": sum(p.numel() for p in net.parameters()),
        "shipped_params": sum(p.numel() for p in shipped.parameters()),
        "convolutions": sum(isinstance(m, nn.Conv2d) for m in shipped.modules()),
        "branches": sum(len(taken) for name, taken in arch.picks if name.endswith("_branches")),
        "arch": arch.to_json(),
        "history": history,
    }


def main(argv: Sequence[str] | None = None) -> None:
    options = options_of(parser(__doc__, BUDGETS, 6).parse_args(argv))
    budget, task = BUDGETS[options.budget], load(options.data)
    kinds = [*FIXED, SEARCHED, RANDOM]
    settings = {"data": options.data, "epochs": budget.epochs}
    jobs = [Job(train_one, {**settings, "kind": kind, "seed": seed}) for kind in kinds for seed in range(options.seeds)]
    found = results(jobs, options)
    by_kind = {kind: found[i * options.seeds : (i + 1) * options.seeds] for i, kind in enumerate(kinds)}
    scores = {kind: np.array([r["accuracy"] for r in rs]) for kind, rs in by_kind.items()}
    rows = {
        kind: (
            mean(scores[kind]),
            mean([r["merged_accuracy"] for r in rs]),
            max(r["error"] for r in rs),
            round(np.mean([r["trained_params"] for r in rs])),
            f"{min(r['shipped_params'] for r in rs)} to {max(r['shipped_params'] for r in rs)}",
            mean([r["history"][-1] for r in rs]),
        )
        for kind, rs in by_kind.items()
    }
    sentences = [
        verdict("Accuracy, RepVGG - plain", mean(scores["RepVGG"] - scores["plain"]), +1),
        verdict("Accuracy, DBB + identity - plain", mean(scores["DBB + identity"] - scores["plain"]), +1),
        verdict("Accuracy, all six + identity - plain", mean(scores["all six + identity"] - scores["plain"]), +1),
        verdict("Accuracy, searched - plain", mean(scores[SEARCHED] - scores["plain"]), +1),
        verdict("Accuracy, searched - DBB + identity", mean(scores[SEARCHED] - scores["DBB + identity"]), +1),
        verdict("Accuracy, searched - random branches", mean(scores[SEARCHED] - scores[RANDOM]), +1),
        f"Merging changed {sum(r['decisions_changed'] for r in found)} of {len(found) * len(task.val.labels)} decisions.",
    ]
    everything = len(ODBB) * sum(stage.layers for stage in STAGES)
    facts = {
        "task": task.name,
        "n": len(task.val.labels),
        "epochs": budget.epochs,
        "branches searched and random": f"{by_kind[SEARCHED][0]['branches']} of {everything}",
        "computed": f"{sum(r['seconds'] for r in found):.0f} s",
    }
    columns = ("accuracy", "of the merged", "error of merging", "params trained", "params shipped", "last training loss")
    Report("Branches that become one convolution", columns, rows, sentences, facts).show(options)


if __name__ == "__main__":
    main()
