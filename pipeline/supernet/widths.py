"""Numbers of channels as a choice."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from paceline.arch import Arch, Choice
from paceline.errors import SpaceError
from paceline.pipeline.supernet.mixed import OnPath, Path, weights_of


class Width(OnPath):
    """A choice between numbers: of channels, or of what channels follow from, such as an expansion.

    It computes nothing: the layers that `elastic` makes refer to it, any number of them, and belong to one choice this way. A
    policy can't freeze it: the layers are those of every option, so that what learns at one width learns at the others too.
    Raises SpaceError for options that do not go from the least number to the largest.
    """

    taken: tuple[tuple[str, Tensor | None], ...] | None = None

    def __init__(self, name: str, options: Mapping[str, float]) -> None:
        super().__init__()
        self.owns = self.choice = Choice(name, tuple(options))
        self.numbers = dict(options)
        if list(options.values()) != sorted(set(options.values())):
            raise SpaceError(f"the options of width {name!r} must go from the least number to the largest, got {self.numbers}")

    def take(self, weights: Path) -> None:
        mine = weights_of(self.choice, weights)
        values = mine.detach().tolist()
        plain = not mine.requires_grad
        self.taken = tuple(
            (option, None if plain and value == 1.0 else mine[i])
            for i, (option, value) in enumerate(zip(self.choice.options, values, strict=True))
            if value != 0.0
        )
        if not self.taken:
            raise SpaceError(f"the path gives every option of choice {self.choice.name!r} weight 0; it needs one other weight")

    def chosen(self, arch: Arch) -> nn.Module:
        return nn.Identity()

    def extra_repr(self) -> str:
        return f"{self.choice.name}: {', '.join(self.choice.options)}"


@dataclass(frozen=True)
class Channels:
    """How many channels a tensor has: a number for each combination of options of `widths`."""

    widths: tuple[Width, ...]
    counts: Mapping[tuple[str, ...], int]

    def at(self, arch: Arch) -> int:
        """The number in one architecture."""
        return self.counts[tuple(arch[width.choice.name][0] for width in self.widths)]

    def now(self) -> tuple[int, Tensor | None]:
        """The number that the current path computes, and the mask of these channels, shape (number,); None is a mask of ones.

        The mask is the sum over combinations of their weight times the mask of their first channels. So the first channels
        have the largest mask, and along a path of one architecture it is 1. Raises SpaceError outside a path.
        """
        terms: list[tuple[tuple[str, ...], Tensor | None]] = [((), None)]
        for width in self.widths:
            if width.taken is None:
                name = width.choice.name
                raise SpaceError(f"choice {name!r} has no weights; run the supernet inside `with path(net, weights):`")
            terms = [((*key, option), _product(weight, w)) for key, weight in terms for option, w in width.taken]
        number = max(self.counts[key] for key, _ in terms)
        if len(terms) == 1 and terms[0][1] is None:
            return number, None
        weights = [torch.ones(()) if weight is None else weight for _, weight in terms]
        at = torch.arange(number, device=weights[0].device)
        return number, torch.stack([w * (at < self.counts[k]) for w, (k, _) in zip(weights, terms, strict=True)]).sum(0)


def _product(a: Tensor | None, b: Tensor | None) -> Tensor | None:
    return b if a is None else a if b is None else a * b
