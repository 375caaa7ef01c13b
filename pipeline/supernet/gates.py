"""Choosing branches while a network trains (RepNAS, Zhang et al. 2021, arXiv 2109.03508; details are those of its official code).

Every branch has a score. A step keeps the branches whose scores, with noise, are the highest in the whole network: what is
bounded is the number of branches that are trained, because what is deployed is one convolution a layer whatever they are.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from paceline.arch import Choice, Space
from paceline.errors import ConfigError, SpaceError
from paceline.pipeline import distributed
from paceline.pipeline.supernet.mixed import PartlyFrozen, Path, space_of
from paceline.pipeline.supernet.policies import Policy

BRANCHES = "*_branches"


@dataclass(frozen=True)
class BranchSearch:
    """When branches are drawn, when scores are learned, and how many stay.

    `keep` is the share of all branches that a step computes. Until `random_epochs` they are drawn at random, until `fixed_after`
    the scores learn, by Adam of learning rate `lr` with a weight decay that falls from `weight_decay` to 0 on a cosine. Then the
    best stay, and training goes on with them. `branches` is the pattern of the names of the choices. The values are those of the
    official code; its 35 epochs of ImageNet have some 175,000 steps, so that fewer need a higher `lr`.

    Raises ConfigError for values that make no sense.
    """

    random_epochs: int = 15
    fixed_after: int = 50
    keep: float = 0.34
    lr: float = 1e-4
    weight_decay: float = 5e-4
    branches: str = BRANCHES

    def __post_init__(self) -> None:
        if not (0 <= self.random_epochs <= self.fixed_after and 0 < self.keep <= 1 and self.lr > 0 and self.weight_decay >= 0):
            raise ConfigError(
                f"{self}: needs 0 <= random_epochs <= fixed_after, keep in (0, 1], lr above 0, weight_decay at least 0"
            )

    def decay(self, epochs: int) -> float:
        """The weight decay after so many epochs."""
        done = (epochs - self.random_epochs) / max(1, self.fixed_after - self.random_epochs)
        return self.weight_decay * 0.5 * (1.0 + math.cos(math.pi * min(max(done, 0.0), 1.0)))


class BranchGates:
    """A policy that keeps the best branches of a network, and decides about its other choices by another policy.

    A path gives the branch of score s = score + logistic noise the weight M + sigmoid(s) - stopgrad(sigmoid(s)), M = 1 where it
    is among those that are kept and 0 elsewhere: forward exactly M, backward the sigmoid. Every choice keeps its best branch, so
    that no layer is left without one; the official code runs a convolution that has no gate there. `space` is what is left when
    the branches are fixed, at the latest when training ends: searchers work on it. When they are, BatchNorm forgets its
    statistics, which were those of many networks. Its state is part of the checkpoint of `train_supernet`.

    Raises SpaceError where no choice has a fitting name, ConfigError where fewer branches are to be kept than there are choices.
    """

    def __init__(self, schedule: BranchSearch, policy: Policy, net: nn.Module) -> None:
        self.schedule, self.policy, self.net = schedule, policy, net
        self.whole = space_of(net)
        self.choices = tuple(c for c in self.whole.choices if fnmatchcase(c.name, schedule.branches))
        self._others = tuple(c for c in self.whole.choices if c not in self.choices)
        if not self.choices:
            raise SpaceError(f"no choice is called {schedule.branches!r}; give the pattern of the choices of branches")
        total = sum(len(c.options) for c in self.choices)
        self.count = int(schedule.keep * total)
        if self.count < len(self.choices):
            raise ConfigError(
                f"keep={schedule.keep} leaves {self.count} of {total} branches to {len(self.choices)} layers; each needs one"
            )
        self.scores = nn.Parameter(torch.zeros(total, device=next(net.parameters()).device))
        self._adam = torch.optim.Adam([self.scores], lr=schedule.lr, betas=(0.5, 0.999), weight_decay=schedule.weight_decay)
        self.epochs = 0
        self.fixed: npt.NDArray[np.bool_] | None = None

    def __repr__(self) -> str:
        return f"BranchGates({self.schedule!r}, {self.policy!r})"

    @property
    def kept(self) -> dict[str, tuple[str, ...]]:
        """For each layer its branches: those that are fixed, else those that would be kept now."""
        mask = kept_branches(self.choices, self._clean_scores(), self.count) if self.fixed is None else self.fixed
        return {c.name: tuple(o for o, taken in zip(c.options, mask[part], strict=True) if taken) for c, part in self._parts()}

    @property
    def space(self) -> Space:
        """The architectures that have exactly the kept branches."""
        kept = self.kept
        return Space(
            tuple(
                Choice(c.name, kept[c.name], len(kept[c.name]), len(kept[c.name])) if c.name in kept else c
                for c in self.whole.choices
            )
        )

    def paths(self, space: Space, rng: np.random.Generator) -> list[Path]:
        noise = rng.logistic(size=self.scores.numel()).astype(np.float32)
        others: list[Path] = self.policy.paths(Space(self._others), rng) if self._others else [{}]
        mask = self.fixed
        if mask is None:
            mask = kept_branches(self.choices, self._clean_scores() + noise, self.count)
        return [self._path(path, mask, noise) for path in others]

    def update(self) -> None:
        """One step of the scores by the gradients of the paths since the last; `train_supernet` calls it before its own."""
        if self.scores.grad is None:
            return
        distributed.average_gradients([self.scores])
        if bool(torch.isfinite(self.scores.grad).all()):  # the loss scaling of fp16 may overflow; its own update is left out too
            self._adam.step()
        self._adam.zero_grad()

    def after_epoch(self, epochs: int) -> None:
        """Fixes the branches where that is due after this many epochs."""
        self._at(epochs)
        if self.fixed is None and epochs >= self.schedule.fixed_after:
            self.fixed = kept_branches(self.choices, self._clean_scores(), self.count)
            for module in self.net.modules():
                if isinstance(module, _BatchNorm):
                    module.reset_running_stats()

    def state_dict(self) -> dict[str, Any]:
        adam = {name: value.tolist() for name, value in self._adam.state[self.scores].items()}
        fixed = None if self.fixed is None else self.fixed.tolist()
        return {"epochs": self.epochs, "scores": self.scores.tolist(), "adam": adam, "fixed": fixed}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        with torch.no_grad():
            self.scores.copy_(torch.tensor(state["scores"]))
        self._adam.state[self.scores] = {
            name: torch.tensor(value, device="cpu" if name == "step" else self.scores.device)
            for name, value in state["adam"].items()
        }
        self.fixed = None if state["fixed"] is None else np.array(state["fixed"])
        self._at(state["epochs"])

    def _at(self, epochs: int) -> None:
        self.epochs = epochs
        self._adam.param_groups[0]["weight_decay"] = self.schedule.decay(epochs)

    def _clean_scores(self) -> npt.NDArray[np.float32]:
        return self.scores.detach().cpu().numpy().copy()

    def _parts(self) -> list[tuple[Choice, slice]]:
        return list(Space(self.choices).slices())

    def _path(self, others: Path, mask: npt.NDArray[np.bool_], noise: npt.NDArray[np.float32]) -> Path:
        gates = torch.from_numpy(mask.astype(np.float32))
        if self.fixed is None and self.epochs >= self.schedule.random_epochs:
            soft = torch.sigmoid(self.scores + torch.from_numpy(noise).to(self.scores.device))
            gates = gates.to(self.scores.device) + (soft - soft.detach())  # in this order it is exactly 0 or 1
        mine = {c.name: gates[part] for c, part in self._parts()}
        found: dict[str, Tensor] = {c.name: mine[c.name] if c.name in mine else others[c.name] for c in self.whole.choices}
        return PartlyFrozen(found, others.frozen) if isinstance(others, PartlyFrozen) else found


def kept_branches(choices: tuple[Choice, ...], scores: npt.NDArray[np.float32], count: int) -> npt.NDArray[np.bool_]:
    """The `count` best of all branches, shape (branches,): first the best of each choice, then the best of what is left."""
    mask = np.zeros(len(scores), bool)
    for _, part in Space(choices).slices():
        mask[part.start + int(np.argmax(scores[part]))] = True
    order = np.argsort(-scores, kind="stable")
    left = order[~mask[order]]
    mask[left[: count - int(mask.sum())]] = True
    return mask
