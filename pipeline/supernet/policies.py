"""Which paths a training step takes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import numpy as np
import torch
from torch import Tensor

from paceline.arch import Choice, Space
from paceline.errors import SpaceError
from paceline.pipeline.supernet.mixed import PartlyFrozen, Path, hard
from paceline.pipeline.training import BetweenEpochs


class Policy(Protocol):
    """Says which paths one step runs. Their gradients add up to one update."""

    def paths(self, space: Space, rng: np.random.Generator) -> list[Path]: ...


@runtime_checkable
class ChangingPolicy(Policy, BetweenEpochs, Protocol):
    """A policy that changes between epochs."""


@runtime_checkable
class LearningPolicy(Policy, Protocol):
    """A policy whose paths have weights that learn."""

    def update(self) -> None:
        """Learns from the gradients of the step's paths; the weights of the network have not been updated yet."""


@dataclass(frozen=True)
class Uniform:
    """`count` architectures, independent, fair only in expectation.

    A choice of one option takes a uniform one (single path one-shot, Guo et al. 2020), a choice of up to m a uniform number of
    options and then a uniform set of so many (MixPath, Chu et al. 2023); that is how `Space.sample` draws.
    """

    count: int = 1

    def paths(self, space: Space, rng: np.random.Generator) -> list[Path]:
        return [hard(space, space.sample(rng)) for _ in range(self.count)]


@dataclass(frozen=True)
class StrictFair:
    """Strict fairness (FairNAS, Chu et al. 2021): a step trains every option of every choice exactly once.

    A step is m single paths, m the largest number of options; each choice takes its options in a random order of its own. The
    paper has m options everywhere. Here a choice may have n < m: then n random ones of the m paths train its options, one
    each; on the other m - n it computes a random option with frozen parameters, so that these paths still train every other
    choice. So after each step all options of a choice have had the same number of updates, in any space and at the cost of m
    paths.

    Raises SpaceError where a choice may take more than one option: training each alone would never train a sum of them.
    """

    def paths(self, space: Space, rng: np.random.Generator) -> list[Path]:
        m = max(len(c.options) for c in space.choices)
        orders = {c.name: _order(c, m, rng) for c in space.choices}
        found: list[Path] = []
        for k in range(m):
            weights = {c.name: torch.zeros(len(c.options)) for c in space.choices}
            for name, order in orders.items():
                weights[name][order[k][0]] = 1.0
            frozen = {name for name, order in orders.items() if not order[k][1]}
            found.append(PartlyFrozen(weights, frozen) if frozen else weights)
        return found


def _order(choice: Choice, m: int, rng: np.random.Generator) -> list[tuple[int, bool]]:
    """For each of m paths the option of a choice, and whether it learns there: every option does once."""
    if choice.at_most > 1:
        raise SpaceError(
            f"strict fairness trains one option at a time, choice {choice.name!r} takes up to {choice.at_most}; take Uniform"
        )
    n = len(choice.options)
    entries = [(i, True) for i in range(n)] + [(int(i), False) for i in rng.integers(n, size=m - n)]
    return [entries[i] for i in rng.permutation(m)]


def embedded(weights: Path, part: Space, whole: Space) -> Path:
    """A path of a space that has only some options of another, as a path of that: weight 0 for what it does not have."""
    found: dict[str, Tensor] = {}
    for c, wide in zip(part.choices, whole.choices, strict=True):
        mine = weights[c.name]
        index = torch.tensor([wide.options.index(o) for o in c.options])
        found[c.name] = torch.zeros(len(wide.options), dtype=mine.dtype).index_copy(0, index, mine)
    return PartlyFrozen(found, weights.frozen) if isinstance(weights, PartlyFrozen) else found
