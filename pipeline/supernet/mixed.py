"""A choice as a module, and the path that says which options it computes."""

from __future__ import annotations

import copy
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from typing import NamedTuple

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


def weights_of(choice: Choice, weights: Path) -> Tensor:
    """What a path says about one choice, shape (options,). Raises SpaceError where it says nothing that fits."""
    if choice.name not in weights:
        raise SpaceError(
            f"the path has no choice {choice.name!r}; a module that depends on it needs its Mixed in the same network"
        )
    mine = weights[choice.name]
    if mine.shape != (len(choice.options),):
        raise SpaceError(f"choice {choice.name!r} needs {len(choice.options)} weights, got shape {tuple(mine.shape)}")
    return mine


class OnPath(nn.Module):
    """A module that computes what the current path says about one or more choices.

    `owns` is the choice that it brings into the space of its network (`Mixed` does), None where it only reads the choices of
    others (`ShadowBatchNorm` does). `taken` is what `take` made of the path; `path` puts the old value back afterwards.
    """

    owns: Choice | None = None
    taken: object = None

    def take(self, weights: Path) -> None:
        """Sets what to compute. `path` calls it. Raises SpaceError for weights that mean nothing here."""
        raise NotImplementedError

    def computing(self) -> Iterable[nn.Module]:
        """Its parts that the current path computes; all where there is none."""
        return self.children()

    def chosen(self, arch: Arch) -> nn.Module:
        """What it is in a network derived for one architecture: plain modules, which may be this module's own."""
        raise NotImplementedError


class _Terms(NamedTuple):
    """The options that have a weight; the weight is None where it is constant 1."""

    options: tuple[tuple[nn.Module, Tensor | None], ...]
    frozen: bool


class Mixed(OnPath):
    """The sum of the options whose weight on the current path is not zero, each times its weight.

    An option of constant weight 1 is not multiplied. All options must map a shape to the same shape.
    Raises SpaceError outside `path(net, weights)`, and when no option has a weight.
    """

    taken: _Terms | None = None

    def __init__(self, name: str, options: Mapping[str, nn.Module], at_least: int = 1, at_most: int = 1) -> None:
        super().__init__()
        self.owns = self.choice = Choice(name, tuple(options), at_least, at_most)
        if at_least == 0:
            raise SpaceError(
                f"choice {name!r} may take nothing, which has no shape; give it an option that computes nothing (Skip)"
            )
        try:
            self.options = nn.ModuleDict(options)
        except KeyError as e:
            raise SpaceError(f"an option of choice {name!r} can't be a module's name: {e.args[0]}; rename it") from e

    @classmethod
    def joining(cls, choice: Choice, options: Mapping[str, nn.Module]) -> Mixed:
        """Another module that is decided by the choice of a Mixed elsewhere in the network. Its options have the same names."""
        mixed = cls(choice.name, options, choice.at_least, choice.at_most)
        if mixed.choice != choice:
            raise SpaceError(
                f"a module that joins choice {choice.name!r} needs the options {choice.options}, got {tuple(options)}"
            )
        mixed.owns = None
        return mixed

    def take(self, weights: Path) -> None:
        mine = weights_of(self.choice, weights)
        values = mine.detach().tolist()
        plain = not mine.requires_grad
        terms = tuple(
            (option, None if plain and value == 1.0 else mine[i])
            for i, (option, value) in enumerate(zip(self.options.values(), values, strict=True))
            if value != 0.0
        )
        if not terms:
            raise SpaceError(
                f"the path gives every option of choice {self.choice.name!r} weight 0; it needs at least one other weight"
            )
        self.taken = _Terms(terms, isinstance(weights, PartlyFrozen) and self.choice.name in weights.frozen)

    def computing(self) -> Iterable[nn.Module]:
        return self.options.values() if self.taken is None else [option for option, _ in self.taken.options]

    def chosen(self, arch: Arch) -> nn.Module:
        options = arch[self.choice.name]
        if len(options) == 1:
            return self.options[options[0]]
        return Sum({o: self.options[o] for o in options})

    def forward(self, x: Tensor) -> Tensor:
        if self.taken is None:
            raise SpaceError(f"choice {self.choice.name!r} has no weights; run the supernet inside `with path(net, weights):`")
        total: Tensor | None = None
        for option, weight in self.taken.options:
            y: Tensor = _without_learning(option, x) if self.taken.frozen else option(x)
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


