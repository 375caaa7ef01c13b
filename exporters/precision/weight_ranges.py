"""How much harder merging makes weights to quantise: a kernel of several branches may have few large weights among small ones."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor, nn

from paceline.exporters.merge import Merge

WIDENED = 2.0
"""Merging that makes a range wider by this factor costs the layer's weights one of eight bits (6 dB)."""


@dataclass(frozen=True)
class WeightRange:
    """The largest weight of an output channel over the root mean square of its weights, mean over a layer's channels.

    int8 stores 127 steps up to the largest, so 20 log10 of the quotient of two ranges is what the weights' signal-to-noise ratio
    differs by. `before` is the widest of the merged layers, `after` the one that they became. BatchNorm changes neither.
    """

    layer: str
    before: float
    after: float

    @property
    def widening(self) -> float:
        return self.after / self.before


def weight_ranges(before: nn.Module, after: nn.Module, merges: Sequence[Merge]) -> tuple[WeightRange, ...]:
    """The ranges of every layer of `after` that was merged from several with weights, as far as these are modules of `before`."""
    modules = dict(before.named_modules())
    found = []
    for merge in merges:
        layers = [modules[path] for path in merge.layers if isinstance(modules.get(path), nn.Conv2d | nn.Linear)]
        if len(layers) > 1 or (layers and len(merge.branches) > 1):
            ranges = [range_of(layer.weight) for layer in layers if isinstance(layer.weight, Tensor)]
            weight = after.get_submodule(merge.name).weight
            assert isinstance(weight, Tensor)
            found.append(WeightRange(merge.name, max(ranges), range_of(weight)))
    return tuple(found)


def range_of(weight: Tensor) -> float:
    """The mean range of the channels, (out, …), that have weights other than 0; 1 where none has."""
    channels = weight.detach().flatten(1).double()
    spread = channels.square().mean(1).sqrt()
    live = spread > 0
    return float((channels.abs().amax(1)[live] / spread[live]).mean()) if bool(live.any()) else 1.0
