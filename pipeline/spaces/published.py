"""The spaces of published searches, full size and reduced to small images with the same operations.

Where they are from, and what their papers do not say, stands in the catalogue.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from paceline.pipeline.spaces.chain import Chain, Slot, Stage, Stem, Tail, slots_of
from paceline.pipeline.spaces.options import ActName, MBConvOp, MultiKernelOp, Op, Se, StabilisedSkipOp

_KERNELS = (3, 5, 7)
_EXPANSIONS = (3, 6)
_SMALL_STEM = Stem(16, separable=16)


def _blocks(kernels: Sequence[int], expansions: Sequence[int], act: ActName, se: Se | None = None) -> dict[str, Op]:
    """ "k3e3", …, with `se` each also as "k3e3_se"."""
    squeezes = {"": None} if se is None else {"": None, "_se": se}
    return {f"k{k}e{e}{name}": MBConvOp(k, e, s, act) for k in kernels for e in expansions for name, s in squeezes.items()}


# FairNAS: 6^19 architectures.

FAIRNAS_STEM = Stem(32, separable=16)
FAIRNAS_STAGES = (*(Stage(32, 2, 2), Stage(40, 4, 2), Stage(80, 4, 2), Stage(96, 4, 1), Stage(192, 4, 2)), Stage(320, 1, 1))


def _fairnas_ops(stage: Stage) -> Mapping[str, Op]:
    return _blocks(_KERNELS, _EXPANSIONS, "relu6")


FAIRNAS = Chain("fairnas", FAIRNAS_STEM, slots_of(16, FAIRNAS_STAGES, _fairnas_ops), Tail(1280, dropout=0.2))
FAIRNAS_SMALL = Chain(
    "fairnas_small",
    _SMALL_STEM,
    slots_of(16, (Stage(16, 2, 1), Stage(24, 2, 2), Stage(32, 2, 2)), _fairnas_ops),
    Tail(128),
    *(1, 10, 16),
)


# SCARLET: FairNAS's chain with squeeze-and-excitation, h-swish inside the blocks, and skips where they are legal, 13^13 x 12^6.


def _scarlet_slots(stages: Sequence[Stage], kernels: Sequence[int], expansions: Sequence[int]) -> tuple[Slot, ...]:
    options = {**_blocks(kernels, expansions, "hswish", Se()), "skip": StabilisedSkipOp()}
    return slots_of(16, stages, lambda _: options)


SCARLET = Chain("scarlet", FAIRNAS_STEM, _scarlet_slots(FAIRNAS_STAGES, _KERNELS, _EXPANSIONS), Tail(1280))
SCARLET_SMALL = Chain(
    "scarlet_small",
    _SMALL_STEM,
    _scarlet_slots((Stage(16, 2, 1), Stage(24, 3, 2), Stage(32, 2, 2)), (3, 5), (3,)),
    Tail(128),
    *(1, 10, 16),
)


# MoGA: the layers of MobileNetV3-Large; the activation belongs to the place, 12^14.


def _moga_slots(relu: Sequence[Stage], hswish: Sequence[Stage], kernels: Sequence[int]) -> tuple[Slot, ...]:
    def options(stage: Stage) -> Mapping[str, Op]:
        return _blocks(kernels, _EXPANSIONS, "relu" if stage in relu else "hswish", Se(act=None))

    return slots_of(16, (*relu, *hswish), options)


MOGA_STEM = Stem(16, act="hswish", separable=16, separable_act="relu")
MOGA = Chain(
    "moga",
    MOGA_STEM,
    _moga_slots((Stage(24, 2, 2), Stage(40, 3, 2)), (Stage(80, 4, 2), Stage(112, 2, 1), Stage(160, 3, 2)), _KERNELS),
    Tail(960, "hswish", second=1280, dropout=0.2),
)
MOGA_SMALL = Chain(
    "moga_small",
    MOGA_STEM,
    _moga_slots((Stage(16, 2, 1),), (Stage(24, 2, 2), Stage(40, 2, 2)), (3, 5)),
    Tail(96, "hswish", second=128),
    *(1, 10, 16),
)


# MixPath's S1: an expansion rate and 1 to m kernels in each block; 8, 20, 28, 30 to the power of 12 for m = 1 to 4.

_MIXPATH_STAGES = (Stage(48, 2, 1), Stage(96, 3, 2), Stage(192, 3, 2), Stage(256, 2, 1), Stage(320, 2, 1))


def _mixpath_slots(c_in: int, stages: Sequence[Stage], kernels: tuple[int, ...], at_most: int) -> tuple[Slot, ...]:
    options = {f"e{e}": MultiKernelOp(e, kernels, at_most) for e in _EXPANSIONS}
    return slots_of(c_in, stages, lambda _: options)


def mixpath_s1(at_most: int) -> Chain:
    """S1 of MixPath with at most this many kernels in a block."""
    name = f"mixpath_s1_m{at_most}"
    return Chain(name, Stem(32, stride=1), _mixpath_slots(32, _MIXPATH_STAGES, (3, 5, 7, 9), at_most), Tail(1280), 3, 10, 32)


MIXPATH_SMALL = Chain(
    "mixpath_small",
    Stem(16),
    _mixpath_slots(16, (Stage(16, 1, 1), Stage(24, 2, 2), Stage(32, 2, 2)), (3, 5, 7), 3),
    Tail(128),
    *(1, 10, 16),
)