def on_path(net: nn.Module) -> list[OnPath]:
    """The modules of a network that a path decides about, each before those inside it."""
    return [m for m in net.modules() if isinstance(m, OnPath)]


def computing(net: nn.Module) -> Iterator[nn.Module]:
    """`net` and the modules inside it that compute along the current path, as `net.modules()` gives all."""
    yield net
    for part in net.computing() if isinstance(net, OnPath) else net.children():
        yield from computing(part)


def mixed_of(net: nn.Module) -> list[Mixed]:
    """The choices between modules, in the order of the network's space."""
    return [m for m in on_path(net) if isinstance(m, Mixed)]


def space_of(net: nn.Module) -> Space:
    """The space of a supernet: its choices in the order of `net.modules()`. Raises SpaceError where there is none."""
    choices = tuple(m.owns for m in on_path(net) if m.owns)
    if not choices:
        raise SpaceError(f"{type(net).__name__} holds no Mixed and no Width, so there is nothing to choose")
    return Space(choices)


def hard(space: Space, arch: Arch) -> Path:
    """The path of one architecture: weight 1 for what it takes, 0 for the rest."""
    weights = torch.from_numpy(space.encode(arch))
    return {choice.name: weights[part] for choice, part in space.slices()}


Along = Callable[[Path], AbstractContextManager[None]]
"""Path -> a context inside which a network computes along it."""


def switch(net: nn.Module) -> Along:
    """`path` for many paths of a network whose modules stay the same: it looks for them once."""
    modules = on_path(net)
    names = {m.owns.name for m in modules if m.owns}

    @contextmanager
    def along(weights: Path) -> Iterator[None]:
        wrong = names ^ set(weights)
        if wrong:
            raise SpaceError(
                f"path and network disagree on the choices {', '.join(sorted(wrong))}; take both from the same space"
            )
        before = [m.taken for m in modules]
        try:
            for m in modules:
                m.take(weights)
            yield
        finally:
            for m, taken in zip(modules, before, strict=True):
                m.taken = taken

    return along


def path(net: nn.Module, weights: Path) -> AbstractContextManager[None]:
    """Inside, `net` computes along this path; afterwards, also after an exception, along the one it had before.

    Entering raises SpaceError where path and network do not have the same choices and options.
    """
    return switch(net)(weights)


def derive(net: nn.Module, arch: Arch) -> nn.Module:
    """One architecture as a network of plain modules, weights copied from the supernet; `net` stays as it is.

    A choice that takes several options becomes their `Sum`. Raises SpaceError where `arch` is not of the network's space.
    """
    space_of(net).check(arch)
    return plain(net, arch)


def plain(part: nn.Module, arch: Arch) -> nn.Module:
    """What `part` of a supernet becomes in the network that is derived for `arch`: a copy of plain modules."""
    memo: dict[int, object] = {}  # deepcopy takes from here what it would copy: the options not taken are never copied
    _settle(part, arch, memo)
    derived: nn.Module = copy.deepcopy(part, memo)
    return derived


def _settle(module: nn.Module, arch: Arch, memo: dict[int, object]) -> None:
    """Puts into `memo` what the modules on a path become, the inner ones first."""
    if not isinstance(module, OnPath):
        for child in module.children():
            _settle(child, arch, memo)
    elif id(module) not in memo:
        chosen = module.chosen(arch)
        _settle(chosen, arch, memo)
        memo[id(module)] = copy.deepcopy(chosen, memo)
