"""What every option of a supernet executes on a device."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Hashable, Iterable, Iterator, Mapping, Sequence

import numpy as np
import torch
from torch import Tensor, fx, nn

from paceline.arch import Arch
from paceline.errors import SpaceError
from paceline.exporters.merge import merged
from paceline.exporters.torch_graph import graph_of
from paceline.graph import OpSpec
from paceline.measurement import Progress, silent
from paceline.pipeline.ops import unstabilised
from paceline.pipeline.supernet.mixed import Mixed, hard, mixed_of, on_path, path, plain, space_of
from paceline.pipeline.supernet.norms import ShadowBatchNorm
from paceline.pipeline.supernet.widths import Width
from paceline.space_operators import SpaceOperators, decisions

Picks = Mapping[str, tuple[str, ...]]
"""What some choices take."""
Operators = tuple[OpSpec, ...]

_TRIES = 20


def space_operators(net: nn.Module, example: Tensor, *, progress: Progress = silent) -> SpaceOperators:
    """The operators of every option of a supernet, merged and exported by itself at the place where it stands.

    `example` is one input, (1, C, H, W). Where an option holds other choices, or its channels follow from widths, it is exported
    for each combination of what these take; its operators count for the outermost choice. The operators outside of all options
    are those of whole networks without those of their options; where they change with widths, they count for the last of these
    widths. Equal options at places of equal shape are exported once. Exact under the condition of SpaceOperators.

    Raises SpaceError where an option's operators are not all found in the whole network: then something is fused across options.
    """
    traced = _Traced(net, example)
    options: dict[tuple[str, ...], Operators] = {(c.name, o): () for c in traced.space.choices for o in c.options}
    given: dict[str, tuple[str, ...]] = {}
    outer = _outermost(net)
    done, total = 0, sum(len(mixed.options) for mixed in outer)
    for mixed in outer:
        name = mixed.choice.name
        given[name] = traced.scope(mixed)
        for option in mixed.choice.options:
            for picks in traced.combinations(given[name]):
                key = (name, option, *("+".join(taken) for taken in picks.values()))
                options[key] = traced.operators(mixed, option, picks)
            done += 1
            progress(done, total, f"{name} {option}")
    return _with_outside(traced, SpaceOperators(traced.space, (), options, given))


def shipped(net: nn.Module, arch: Arch) -> nn.Module:
    """One architecture of a supernet as it is deployed: without what only training has, merged."""
    return merged(unstabilised(plain(net, arch))).module


def _outermost(net: nn.Module) -> list[Mixed]:
    """The choices between modules that are not part of an option of another one."""
    every = mixed_of(net)
    inner = {id(part) for mixed in every for option in mixed.options.values() for part in option.modules()}
    return [mixed for mixed in every if id(mixed) not in inner]


class _Traced:
    """A supernet, and how the shapes in it depend on widths."""

    def __init__(self, net: nn.Module, example: Tensor) -> None:
        self.net, self.example, self.space = net, example, space_of(net)
        self.first = Arch(tuple((c.name, c.options[: c.at_least]) for c in self.space.choices))
        self.decisions = {c.name: decisions(c) for c in self.space.choices}
        self.widths = {m.choice.name: m for m in on_path(net) if isinstance(m, Width)}
        self._inputs: dict[Arch, dict[str, Tensor]] = {}
        self._known: dict[Hashable, Operators] = {}
        self._read = self._widths_of_inputs()

    def combinations(self, names: Iterable[str]) -> Iterator[dict[str, tuple[str, ...]]]:
        """All that these choices can take together."""
        chosen = {name: self.decisions[name] for name in names}
        for taken in itertools.product(*chosen.values()):
            yield dict(zip(chosen, taken, strict=True))

    def extremes(self, width: str) -> tuple[Picks, Picks]:
        """The least and the largest number: what depends on a width differs between them."""
        return {width: self.decisions[width][0]}, {width: self.decisions[width][-1]}

    def scope(self, mixed: Mixed) -> tuple[str, ...]:
        """The choices on which the operators of a choice's options depend besides, in the order of the space."""
        found = set(self._read[mixed.choice.name])
        found |= {m.choice.name for m in mixed.modules() if isinstance(m, Mixed | Width | ShadowBatchNorm)}
        return tuple(c.name for c in self.space.choices if c.name in found - {mixed.choice.name})

    def operators(self, mixed: Mixed, option: str, picks: Picks) -> Operators:
        """Those of one option at its place, while other choices take `picks`."""
        name = mixed.choice.name
        x = self._inputs_along(_changed(self.first, {n: picks[n] for n in self._read[name]}))[name]
        module = plain(mixed.options[option], _changed(self.first, {name: (option,), **picks}))
        alike = (tuple(x.shape), _structure(module))
        if alike not in self._known:
            shipped = merged(unstabilised(module)).module
            shipped_alike = (tuple(x.shape), _program(shipped))  # what merges to the same is exported once
            if shipped_alike not in self._known:
                self._known[shipped_alike] = tuple(graph_of(shipped, x).operators())
            self._known[alike] = self._known[shipped_alike]
        return self._known[alike]

    def whole(self, arch: Arch) -> Operators:
        """Those of a whole network."""
        if arch not in self._known:
            self._known[arch] = tuple(graph_of(shipped(self.net, arch), self.example).operators())
        return self._known[arch]

    def _widths_of_inputs(self) -> dict[str, list[str]]:
        """For every choice between modules the widths on which the shape of its input depends."""
        found: dict[str, list[str]] = {name: [] for name in self._inputs_along(self.first)}
        for width in self.widths:
            least, largest = (self._inputs_along(_changed(self.first, picks)) for picks in self.extremes(width))
            for name in found:
                if least[name].shape != largest[name].shape:
                    found[name].append(width)
        return found

    def _inputs_along(self, arch: Arch) -> dict[str, Tensor]:
        if arch not in self._inputs:
            self._inputs[arch] = _inputs(self.net, arch, self.example)
        return self._inputs[arch]


