"""What every option of a supernet executes on a device."""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable, Mapping

import torch
from torch import Tensor, nn

from paceline.arch import Arch
from paceline.errors import SpaceError
from paceline.exporters.merge import merged
from paceline.exporters.torch_graph import graph_of
from paceline.graph import OpSpec
from paceline.measurement import Progress, silent
from paceline.pipeline.supernet.mixed import derive, hard, mixed_of, path, space_of
from paceline.space_operators import SpaceOperators


def space_operators(net: nn.Module, example: Tensor, *, progress: Progress = silent) -> SpaceOperators:
    """The operators of every option of a supernet, merged and exported by itself at the place where it stands.

    `example` is one input, (1, C, H, W). The fixed operators are those of one whole network without those of its options.
    Equal options at places of equal shape are exported once. Exact under the condition of SpaceOperators.

    Raises SpaceError where an option's operators are not all found in the whole network: then something is fused across options.
    """
    space = space_of(net)
    first = Arch(tuple((c.name, c.options[: c.at_least]) for c in space.choices))
    inputs = _inputs(net, first, example)
    known: dict[Hashable, tuple[OpSpec, ...]] = {}
    options: dict[tuple[str, str], tuple[OpSpec, ...]] = {}
    total = sum(len(c.options) for c in space.choices)
    for mixed in mixed_of(net):
        x = inputs[mixed.choice.name]
        for name in mixed.choice.options:
            option = mixed.options[name]
            alike = (tuple(x.shape), _structure(option))
            if alike not in known:
                known[alike] = _operators(option, x)
            options[mixed.choice.name, name] = known[alike]
            progress(len(options), total, f"{mixed.choice.name} {name}")
    fixed = _without(_operators(derive(net, first), example), first, options)
    return SpaceOperators(space, fixed, options)


def _operators(module: nn.Module, x: Tensor) -> tuple[OpSpec, ...]:
    return tuple(graph_of(merged(module).module, x).operators())


def _without(whole: tuple[OpSpec, ...], arch: Arch, options: Mapping[tuple[str, str], tuple[OpSpec, ...]]) -> tuple[OpSpec, ...]:
    """The operators of a network that none of its options accounts for."""
    taken = Counter(spec for choice, names in arch.picks for name in names for spec in options[choice, name])
    fixed = []
    for spec in whole:
        if taken[spec]:
            taken[spec] -= 1
        else:
            fixed.append(spec)
    lost = list(taken.elements())
    if lost:
        raise SpaceError(
            f"options by themselves need {lost[0].key}, the whole network does not: something is fused across options"
        )
    return tuple(fixed)


@torch.no_grad()
def _inputs(net: nn.Module, arch: Arch, example: Tensor) -> dict[str, Tensor]:
    """What each choice reads when `net` computes along `arch`."""
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
    parts = []
    for name, part in module.named_modules():
        plain = tuple(sorted((k, repr(v)) for k, v in vars(part).items() if not k.startswith("_") and k != "training"))
        tensors = (*part.named_parameters(recurse=False), *part.named_buffers(recurse=False))
        parts.append((name, type(part), plain, tuple((k, tuple(t.shape)) for k, t in tensors)))
    return tuple(parts)
