"""A choice as a module, and the path that says which options it computes."""

from __future__ import annotations

import copy
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from paceline.arch import Arch, Choice, Space
from paceline.errors import SpaceError

Path = Mapping[str, Tensor]
"""For every choice one weight per option, shape (options,): 0/1 is a sub-network, a softmax is a relaxation."""


class PartlyFrozen(dict[str, Tensor]):
    """A path on which the options of the choices in `frozen` compute and pass gradients on, but learn nothing themselves."""

    def __init__(self, weights: Path, frozen: Collection[str]) -> None:
        super().__init__(weights)
        self.frozen = frozenset(frozen)


class Mixed(nn.Module):
    """The sum of the options whose weight on the current path is not zero, each times its weight.

    An option of constant weight 1 is not multiplied. All options must map a shape to the same shape.
    Raises SpaceError outside `path(net, weights)`, and when no option has a weight.
    """

    def __init__(self, name: str, options: Mapping[str, nn.Module], at_least: int = 1, at_most: int = 1) -> None:
        super().__init__()
        self.choice = Choice(name, tuple(options), at_least, at_most)
        if at_least == 0:
            raise SpaceError(
                f"choice {name!r} may take nothing, which has no shape; give it an option that computes nothing (Skip)"
            )
        try:
            self.options = nn.ModuleDict(options)
        except KeyError as e:
            raise SpaceError(f"an option of choice {name!r} can't be a module's name: {e.args[0]}; rename it") from e
        self._taken: tuple[tuple[nn.Module, Tensor | None], ...] = ()
        self._frozen = False

    def take(self, weights: Tensor, frozen: bool) -> None:
        """Sets the weights, shape (options,). `path` is the way to call it, because it puts the old ones back."""
        if weights.shape != (len(self.options),):
            raise SpaceError(f"choice {self.choice.name!r} needs {len(self.options)} weights, got shape {tuple(weights.shape)}")
        values = weights.detach().tolist()
        plain = not weights.requires_grad
        self._taken = tuple(
            (option, None if plain and value == 1.0 else weights[i])
            for i, (option, value) in enumerate(zip(self.options.values(), values, strict=True))
            if value != 0.0
        )
        self._frozen = frozen
        if not self._taken:
            raise SpaceError(
                f"the path gives every option of choice {self.choice.name!r} weight 0; it needs at least one other weight"
            )

    def forward(self, x: Tensor) -> Tensor:
        if not self._taken:
            raise SpaceError(f"choice {self.choice.name!r} has no weights; run the supernet inside `with path(net, weights):`")
        total: Tensor | None = None
        for option, weight in self._taken:
            y: Tensor = _without_learning(option, x) if self._frozen else option(x)
            y = y if weight is None else y * weight
            total = y if total is None else total + y
        assert total is not None
        return total


def _without_learning(option: nn.Module, x: Tensor) -> Tensor:
    learning = [p for p in option.parameters() if p.requires_grad]
    try:
        for p in learning:
            p.requires_grad_(False)
        y: Tensor = option(x)
        return y
    finally:
        for p in learning:
            p.requires_grad_(True)


class Sum(nn.Module):
    """The sum of several modules that read the same tensor: what a choice becomes that takes more than one option."""

    def __init__(self, terms: Mapping[str, nn.Module]) -> None:
        super().__init__()
        self.terms = nn.ModuleDict(terms)

    def forward(self, x: Tensor) -> Tensor:
        first, *rest = self.terms.values()
        y: Tensor = first(x)
        for term in rest:
            y = y + term(x)
        return y


def mixed_of(net: nn.Module) -> list[Mixed]:
    """The choices of a network as modules, in the order of its space."""
    return [m for m in net.modules() if isinstance(m, Mixed)]


def space_of(net: nn.Module) -> Space:
    """The space of a supernet: its choices in the order of `net.modules()`. Raises SpaceError where there is none."""
    choices = tuple(m.choice for m in mixed_of(net))
    if not choices:
        raise SpaceError(f"{type(net).__name__} holds no Mixed, so there is nothing to choose")
    return Space(choices)


def hard(space: Space, arch: Arch) -> Path:
    """The path of one architecture: weight 1 for what it takes, 0 for the rest."""
    weights = torch.from_numpy(space.encode(arch))
    return {choice.name: weights[part] for choice, part in space.slices()}


@contextmanager
def path(net: nn.Module, weights: Path) -> Iterator[None]:
    """Inside, `net` computes along this path; afterwards, also after an exception, along the one it had before.

    Raises SpaceError where path and network do not have the same choices and options.
    """
    choices = mixed_of(net)
    wrong = {m.choice.name for m in choices} ^ set(weights)
    if wrong:
        raise SpaceError(f"path and network disagree on the choices {', '.join(sorted(wrong))}; take both from the same space")
    frozen = weights.frozen if isinstance(weights, PartlyFrozen) else frozenset[str]()
    before = [(m, m._taken, m._frozen) for m in choices]
    try:
        for m in choices:
            m.take(weights[m.choice.name], m.choice.name in frozen)
        yield
    finally:
        for m, taken, was_frozen in before:
            m._taken, m._frozen = taken, was_frozen


def derive(net: nn.Module, arch: Arch) -> nn.Module:
    """One architecture as a network of plain modules, weights copied from the supernet; `net` stays as it is.

    A choice that takes several options becomes their `Sum`. Raises SpaceError where `arch` is not of the network's space.
    """
    space_of(net).check(arch)
    memo: dict[int, object] = {}  # deepcopy takes from here what it would copy: the options not taken are never copied
    for m in reversed(mixed_of(net)):  # inner choices before those around them
        memo[id(m)] = copy.deepcopy(_chosen(m, arch[m.choice.name]), memo)
    derived: nn.Module = copy.deepcopy(net, memo)
    return derived


def _chosen(mixed: Mixed, options: Sequence[str]) -> nn.Module:
    if len(options) == 1:
        return mixed.options[options[0]]
    return Sum({o: mixed.options[o] for o in options})