def _with_outside(traced: _Traced, inside: SpaceOperators) -> SpaceOperators:
    """`inside` with the operators that belong to no option between modules.

    The operators of a network come in the same order at all widths, so each has a place, and the widths that change it show.
    """
    base = _clear_base(traced, inside)
    at_base = traced.whole(base)
    places = _left(at_base, inside.of(base))

    def found(picks: Picks) -> list[OpSpec]:
        arch = _changed(base, picks)
        whole = traced.whole(arch)
        specs = [whole[i] for i in places] if len(whole) == len(at_base) else []
        if Counter(specs) != Counter(whole) - Counter(inside.of(arch)):
            raise SpaceError(
                f"the operators of {type(traced.net).__name__} come in another order when widths change: {dict(picks)}"
            )
        return specs

    scopes: list[tuple[str, ...]] = [() for _ in places]
    for width in traced.widths:
        least, largest = (found(picks) for picks in traced.extremes(width))
        scopes = [(*scope, width) if a != b else scope for scope, a, b in zip(scopes, least, largest, strict=True)]
    specs: dict[tuple[int, tuple[str, ...]], OpSpec] = {}
    for picks in _covering([list(traced.combinations(scope)) for scope in dict.fromkeys(scopes) if scope]):
        for i, (scope, spec) in enumerate(zip(scopes, found(picks), strict=True)):
            specs[i, tuple(picks.get(name, base[name])[0] for name in scope)] = spec
    fixed = tuple(at_base[place] for place, scope in zip(places, scopes, strict=True) if not scope)
    options, given = dict(inside.options), dict(inside.given)
    for width in traced.widths:
        mine = [i for i, scope in enumerate(scopes) if scope and scope[-1] == width]
        scope = tuple(name for name in traced.widths if any(name in scopes[i] for i in mine) or name == width)
        given[width] = tuple(name for name in scope if name != width)
        for picks in traced.combinations(scope):
            key = (width, *picks[width], *(picks[name][0] for name in given[width]))
            options[key] = tuple(specs[i, tuple(picks[name][0] for name in scopes[i])] for i in mine)
    return SpaceOperators(traced.space, fixed, options, {name: others for name, others in given.items() if others})


