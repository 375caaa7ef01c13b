"""The ranges that int8 tensors get: measured on calibration data, then shared where operators want equal scales.

An operator that only moves or clips values computes on int8 directly where its operands and its result have one scale;
otherwise the quantizer puts requantising QUANTIZE operators around it.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np

from paceline.exporters.precision.calibration import Sample
from paceline.exporters.precision.tensor_reader import TensorReader
from paceline.exporters.tflite import read
from paceline.graph import Graph, Op

Range = tuple[float, float]

CLIPS: Mapping[str, Range] = {"RELU": (0.0, math.inf), "RELU6": (0.0, 6.0), "RELU_N1_TO_1": (-1.0, 1.0)}
"""Kinds that clip, and to what."""
_RESHAPES = frozenset(
    {"RESHAPE", "EXPAND_DIMS", "SQUEEZE", "TRANSPOSE", "BROADCAST_TO", "TILE", "REVERSE_V2", "PAD", "MIRROR_PAD"}
)
_PICKS = frozenset({"SLICE", "STRIDED_SLICE", "SPLIT", "UNPACK", "GATHER", "GATHER_ND"})
_BLOCKS = frozenset({"SPACE_TO_DEPTH", "DEPTH_TO_SPACE", "SPACE_TO_BATCH_ND", "BATCH_TO_SPACE_ND"})
MOVES = _RESHAPES | _PICKS | _BLOCKS
"""Kinds that only move values."""
_POOLS = frozenset({"AVERAGE_POOL_2D", "MAX_POOL_2D", "REDUCE_MIN", "REDUCE_MAX", "RESIZE_BILINEAR", "RESIZE_NEAREST_NEIGHBOR"})
KEEPS_SCALE = MOVES | _POOLS | (CLIPS.keys() - {"RELU"})
"""Kinds whose result has the scale of their operand."""
JOINS = frozenset({"CONCATENATION", "PACK", "MAXIMUM", "MINIMUM", "SELECT", "SELECT_V2"})
"""Kinds whose operands need the scale of their result."""
_FIXED: Mapping[str, Range] = {"LOGISTIC": (0.0, 255 / 256), "SOFTMAX": (0.0, 255 / 256), "TANH": (-1.0, 127 / 128)}
"""Kinds whose int8 kernels prescribe the result's scale: 1/256 from 0, 1/128 around 0."""
_SMALLEST_OPERAND = 1 / 256
"""Of a sum's range: XNNPACK takes operands whose scale is 1/1024 to 256 times that of the result."""
_TOLERATED = 2.0
"""A tensor with other readers joins a range at most this times its own: it loses one bit, and a QUANTIZE disappears."""


def measured(model: bytes, samples: Iterable[Sample]) -> dict[str, Range]:
    """Smallest and largest value of every computed float tensor, by name. Raises ValueError where one is NaN or infinite."""
    graph = read(model).graph
    computed = [*graph.inputs, *(t for op in graph.ops for t in op.outputs)]
    watched = [name for name in dict.fromkeys(computed) if graph.tensors[name].dtype == "float32"]
    tensors = TensorReader(model)
    found: dict[str, Range] = {}
    for number, sample in enumerate(samples):
        tensors.run(sample)
        for name in watched:
            values = tensors.stored(name)
            low, high = float(values.min()), float(values.max())
            if not (np.isfinite(low) and np.isfinite(high)):
                raise ValueError(f"sample {number} makes the float network compute NaN or infinity in {name!r}")
            before = found.get(name, (low, high))
            found[name] = (min(low, before[0]), max(high, before[1]))
    return found


@dataclass
class _Group:
    """Tensors of one scale; `narrowest` is the width that the most delicate of them would have alone."""

    range: Range
    tensors: set[str]
    narrowest: float
    fixed: bool = False


def shared(graph: Graph, ranges: Mapping[str, Range]) -> dict[str, Range]:
    """`ranges` with equal ones where an operator keeps its operand's scale, and where operators that join tensors profit.

    What is joined by a concatenation gets one range if nothing else reads it, or if that costs its other readers a bit at most.
    What only a clipping activation reads gets the range of its result, because int8 saturates just there. Small operands of sums,
    constants among them, get a range in proportion to the result's, because XNNPACK leaves sums of very different scales.
    """
    return _Sharing(graph, ranges).result()


