"""Operators as numbers: what a regressor knows of them.

Features are fitted to operators (which kinds there are) and turn others into the rows of a matrix, by scikit-learn's conventions.
A fused operator of a composed kind (`CONV_2D+HARD_SWISH`) counts as its `principal` operator with the work of all of them.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import lru_cache
from itertools import groupby
from operator import itemgetter
from typing import Protocol, Self

import numpy as np
from sklearn.base import BaseEstimator

from paceline.exporters.fused_operators import steps_of
from paceline.graph import OpSpec
from paceline.latency_models.model import Floats

_CACHED = 1 << 16

AMOUNTS = ("count", "mmacs", "weight_mb", "moved_mb", "mruns")

SHAPES = (
    *("macs", "weights", "moved", "bytes", "intensity", "pixels_in", "pixels_out", "channels_in", "channels_out"),
    *("group_in", "group_out", "groups", "window_h", "window_w", "stride_h", "stride_w", "dilation_h", "dilation_w"),
    *("operands", "results", "fused", "repeats", "smallest_channels", "reduced", "inside"),
    *("waste_4", "waste_8", "waste_16", "waste_32", "waste_in_4", "waste_in_16", "waste_pixels_8"),
    *("activated", "pad", "valid", "constant", "runs", "run"),
)
"""The columns of `shapes`."""

_ELEMENTWISE = ("ADD", "SUB", "MUL", "DIV", "MAXIMUM", "MINIMUM", "SQUARED_DIFFERENCE", "POW")
_REDUCING = ("MEAN", "SUM", "REDUCE_MAX", "REDUCE_MIN", "REDUCE_PROD")
_PIXELWISE = (
    *("CONV_2D", "DEPTHWISE_CONV_2D", "TRANSPOSE_CONV", "AVERAGE_POOL_2D", "MAX_POOL_2D", "RESIZE_BILINEAR"),
    *("RESIZE_NEAREST_NEIGHBOR", "PAD", "PADV2", "MIRROR_PAD", "CONCATENATION", "SLICE", "STRIDED_SLICE", "SPLIT", "SOFTMAX"),
)


class OperatorFeatures(Protocol):
    """Equal operators have equal features, whatever the order of anything."""

    def fit(self, operators: Sequence[OpSpec]) -> Self: ...

    def transform(self, operators: Sequence[OpSpec]) -> Floats:
        """Shape (operators, features)."""


class RateFeatures(BaseEstimator):  # type: ignore[misc]
    """What latency is proportional to (`amounts`): for all operators, in one block for each kind and one for each group.

    A linear model of these has rates for every group, near those of its kind; a group that it never saw has those of its kind.
    """

    def fit(self, operators: Sequence[OpSpec]) -> Self:
        self.kinds_ = sorted({kind_of(spec) for spec in operators})
        self.groups_ = sorted({group_of(spec) for spec in operators})
        return self

    def transform(self, operators: Sequence[OpSpec]) -> Floats:
        blocks = [one_hot(operators, kind_of, self.kinds_), one_hot(operators, group_of, self.groups_)]
        labels = np.concatenate([np.ones((len(operators), 1)), *blocks], axis=1)
        return np.asarray((labels[:, :, None] * amounts(operators)[:, None, :]).reshape(len(operators), -1))


class ShapeFeatures(BaseEstimator):  # type: ignore[misc]
    """`shapes` of each operator and its kind as one-hot, for regressors that find out themselves what matters."""

    def fit(self, operators: Sequence[OpSpec]) -> Self:
        self.kinds_ = sorted({kind_of(spec) for spec in operators})
        return self

    def transform(self, operators: Sequence[OpSpec]) -> Floats:
        return np.concatenate([shapes(operators), one_hot(operators, kind_of, self.kinds_)], axis=1)


class LabelledFeatures(BaseEstimator):  # type: ignore[misc]
    """`shapes` of each operator and, in the last column, the number of its group (`group_of`); -1 for a group never seen."""

    def fit(self, operators: Sequence[OpSpec]) -> Self:
        self.groups_ = sorted({group_of(spec) for spec in operators})
        return self

    def transform(self, operators: Sequence[OpSpec]) -> Floats:
        number = {group: i for i, group in enumerate(self.groups_)}
        labels = np.array([number.get(group_of(spec), -1) for spec in operators], float)
        return np.concatenate([shapes(operators), labels[:, None]], axis=1)


def amounts(operators: Sequence[OpSpec]) -> Floats:
    """Shape (operators, 5): 1, millions of MACs, megabytes of weights, megabytes of activations read and written, millions of
    runs (`_runs`)."""
    return np.array([_amounts(spec) for spec in operators], float).reshape(len(operators), len(AMOUNTS))


def shapes(operators: Sequence[OpSpec]) -> Floats:
    """Shape (operators, features), in the order of SHAPES: logarithms of amounts and sizes, then of waste, then flags.

    Waste is what is computed for nothing where kernels work in vectors of 4, 8 … channels: 17 channels cost as much as 24 or 32.
    """
    return np.array([_shape(spec) for spec in operators], float).reshape(len(operators), len(SHAPES))


@lru_cache(_CACHED)
def kind_of(spec: OpSpec) -> str:
    """The kind by what is computed: a matrix product with many rows is a 1x1 convolution, a convolution of one pixel fully
    connected."""
    main = principal(spec)
    if main.kind == "FULLY_CONNECTED" and sizes(main)[0] > 1:
        return "CONV_2D"
    if main.kind == "CONV_2D" and sizes(main)[:2] == (1, 1) and main.inputs[1].shape[-1] == main.inputs[0].shape[-1]:
        return "FULLY_CONNECTED"
    return main.kind


def class_of(spec: OpSpec) -> str:
    """How a kernel spends its time: "dense" where every output reads all inputs of a window (convolution, matrix product),
    "depthwise", or "other" where nothing is multiplied by weights."""
    main = principal(spec)
    if main.kind == "DEPTHWISE_CONV_2D":
        return "depthwise"
    return "dense" if main.macs else "other"


@lru_cache(_CACHED)
def group_of(spec: OpSpec) -> str:
    """Operators that a runtime executes with the same kernel, as far as keys tell: kind, window, stride, variant, type."""
    main = principal(spec)
    words = [kind_of(spec), *spec.kind.split("+")[1:]]
    for name, size in (("", window_of(main)), ("stride ", pair(main, "stride")), ("dilation ", pair(main, "dilation"))):
        words += [name + "x".join(map(str, size))] if size != (1, 1) else []
    words += ["grouped"] if main.kind == "CONV_2D" and main.inputs[1].shape[-1] < main.inputs[0].shape[-1] else []
    words += [pattern] if (pattern := _pattern(main)) else []
    words += ["activated"] if main.kind in _ELEMENTWISE and main.attr("activation", "NONE") != "NONE" else []
    words += [t.dtype for t in spec.inputs[:1] if t.dtype != "float32"]
    return ", ".join(words)


@lru_cache(_CACHED)
def principal(spec: OpSpec) -> OpSpec:
    """Of the operators that a composed kind is made of the one that multiplies most; any other operator itself."""
    return max((step.spec for step in steps_of(spec)), key=lambda part: part.macs)


def sizes(spec: OpSpec) -> tuple[int, int, int, int]:
    """Pixels in and out, channels in and out; everything but the last dimension counts as pixels."""
    main = principal(spec)
    image = main.inputs[1 if main.kind == "TRANSPOSE_CONV" else 0] if main.inputs else main.outputs[0]
    result = spec.outputs[0] if spec.outputs else image
    channels_in, channels_out = ((t.shape[-1] if t.shape else 1) for t in (image, result))
    return image.elements // max(channels_in, 1), result.elements // max(channels_out, 1), channels_in, channels_out


def window_of(spec: OpSpec) -> tuple[int, int]:
    """Height and width of a convolution's filter or a pooling's window; 1, 1 for everything else."""
    filters = spec.inputs[0 if spec.kind == "TRANSPOSE_CONV" else 1].shape if "CONV" in spec.kind and len(spec.inputs) > 1 else ()
    return (filters[1], filters[2]) if len(filters) == 4 else pair(spec, "filter")


def pair(spec: OpSpec, name: str) -> tuple[int, int]:
    """An attribute of two numbers, (1, 1) where the operator has none."""
    value = spec.attr(name)
    return (int(value[0]), int(value[1])) if isinstance(value, tuple) and len(value) == 2 else (1, 1)


def one_hot(operators: Sequence[OpSpec], label: Callable[[OpSpec], str], labels: Sequence[str]) -> Floats:
    """Shape (operators, labels); a row of zeros for an operator with another label."""
    column = {name: i for i, name in enumerate(labels)}
    found = np.zeros((len(operators), len(labels)))
    for i, spec in enumerate(operators):
        j = column.get(label(spec))
        if j is not None:
            found[i, j] = 1.0
    return found


@lru_cache(_CACHED)
def _amounts(spec: OpSpec) -> tuple[float, ...]:
    weights = sum(spec.inputs[i].bytes for i in spec.constants)
    moved = sum(t.bytes for t in (*spec.inputs, *spec.outputs)) - weights
    return 1.0, sum(step.spec.macs for step in steps_of(spec)) / 1e6, weights / 1e6, moved / 1e6, _runs(spec) / 1e6


@lru_cache(_CACHED)
def _shape(spec: OpSpec) -> tuple[float, ...]:
    main = principal(spec)
    macs, weights, moved, runs = (1e6 * amount for amount in _amounts(spec)[1:])
    pixels_in, pixels_out, channels_in, channels_out = sizes(spec)
    group_in = main.inputs[1].shape[-1] if main.kind == "CONV_2D" else channels_in
    groups = max(channels_in // max(group_in, 1), 1)
    group_out = channels_out // groups
    smallest = min(main.inputs, key=lambda t: t.elements, default=None) if main.kind in _ELEMENTWISE else None
    repeats = main.outputs[0].elements / max(smallest.elements, 1) - 1 if smallest else 0.0
    reduced, inside = _reduced(main)
    logs = [macs, weights, moved, weights + moved, macs / max(weights + moved, 1)]
    logs += [pixels_in, pixels_out, channels_in, channels_out, group_in, group_out, groups]
    logs += [*window_of(main), *pair(main, "stride"), *pair(main, "dilation")]
    logs += [len(spec.inputs) - len(spec.constants), len(spec.outputs), len(steps_of(spec)) - 1, repeats]
    logs += [smallest.shape[-1] if smallest and smallest.shape else channels_out, reduced - 1, inside - 1]
    waste = [_waste(group_out, 4), _waste(group_out, 8), _waste(group_out, 16), _waste(group_out, 32)]
    waste += [_waste(group_in, 4), _waste(group_in, 16), _waste(pixels_out, 8)]
    flags = [main.attr("activation", "NONE") != "NONE", main.attr("pad") is not None, main.attr("padding") == "VALID"]
    lengths = (math.log1p(runs), math.log1p(moved / max(runs, 1.0)))
    return (*(math.log1p(n) for n in logs), *waste, *map(float, flags), float(bool(spec.constants)), *lengths)


def _waste(count: int, vector: int) -> float:
    return math.log(-(-count // vector) * vector / count) if count else 0.0


def _runs(spec: OpSpec) -> int:
    """How often a kernel starts on another stretch of memory, which has a price of its own where they are short: pixels, rows of
    a reduction or a broadcast; 1 where all elements are treated alike."""
    main = principal(spec)
    if main.kind in (*_ELEMENTWISE, *_REDUCING):
        return math.prod(elements for _, elements in _sections(main)[:-1])
    if main.kind in _PIXELWISE:
        return sizes(spec)[1] * max(len(main.inputs) - len(main.constants), 1)
    return 1


def _pattern(spec: OpSpec) -> str:
    """Which dimensions a reduction leaves out or a broadcast operand lacks: "over x." for pixels of NHWC, "over .x" for
    the elements of rows, "" where there are none."""
    marks = "".join(mark for mark, _ in _sections(spec))
    return f"over {marks}" if "x" in marks else ""


def _sections(spec: OpSpec) -> list[tuple[str, int]]:
    """The elements of an operand, outer dimensions first: "x" and how many are reduced or broadcast over, "." and how many are
    not. Neighbours of the same sort count as one dimension, those of size 1 not at all."""
    if spec.kind in _REDUCING:
        axes = spec.attr("axes")
        full = spec.inputs[0].shape
        missing = {axis % len(full) for axis in axes} if isinstance(axes, tuple) and full else set[int]()
    elif spec.kind in _ELEMENTWISE:
        full = spec.outputs[0].shape
        smallest = min(spec.inputs, key=lambda t: t.elements).shape
        padded = (1,) * (len(full) - len(smallest)) + smallest
        missing = {i for i, (n, own) in enumerate(zip(full, padded, strict=True)) if own < n}
    else:
        return []
    marks = (("x" if i in missing else ".", n) for i, n in enumerate(full) if n > 1)
    return [(mark, math.prod(n for _, n in same)) for mark, same in groupby(marks, key=itemgetter(0))]


def _reduced(spec: OpSpec) -> tuple[int, int]:
    """How many elements become one, and how many lie inside of the reduced dimensions; 1, 1 without a reduction."""
    axes = spec.attr("axes")
    if spec.kind not in _REDUCING or not isinstance(axes, tuple) or not axes:
        return 1, 1
    shape = spec.inputs[0].shape
    dims = [axis % len(shape) for axis in axes]
    return math.prod(shape[d] for d in dims), math.prod(shape[max(dims) + 1 :])