def _clear_base(traced: _Traced, inside: SpaceOperators) -> Arch:
    """An architecture in which no operator outside of options equals one inside, so that it is certain which is which."""
    rng = np.random.default_rng(0)
    for arch in (traced.first, *(traced.space.sample(rng) for _ in range(_TRIES if traced.widths else 0))):
        whole, taken = Counter(traced.whole(arch)), Counter(inside.of(arch))
        if not (whole - taken) & taken:
            return arch
    return traced.first


def _left(whole: Operators, taken: Operators) -> list[int]:
    """The places of the operators of a network that none of its options accounts for."""
    left = Counter(taken)
    places = []
    for i, spec in enumerate(whole):
        if left[spec]:
            left[spec] -= 1
        else:
            places.append(i)
    lost = list(left.elements())
    if lost:
        raise SpaceError(
            f"options by themselves need {lost[0].key}, the whole network does not: something is fused across options"
        )
    return places


def _covering(scopes: Sequence[Sequence[Picks]]) -> Iterator[Picks]:
    """Few combinations of picks that contain each one of each scope."""
    remaining = [picks for scope in scopes for picks in scope]
    while remaining:
        together: dict[str, tuple[str, ...]] = {}
        for picks in remaining:
            if all(together.get(name, taken) == taken for name, taken in picks.items()):
                together.update(picks)
        yield together
        remaining = [picks for picks in remaining if not picks.items() <= together.items()]


def _changed(arch: Arch, picks: Picks) -> Arch:
    """`arch` with other picks."""
    return Arch(tuple((name, picks.get(name, taken)) for name, taken in arch.picks))


@torch.no_grad()
def _inputs(net: nn.Module, arch: Arch, example: Tensor) -> dict[str, Tensor]:
    """What each choice between modules reads when `net` computes along `arch`."""
    found: dict[str, Tensor] = {}
    modes = [(m, m.training) for m in net.modules()]
    hooks = [
        m.register_forward_pre_hook(lambda module, args: found.update({module.choice.name: args[0].contiguous()}))
        for m in mixed_of(net)
    ]
    try:
        net.eval()
        with path(net, hard(space_of(net), arch)):
            net(example)
    finally:
        for hook in hooks:
            hook.remove()
        for module, training in modes:
            module.training = training
    return found


def _structure(module: nn.Module) -> Hashable:
    """Equal for modules that differ only in the values of their weights: types, plain attributes and shapes of every part."""
    return tuple((name, _part(part)) for name, part in module.named_modules())


def _part(part: nn.Module) -> Hashable:
    plain = tuple(sorted((k, repr(v)) for k, v in vars(part).items() if not k.startswith("_") and k != "training"))
    tensors = (*part.named_parameters(recurse=False), *part.named_buffers(recurse=False))
    return type(part), plain, tuple((k, tuple(t.shape)) for k, t in tensors)


def _program(module: nn.Module) -> Hashable:
    """`_structure` of a merged module, of what it calls in which order: what its parts are called makes no difference."""
    assert isinstance(module, fx.GraphModule)
    numbers = {node: i for i, node in enumerate(module.graph.nodes)}

    def read(argument: fx.node.Argument) -> fx.node.Argument:
        return f"node {numbers[argument]}" if isinstance(argument, fx.Node) else argument

    def called(node: fx.Node) -> Hashable:
        if node.op == "call_module":
            return _structure(module.get_submodule(str(node.target)))
        if node.op == "get_attr":
            owner, _, name = str(node.target).rpartition(".")
            return tuple(getattr(module.get_submodule(owner), name).shape)
        return "" if node.op == "placeholder" else str(node.target)

    return tuple((node.op, called(node), repr(fx.node.map_aggregate((node.args, node.kwargs), read))) for node in numbers)