class _Sharing:
    def __init__(self, graph: Graph, ranges: Mapping[str, Range]) -> None:
        self.graph = graph
        self.groups = {name: _Group(range_, {name}, _width(range_)) for name, range_ in ranges.items()}
        self.readers: dict[str, list[int]] = {name: [] for name in ranges}
        self.results: dict[int, set[str]] = {-1: set()}
        for number, op in enumerate(graph.ops):
            self.results[number] = {t for t in op.outputs if t in ranges}
            for name in op.inputs:
                self.readers.get(name, []).append(number)
        for name in graph.outputs:
            self.readers.get(name, []).append(-1)
        self.constants: dict[str, Range] = {}
        for rule in (self._keep, self._join, self._widen):
            for number, op in enumerate(graph.ops):
                if self.results[number]:
                    rule(number, op, [t for t in op.inputs if t in ranges])

    def result(self) -> dict[str, Range]:
        return self.constants | {name: group.range for name, group in self.groups.items()}

    def _keep(self, number: int, op: Op, operands: list[str]) -> None:
        if op.kind in _FIXED:
            for name in op.outputs:
                self.groups[name] = _Group(_FIXED[op.kind], {name}, _width(_FIXED[op.kind]), fixed=True)
        if not operands:
            return
        group = self.groups[operands[0]]
        if op.kind in CLIPS and not group.fixed and self._only_read_by(number, group):
            group.range = self.groups[op.outputs[0]].range
            group.narrowest = _width(group.range)
        if op.kind in KEEPS_SCALE:
            for name in self.results[number]:
                self._merge(group, self.groups[name], group.range)

    def _join(self, number: int, op: Op, operands: list[str]) -> None:
        if op.kind not in JOINS:
            return
        tensors = [*operands, *op.outputs]
        members = list({id(self.groups[n]): self.groups[n] for n in tensors if not self.groups[n].fixed}.values())
        union = min(g.range[0] for g in members), max(g.range[1] for g in members)
        free = [g for g in members if self._only_read_by(number, g)]
        joined = free + [g for g in members if g not in free and _width(union) <= _TOLERATED * g.narrowest]
        for group in joined:
            if group in free:
                group.narrowest = _width(union)
            self._merge(joined[0], group, union)

    def _widen(self, number: int, op: Op, operands: list[str]) -> None:
        if op.kind not in ("ADD", "SUB"):
            return
        smallest = _SMALLEST_OPERAND * _width(self.groups[op.outputs[0]].range)
        for group in map(self.groups.__getitem__, operands):
            if not group.fixed and _width(group.range) < smallest and self._only_read_by(number, group):
                group.range = _at_least(group.range, smallest)
        for name in op.inputs:
            if name in self.graph.weights and self.graph.tensors[name].dtype == "float32":
                values = np.asarray(self.graph.weights[name], np.float32)
                before = self.constants.get(name, (float(values.min()), float(values.max())))
                self.constants[name] = _at_least(before, smallest)

    def _only_read_by(self, number: int, group: _Group) -> bool:
        """Whether all readers of its tensors are the operator `number`, or movers within the group."""
        return all(
            reader == number or (self.results[reader] and self.results[reader] <= group.tensors)
            for name in group.tensors
            for reader in self.readers[name]
        )

    def _merge(self, into: _Group, other: _Group, range_: Range) -> None:
        into.range = range_
        if into is not other:
            into.tensors |= other.tensors
            into.narrowest = min(into.narrowest, other.narrowest)
            for name in other.tensors:
                self.groups[name] = into


def _at_least(range_: Range, width: float) -> Range:
    """The range with zero inside, and enlarged upwards to `width`."""
    low = min(range_[0], 0.0)
    return low, max(range_[1], 0.0, low + width)


def _width(range_: Range) -> float:
    """Of the range as int8 tensors cover it: zero is always inside."""
    return max(range_[1], 0.0) - min(range_[0], 0.0)
