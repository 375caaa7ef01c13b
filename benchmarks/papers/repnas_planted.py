"""RepNAS's search (Zhang et al. 2021) on branches that are known to be useless: noise must not be kept.

    python benchmarks/papers/repnas_planted.py [--seeds 5] [--budget small|default] [--json FILE]

Three layers of RepNAS's six branches on digits of 8x8 pixels, 9 of 18 branches kept. In each layer two branches, other ones for
each seed, give noise (standard deviation 3) instead of what they compute. Chance would keep three of the six. Noise, not zeros: a
branch that gives zeros gives its gate no gradient. Batch, epochs and rates were chosen on seeds 0 to 19; --seeds 40 has others.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from common import Job, Result, results
from reporting import Report, mean, options_of, parser
from torch import Tensor, nn

from paceline.pipeline import tasks
from paceline.pipeline.ops import ODBB
from paceline.pipeline.spaces import Chain, SearchedRepOp, Stage, Tail, slots_of
from paceline.pipeline.supernet import BranchGates, BranchSearch, Uniform, train_supernet
from paceline.pipeline.supernet.mixed import mixed_of
from paceline.seeds import Seeds

NOISY = 2
KEEP = 0.5
BATCH, LR, SCORES_LR = 32, 0.05, 0.02
LAYERS = Chain(
    "planted_branches",
    None,
    slots_of(1, (Stage(16, 1, 1), Stage(32, 2, 2)), lambda _: {"k3": SearchedRepOp(ODBB, 3)}),
    Tail(None),
    *(1, 10, 8),
)


@dataclass(frozen=True)
class Budget:
    epochs: int
    random_epochs: int


BUDGETS = {"tiny": Budget(1, 0), "small": Budget(8, 4), "default": Budget(12, 6)}


class Noise(nn.Module):
    """Noise of the shape of what a branch gives."""

    def __init__(self, branch: nn.Module) -> None:
        super().__init__()
        self.branch = branch

    def forward(self, x: Tensor) -> Tensor:
        with torch.no_grad():
            return 3.0 * torch.randn_like(self.branch(x))


def plant(net: nn.Module, seed: int) -> dict[str, tuple[str, ...]]:
    """Makes two branches of each choice noise; says which."""
    rng = Seeds(seed).rng("planted")
    planted = {}
    for mixed in mixed_of(net):
        if mixed.choice.at_most > 1:
            names = sorted(str(name) for name in rng.choice(mixed.choice.options, NOISY, replace=False))
            for name in names:
                mixed.options[name] = Noise(mixed.options[name])
            planted[mixed.choice.name] = tuple(names)
    return planted


def search(epochs: int, random_epochs: int, seed: int) -> Result:
    """One search: how many noisy branches it kept, and the scores of noisy and other branches."""
    task = tasks.digits(0, 8)
    net = LAYERS.supernet(seed)
    planted = plant(net, seed)
    gates = BranchGates(BranchSearch(random_epochs, epochs, KEEP, SCORES_LR), Uniform(), net)
    history = train_supernet(net, gates, task, epochs=epochs, batch=BATCH, lr=LR, seed=seed)
    by_branch = dict(zip([(c.name, o) for c in gates.choices for o in c.options], gates.scores.tolist(), strict=True))
    noisy = [score for (choice, option), score in by_branch.items() if option in planted[choice]]
    sound = [score for (choice, option), score in by_branch.items() if option not in planted[choice]]
    return {
        "kept": gates.kept,
        "noisy_kept": _common(gates.kept, planted),
        "noisy_score": sum(noisy) / len(noisy),
        "sound_score": sum(sound) / len(sound),
        "history": history,
    }


def _common(kept: Mapping[str, Sequence[str]], planted: Mapping[str, Sequence[str]]) -> int:
    return sum(len(set(kept[name]) & set(noisy)) for name, noisy in planted.items())


def main(argv: Sequence[str] | None = None) -> None:
    options = options_of(parser(__doc__, BUDGETS, 5).parse_args(argv))
    budget = BUDGETS[options.budget]
    settings = {"epochs": budget.epochs, "random_epochs": budget.random_epochs}
    found = results([Job(search, {**settings, "seed": seed}) for seed in range(options.seeds)], options)
    rows = {
        f"seed {seed}": (f["noisy_kept"], sum(map(len, f["kept"].values())), f["noisy_score"], f["sound_score"])
        for seed, f in enumerate(found)
    }
    gap = mean([f["sound_score"] - f["noisy_score"] for f in found])
    clean = sum(f["noisy_kept"] == 0 for f in found)
    sentences = [
        f"No noisy branch is kept with {clean} of {len(found)} seeds; chance would keep 3 each.",
        f"Mean score, others - noisy: {gap}.",
    ]
    facts = {
        "task": "digits, 8x8",
        "epochs": f"{budget.epochs}, {budget.random_epochs} of them random",
        "computed": f"{sum(f['seconds'] for f in found):.0f} s",
    }
    columns = ("noisy branches kept", "branches kept", "score of noisy ones", "score of the others")
    Report("RepNAS's search with two noisy branches a layer", columns, rows, sentences, facts).show(options)


if __name__ == "__main__":
    main()
