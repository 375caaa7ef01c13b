"""Blocks of several branches as options, and the spaces of RepNAS (Zhang et al. 2021, arXiv 2109.03508).

Layers, branches and the searched network are those of the official code. Nothing here needs torch before something is built.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from paceline.arch import Arch, Choice
from paceline.pipeline.spaces.chain import Chain, Slot, Stage, Tail, slots_of
from paceline.pipeline.spaces.options import ActName, Op

if TYPE_CHECKING:
    from torch import nn

BRANCHES_OF = "_branches"
"""What the name of a choice of branches ends with."""


@dataclass(frozen=True)
class RepOp(Op):
    """A block that trains all of its branches and ships one convolution; see `ops.rep_block`, `ops.REPVGG`, `ops.DBB`, ….

    Branches that can't exist at a place, such as an identity with stride 2, are left out there. `groups=None` is depthwise.
    """

    branches: tuple[str, ...]
    kernel: int = 3
    groups: int | None = 1
    dilation: int = 1
    act: ActName | None = "relu"

    def fits(self, slot: Slot) -> bool:
        return self.groups is not None or slot.c_in == slot.c_out

    def build(self, slot: Slot, arch: Arch | None) -> nn.Module:
        from paceline.pipeline.spaces.build import rep

        return rep(self, slot)


@dataclass(frozen=True)
class SearchedRepOp(Op):
    """A block some of whose branches are to be chosen, one at least (RepNAS); an identity stays where it can exist.

    They are a choice of their own, "<slot>_branches", which all such options of a slot share, for example those of different
    kernels. Each branch of each option has its own weights. Raises SpaceError when it is built with a branch that can't exist.
    """

    branches: tuple[str, ...]
    kernel: int = 3
    groups: int = 1
    dilation: int = 1
    act: ActName | None = "relu"

    def choices(self, slot: Slot) -> tuple[Choice, ...]:
        return (Choice(slot.name + BRANCHES_OF, self.branches, 1, len(self.branches)),)

    def build(self, slot: Slot, arch: Arch | None) -> nn.Module:
        from paceline.pipeline.spaces.build import searched_rep

        return searched_rep(self, slot, arch)


@dataclass(frozen=True)
class MobileOneOp(Op):
    """MobileOne's block (Vasu et al. 2023, figure 3): a depthwise and a pointwise part, each of `copies` branches and more."""

    copies: int
    kernel: int = 3
    act: ActName = "relu"

    def build(self, slot: Slot, arch: Arch | None) -> nn.Module:
        from paceline.pipeline.spaces.build import mobile_one

        return mobile_one(self, slot)


_ODBB = ("1x1", "1x1_avg", "kxk", "1x1_kxk", "1xk", "kx1")
_DBB = _ODBB[:4]


def _searched(branches: tuple[str, ...], *kernels: int) -> Mapping[str, Op]:
    return {f"k{kernel}": SearchedRepOp(branches, kernel) for kernel in kernels}


# RepVGG-A0 with a searched block in each of its 22 layers, the first included: 63^22 architectures (at least one branch a layer).

_A0 = (Stage(48, 1, 2), Stage(48, 2, 2), Stage(96, 4, 2), Stage(192, 14, 2), Stage(1280, 1, 2))

REPNAS = Chain("repnas", None, slots_of(3, _A0, lambda _: _searched(_ODBB, 3)), Tail(None, dropout=0.1))
REPNAS_SMALL = Chain(
    "repnas_small",
    None,
    slots_of(1, (Stage(16, 3, 2), Stage(32, 2, 2)), lambda _: _searched(_DBB, 3, 5, 7)),
    Tail(None),
    *(1, 10, 16),
)

_SEARCHED_A0 = """
    001100 001100 001000 001100 000100 000100 001100 001100 001100 000100 001100
    001110 001100 001100 001100 001100 001100 001100 001100 000100 001100 111111
"""


def repnas_a0() -> Arch:
    """The network that the official code publishes for RepVGG-A0 (arch.py): 44 of 132 branches."""
    kept = ["+".join(b for b, bit in zip(_ODBB, row, strict=True) if bit == "1") for row in _SEARCHED_A0.split()]
    return REPNAS.arch(" ".join(f"k3 {branches}" for branches in kept))
