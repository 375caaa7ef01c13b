"""From the data of a chain to modules."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial

import torch
from torch import nn

from paceline.arch import Arch, Choice
from paceline.pipeline.ops import (
    ACTIVATIONS,
    GATES,
    ConvBNAct,
    MBConv,
    Place,
    RepBlock,
    RepConv,
    SqueezeExcite,
    align,
    branch_type,
    fitting,
    initialise,
    mobileone,
    rep_block,
)
from paceline.pipeline.ops.mbconv import hidden_width
from paceline.pipeline.spaces.chain import Chain, Slot, Stem
from paceline.pipeline.spaces.options import MBConvOp, MultiKernelOp, Op
from paceline.pipeline.spaces.rep import MobileOneOp, RepOp, SearchedRepOp
from paceline.pipeline.supernet.elastic import elastic
from paceline.pipeline.supernet.mixed import Mixed, Sum, mixed_of
from paceline.pipeline.supernet.norms import ShadowBatchNorm
from paceline.pipeline.supernet.widths import Width


def supernet(chain: Chain, seed: int) -> nn.Module:
    """All architectures of a chain in one network; see `Chain.supernet`."""
    net = _built(chain, None)
    initialise(net, seed)
    for mixed in mixed_of(net):
        align([option for option in mixed.options.values() if isinstance(option, MBConv)])
    return net


def network(chain: Chain, arch: Arch, seed: int) -> nn.Module:
    """One architecture of a chain; see `Chain.network`."""
    net = _built(chain, arch)
    initialise(net, seed)
    return net


def _built(chain: Chain, arch: Arch | None) -> nn.Sequential:
    stem, tail = chain.stem, chain.tail
    parts: OrderedDict[str, nn.Module] = OrderedDict()
    with torch.random.fork_rng(devices=[]):  # constructors draw from the global generator; `initialise` draws the real weights
        if stem is not None:
            parts |= _stem(stem, chain.in_channels)
        widths = {w.name: Width(w.name, w.channels) for slot in chain.slots for w in slot.widths}
        for slot in chain.slots:
            parts[slot.name] = among(slot.choice, partial(_option, slot, widths, arch), arch)
        if tail.channels is not None:
            head = partial(ConvBNAct, c_out=tail.channels, act=ACTIVATIONS[tail.act])
            parts["head"] = _sized(chain.slots[-1], widths, arch, lambda last: head(last.c_out))
        channels = chain.slots[-1].c_out if tail.channels is None else tail.channels
        parts["pool"] = nn.AdaptiveAvgPool2d(1)
        if tail.second is not None:
            parts["second"] = nn.Sequential(
                OrderedDict(conv=nn.Conv2d(channels, tail.second, 1, bias=False), act=ACTIVATIONS[tail.act]())
            )
        parts["flatten"] = nn.Flatten()
        if tail.dropout:
            parts["dropout"] = nn.Dropout(tail.dropout)
        parts["classifier"] = nn.Linear(tail.second or channels, chain.classes)
    return nn.Sequential(parts)


def _stem(stem: Stem, in_channels: int) -> dict[str, nn.Module]:
    parts: dict[str, nn.Module] = {}
    if stem.rep:
        parts["stem"] = RepConv(in_channels, stem.channels, stem.stride)
    else:
        parts["stem"] = ConvBNAct(in_channels, stem.channels, stem.kernel, stem.stride, act=ACTIVATIONS[stem.act])
    if stem.separable is not None:
        inner = ACTIVATIONS[stem.separable_act or stem.act]
        parts["separable"] = MBConv(stem.channels, stem.separable, 3, 1, expansion=1, act=inner, shortcut=False)
    return parts


def _option(slot: Slot, widths: Mapping[str, Width], arch: Arch | None, name: str) -> nn.Module:
    return _sized(slot, widths, arch, lambda sized: sized.options[name].build(sized, arch))


def _sized(slot: Slot, widths: Mapping[str, Width], arch: Arch | None, build: Callable[[Slot], nn.Module]) -> nn.Module:
    """What `build` makes of the slot: with `arch` at its channels, without it elastic where the slot follows widths."""
    if arch is not None:
        return build(slot.sized({w.name: w.channels[arch[w.name][0]] for w in slot.widths}))
    names = [w.name for w in slot.widths]
    if not names:
        return build(slot)
    return elastic(lambda *channels: build(slot.sized(dict(zip(names, channels, strict=True)))), *(widths[n] for n in names))


def among(choice: Choice, make: Callable[[str], nn.Module], arch: Arch | None, *, joins: bool = False) -> nn.Module:
    """A choice as a Mixed of all options; with `arch` only what that takes, as it stands in a derived network.

    `joins`: a Mixed before it in the same network decides for it.
    """
    if arch is None:
        options = {option: make(option) for option in choice.options}
        return Mixed.joining(choice, options) if joins else Mixed(choice.name, options, choice.at_least, choice.at_most)
    taken = {option: make(option) for option in arch[choice.name]}
    return Sum(taken) if len(taken) > 1 else next(iter(taken.values()))


def mbconv(op: MBConvOp, slot: Slot) -> MBConv:
    """Builds MBConvOp."""
    act = ACTIVATIONS[op.act]
    squeeze = None
    if op.se is not None:
        hidden = hidden_width(slot.c_in, op.expansion)
        squeeze = SqueezeExcite(hidden, op.se.width(slot.c_in, hidden), ACTIVATIONS[op.se.act or op.act], GATES[op.se.gate])
    shortcut = op.shortcut and slot.keeps_shape  # which two widths that happen to be equal do not
    return MBConv(slot.c_in, slot.c_out, op.kernel, slot.stride, op.expansion, squeeze, act, shortcut=shortcut)


def multi_kernel(op: MultiKernelOp, slot: Slot, arch: Arch | None) -> MBConv:
    """Builds MultiKernelOp. The first such option of a slot holds the choice of the kernels, the others join it."""
    (choice,) = op.choices(slot)
    hidden = hidden_width(slot.c_in, op.expansion)
    act = ACTIVATIONS[op.act]
    kernels = dict(zip(choice.options, op.kernels, strict=True))
    depthwise = among(
        choice,
        lambda option: ConvBNAct(hidden, hidden, kernels[option], slot.stride, groups=hidden, act=act),
        arch,
        joins=not _is_first(op, choice, slot),
    )
    norm = ShadowBatchNorm(slot.c_out, choice) if op.shadow and arch is None else None
    return MBConv(slot.c_in, slot.c_out, 3, slot.stride, op.expansion, act=act, depthwise=depthwise, norm=norm)


def rep(op: RepOp, slot: Slot) -> RepBlock:
    """Builds RepOp."""
    groups = slot.c_in if op.groups is None else op.groups
    place = Place(slot.c_in, slot.c_out, op.kernel, slot.stride, op.dilation, groups)
    return rep_block(place, fitting(place, op.branches), None if op.act is None else ACTIVATIONS[op.act])


def searched_rep(op: SearchedRepOp, slot: Slot, arch: Arch | None) -> RepBlock:
    """Builds SearchedRepOp. The first such option of a slot holds the choice of the branches, the others join it."""
    (choice,) = op.choices(slot)
    place = Place(slot.c_in, slot.c_out, op.kernel, slot.stride, op.dilation, op.groups)
    searched = among(choice, lambda name: branch_type(name).build(place), arch, joins=not _is_first(op, choice, slot))
    always = {name: branch_type(name).build(place) for name in fitting(place, ("identity",))}
    return RepBlock({"searched": searched, **always}, None if op.act is None else ACTIVATIONS[op.act])


def mobile_one(op: MobileOneOp, slot: Slot) -> nn.Module:
    """Builds MobileOneOp."""
    depthwise = RepOp(mobileone(op.copies), op.kernel, None, act=op.act)
    pointwise = RepOp(mobileone(op.copies), 1, act=op.act)
    return nn.Sequential(
        OrderedDict(
            depthwise=rep(depthwise, replace(slot, c_out=slot.c_in, options={}, writes=slot.reads)),
            pointwise=rep(pointwise, replace(slot, stride=1, options={})),
        )
    )


def _is_first(op: Op, choice: Choice, slot: Slot) -> bool:
    """Whether a choice inside options is this one's to hold."""
    return next(other for other in slot.options.values() if choice in other.choices(slot)) is op
