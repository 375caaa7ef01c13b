"""The spaces of BS-NAS (Shen et al. 2020, arXiv 2003.09821): operations and numbers of channels are searched together.

The paper's full text could not be had: that channels are searchable is its claim, block list and numbers are reconstructed.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

from paceline.pipeline.spaces.chain import Chain, Slot, Stage, Stem, Tail, Widths, slots_of
from paceline.pipeline.spaces.options import MBConvOp, Op, SkipOp, multiple_of_8


def elastic_slots(
    c_in: int, stages: Sequence[Stage], options: Mapping[str, Op], ratios: Sequence[float], rounded: Callable[[float], int]
) -> tuple[Slot, ...]:
    """The slots of `slots_of` with one searchable width a stage, "stage1_width", …: the channels of the stage times each ratio.

    All layers of a stage share it, so that their shortcuts stay legal. Ratios that round to the same number are one option.
    """
    widths = [Widths(f"stage{n}_width", _channels(stage.channels, ratios, rounded)) for n, stage in enumerate(stages, 1)]
    writes = [w for w, stage in zip(widths, stages, strict=True) for _ in range(stage.layers)]
    slots = []
    for slot, before, own in zip(slots_of(c_in, stages, lambda _: options), [None, *writes], writes, strict=False):
        elastic = replace(slot, options={}, reads=before, writes=own)
        slots.append(replace(elastic, options={name: op for name, op in slot.options.items() if op.fits(elastic)}))
    return tuple(slots)


def _channels(channels: int, ratios: Sequence[float], rounded: Callable[[float], int]) -> dict[str, int]:
    return {str(number): number for number in sorted({rounded(ratio * channels) for ratio in ratios})}


_STAGES = (
    Stage(16, 1, 1),
    Stage(24, 4, 2),
    Stage(40, 4, 2),
    Stage(80, 4, 2),
    Stage(96, 3, 1),
    Stage(192, 4, 2),
    Stage(320, 1, 1),
)
_OPTIONS = {f"k{k}e{e}": MBConvOp(k, e) for k in (3, 5, 7) for e in (3, 6)}
_RATIOS = (0.6, 0.7, 0.8, 0.9, 1.0, 1.1, 1.2, 1.4)

BSNAS = Chain("bsnas", Stem(32), elastic_slots(32, _STAGES, _OPTIONS, _RATIOS, multiple_of_8), Tail(1280, dropout=0.2))

_SMALL_STAGES = (Stage(16, 1, 1), Stage(24, 2, 2), Stage(32, 2, 2))
_SMALL_OPTIONS: Mapping[str, Op] = {"k3e3": MBConvOp(3, 3), "k5e3": MBConvOp(5, 3), "k3e6": MBConvOp(3, 6), "skip": SkipOp()}

BSNAS_SMALL = Chain(
    "bsnas_small",
    Stem(16, stride=1),
    elastic_slots(16, _SMALL_STAGES, _SMALL_OPTIONS, (0.5, 0.75, 1.0, 1.25), round),
    Tail(128),
    *(1, 10, 16),
)
