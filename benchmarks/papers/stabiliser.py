"""SCARLET-NAS's claim (Chu et al. 2021): a learned 1x1 convolution in the place of a skip makes a supernet train and rank better.

    python benchmarks/papers/stabiliser.py [--seeds 6] [--budget small|default] [--data FOLDER] [--json FILE]

Two supernets a seed, strictly fair, equal but for the skips: plain identities, or stabilisers that start as the identity. Both
are judged against stand-alone training of the same networks, where a skip is an identity. As many networks are drawn for each
number of skips, so that depth varies; deep-skip ones leave out more than half of the layers that they may. The stabilisers of
one of these networks are folded away afterwards (`paceline.exporters.fold_stabilisers`), in double precision.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from common import BATCH, Alone, Job, Result, epochs_of, load, one_shot, per_arch, results
from reporting import Rankings, Report, mean, options_of, parser, verdict
from small_spaces import chain_of

from paceline.arch import Arch, Space
from paceline.exporters import fold_stabilisers
from paceline.pipeline.ops import StabilisedSkip
from paceline.pipeline.supernet import StrictFair, derive, train_supernet
from paceline.seeds import Seeds

KINDS = {"plain skip": "skip", "stabiliser": "stabilised"}
LR = 0.1


@dataclass(frozen=True)
class Budget:
    """`archs` for each number of skips."""

    archs: int
    alone: Alone
    updates: int


BUDGETS = {"tiny": Budget(1, Alone(2, 1), 2), "small": Budget(3, Alone(192, 1), 240), "default": Budget(5, Alone(400, 3), 960)}


def skips(arch: Arch) -> int:
    return sum(taken == ("skip",) for _, taken in arch.picks)


def stratified(space: Space, each: int) -> list[Arch]:
    """`each` random architectures for every number of skips that is possible, fewest first (fewer where there are no more)."""
    rng = Seeds(0).rng("stabiliser")
    places = [c for c in space.choices if "skip" in c.options]
    found: dict[Arch, None] = {}
    for count in range(len(places) + 1):
        for _ in range(each):
            taken = {places[i].name for i in rng.choice(len(places), count, replace=False)}
            others = {c.name: [o for o in c.options if o != "skip"] for c in space.choices}
            picks = ((c.name, "skip" if c.name in taken else str(rng.choice(others[c.name]))) for c in space.choices)
            found[Arch(tuple((name, (option,)) for name, option in picks))] = None
    return list(found)


def train_one(data: str, space: str, epochs: int, lr: float, seed: int, archs: Sequence[str]) -> Result:
    """A supernet of a kind, and every architecture in it."""
    task = load(data)
    net = chain_of(space, task).supernet(seed)
    history = train_supernet(net, StrictFair(), task, epochs=epochs, batch=BATCH, lr=lr, seed=seed)
    asked = [Arch.from_json(arch) for arch in archs]
    folded = {}
    if space == "stabilised":
        deepest = derive(net, max(asked, key=skips)).double().eval()
        fold = fold_stabilisers(deepest)
        images = torch.cat([x for x, _ in task.batches("val", 256)]).double()
        with torch.no_grad():
            logits = deepest(images)
            error = float((fold.module(images) - logits).abs().max() / logits.abs().max())
        weights = [m.conv.weight.detach().flatten(1) for m in net.modules() if isinstance(m, StabilisedSkip)]
        moved = float(np.mean([torch.linalg.matrix_norm(w - torch.eye(len(w))) / len(w) ** 0.5 for w in weights]))
        folded = {"error": error, "folds": len(fold.report), "condition": max(f.condition for f in fold.report), "moved": moved}
    return {"found": one_shot(net, task, asked), "history": history, "folded": folded}


def main(argv: Sequence[str] | None = None) -> None:
    options = options_of(parser(__doc__, BUDGETS, 6).parse_args(argv))
    budget, task = BUDGETS[options.budget], load(options.data)
    archs = stratified(chain_of("skip", task).space(), budget.archs)
    apart = budget.alone.jobs(options.data, "skip", archs)
    epochs = epochs_of(task, budget.updates)
    settings = {"data": options.data, "epochs": epochs, "lr": LR, "archs": [arch.to_json() for arch in archs]}
    jobs = [
        Job(train_one, {**settings, "space": space, "seed": seed}) for space in KINDS.values() for seed in range(options.seeds)
    ]
    found = results([*jobs, *apart], options)
    truth = per_arch(found[len(jobs) :], len(archs))
    by_kind = {kind: found[i * options.seeds : (i + 1) * options.seeds] for i, kind in enumerate(KINDS)}
    accuracy = {kind: np.array([[f["accuracy"] for f in r["found"]] for r in rs]) for kind, rs in by_kind.items()}
    late = {
        kind: np.array([np.mean(r["history"][-max(1, len(r["history"]) // 10) :]) for r in rs]) for kind, rs in by_kind.items()
    }
    deep = np.array([2 * skips(arch) > max(map(skips, archs)) for arch in archs])
    taus = {kind: Rankings(accuracy[kind], truth.mean(1)) for kind in KINDS}
    rows = {
        kind: (
            mean(late[kind]),
            mean(accuracy[kind].mean(1)),
            mean(accuracy[kind][:, deep].mean(1)),
            mean(accuracy[kind][:, ~deep].mean(1)),
            taus[kind].tau(),
            Rankings(accuracy[kind][:, deep], truth.mean(1)[deep]).tau(),
        )
        for kind in KINDS
    }
    columns = ("late training loss", "one-shot accuracy", "of deep-skip networks", "of the others", "tau", "tau among deep-skip")
    plain, learned = KINDS
    folds = [r["folded"] for r in by_kind[learned]]
    sentences = [
        verdict("late training loss, stabiliser - plain", mean(late[learned] - late[plain]), -1),
        verdict(
            "one-shot accuracy of deep-skip networks, stabiliser - plain",
            mean((accuracy[learned] - accuracy[plain])[:, deep].mean(1)),
            +1,
        ),
        verdict("tau, stabiliser - plain", taus[learned].minus(taus[plain]), +1),
        f"Folded {sum(f['folds'] for f in folds)} stabilisers, condition numbers up to {max(f['condition'] for f in folds):.3g}, "
        f"largest relative error {max(f['error'] for f in folds):.1e} in float64; they had moved from the identity by "
        f"{np.mean([f['moved'] for f in folds]):.2g} (Frobenius norm over that of the identity).",
    ]
    facts = {
        "task": task.name,
        "n": f"{len(archs)}, {deep.sum()} of them deep-skip",
        "supernet updates": budget.updates,
        "stand-alone": budget.alone.about(truth.mean(1)),
        "computed": f"in {sum(r['seconds'] for r in found):.0f} s of one core",
    }
    Report("SCARLET's stabiliser against a plain skip", columns, rows, sentences, facts).show(options)


if __name__ == "__main__":
    main()
