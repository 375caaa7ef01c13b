"""The spaces of the ablations: small enough that a supernet trains in seconds, varied enough that networks differ."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from paceline.arch import Arch
from paceline.pipeline.spaces import (
    Chain,
    MBConvOp,
    MultiKernelOp,
    Op,
    SkipOp,
    Slot,
    StabilisedSkipOp,
    Stage,
    Stem,
    Tail,
    slots_of,
)
from paceline.pipeline.tasks import Task

STEM, TAIL = Stem(8, stride=1), Tail(32)
SIX: Mapping[str, Op] = {f"k{k}e{e}": MBConvOp(k, e) for k in (1, 3, 5) for e in (1, 4)}
FOUR: Mapping[str, Op] = {f"k{k}e{e}": MBConvOp(k, e) for k in (3, 5) for e in (2, 4)}


def chain_of(space: str, task: Task) -> Chain:
    """The space of that name for the images of `task`."""
    return SPACES[space].for_images(task.channels, len(task.classes), task.image_size)


def _chain(name: str, stages: tuple[Stage, ...], options: Mapping[str, Op]) -> Chain:
    return Chain(name, STEM, slots_of(STEM.width, stages, lambda _: options), TAIL, 1, 10, 8)


class Zero(nn.Module):
    """Zeros of the shape that a slot gives."""

    def __init__(self, channels: int, stride: int) -> None:
        super().__init__()
        self.channels, self.stride = channels, stride

    def forward(self, x: Tensor) -> Tensor:
        return torch.zeros_like(x[:, :1, :: self.stride, :: self.stride]).expand(-1, self.channels, -1, -1)


@dataclass(frozen=True)
class ZeroOp(Op):
    """An option that no network should take: nothing comes through."""

    def build(self, slot: Slot, arch: Arch | None) -> nn.Module:
        return Zero(slot.c_out, slot.stride)


_WIDE = (Stage(8, 2, 1), Stage(16, 2, 2), Stage(24, 2, 1))
_DEEP = (Stage(8, 3, 1), Stage(16, 4, 2))


def _mixed_kernels(shadow: bool) -> Mapping[str, Op]:
    return {f"e{e}": MultiKernelOp(e, (1, 3, 5), 3, shadow=shadow) for e in (1, 3)}


SPACES: Mapping[str, Chain] = {
    chain.name: chain
    for chain in (
        _chain("six", _WIDE, SIX),
        _chain("skip", _DEEP, {**FOUR, "skip": SkipOp()}),
        _chain("stabilised", _DEEP, {**FOUR, "skip": StabilisedSkipOp()}),
        _chain("one_bn", (Stage(8, 2, 1), Stage(16, 2, 2)), _mixed_kernels(False)),
        _chain("shadow_bn", (Stage(8, 2, 1), Stage(16, 2, 2)), _mixed_kernels(True)),
        _chain("planted", _WIDE, {**SIX, "zero": ZeroOp()}),
    )
}
"""`six` has as many options a layer as FairNAS. Kernels of 1 see little, so that networks differ.

`skip` and `stabilised` are one space, the second with SCARLET's stabilisers in the supernet; `one_bn` and `shadow_bn` likewise
with MixPath's norm. `planted` is `six` with a bad option in each layer.
"""
