"""TFLite's builtin operators: how a Graph operator's attributes become the options and parameter operands of the schema."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from ai_edge_litert import schema_py_generated as schema

from paceline.errors import ExportError
from paceline.graph import Array, Graph, Op

Operand = str | Array
"""A tensor of the graph by name, or the values of a parameter operand (axes, paddings, sizes)."""

ACTIVATIONS = {
    name: getattr(schema.ActivationFunctionType, name) for name in ("NONE", "RELU", "RELU_N1_TO_1", "RELU6", "TANH", "SIGN_BIT")
}


@dataclass(frozen=True)
class Builtin:
    """One operator kind: the name of its options table ("" for none), what fills it, its operands and its version."""

    options: str = ""
    fill: Callable[[Any, Op, Graph], None] = lambda options, op, graph: None
    operands: Callable[[Op, Graph], list[Operand]] = lambda op, graph: list(op.inputs)
    version: Callable[[Op, Graph], int] = lambda op, graph: 1


def lookup(op: Op) -> Builtin:
    """The builtin of `op`. Raises ExportError for a kind that can't be written."""
    if op.kind not in BUILTINS:
        raise ExportError(f"operator {op.kind} at {op.source or '?'} can't be written to .tflite; known: {', '.join(BUILTINS)}")
    return BUILTINS[op.kind]


def _ints(op: Op, name: str) -> tuple[int, ...]:
    value = op.attr(name)
    if not isinstance(value, tuple):
        raise ExportError(f"{op.kind} at {op.source or '?'} needs the attribute {name!r} as a tuple of ints, got {value!r}")
    return value


def _activation(options: Any, op: Op, graph: Graph) -> None:
    options.fusedActivationFunction = ACTIVATIONS[str(op.attr("activation", "NONE"))]


def _strided(options: Any, op: Op, graph: Graph) -> None:
    options.strideH, options.strideW = _ints(op, "stride")
    options.padding = getattr(schema.Padding, str(op.attr("padding")))
    _activation(options, op, graph)


def _conv(options: Any, op: Op, graph: Graph) -> None:
    _strided(options, op, graph)
    options.dilationHFactor, options.dilationWFactor = _ints(op, "dilation")


def _depthwise(options: Any, op: Op, graph: Graph) -> None:
    _conv(options, op, graph)
    options.depthMultiplier = graph.tensors[op.inputs[1]].shape[3] // graph.tensors[op.inputs[0]].shape[3]


def _pool(options: Any, op: Op, graph: Graph) -> None:
    _strided(options, op, graph)
    options.filterHeight, options.filterWidth = _ints(op, "filter")


def _fully_connected(options: Any, op: Op, graph: Graph) -> None:
    _activation(options, op, graph)
    options.keepNumDims = bool(op.attr("keep_dims", False))


def _concatenation(options: Any, op: Op, graph: Graph) -> None:
    _activation(options, op, graph)
    options.axis = op.attr("axis")


def _reduce(options: Any, op: Op, graph: Graph) -> None:
    options.keepDims = bool(op.attr("keep_dims"))


def _resize(options: Any, op: Op, graph: Graph) -> None:
    options.alignCorners, options.halfPixelCenters = bool(op.attr("align_corners")), bool(op.attr("half_pixel_centers"))


def _set(field: str, attr: str) -> Callable[[Any, Op, Graph], None]:
    return lambda options, op, graph: setattr(options, field, op.attr(attr))


def _reshape(options: Any, op: Op, graph: Graph) -> None:
    options.newShape = list(graph.tensors[op.outputs[0]].shape)


def _split(options: Any, op: Op, graph: Graph) -> None:
    options.numSplits = len(op.outputs)


def _int32(values: tuple[int, ...] | list[int]) -> Array:
    return np.asarray(values, np.int32)


def _then(*names: str) -> Callable[[Op, Graph], list[Operand]]:
    """The data operands, then one int32 operand for each named attribute."""
    return lambda op, graph: [*op.inputs, *(_int32(_ints(op, name)) for name in names)]


def _paddings(op: Op, graph: Graph) -> list[Operand]:
    operands: list[Operand] = [op.inputs[0], _int32(_ints(op, "paddings")).reshape(-1, 2)]
    return [*operands, np.asarray([op.attr("value")], np.float32)] if op.kind == "PADV2" else operands


def _sized(op: Op, graph: Graph) -> list[Operand]:
    return [*op.inputs, _int32(graph.tensors[op.outputs[0]].shape[1:3])]


BUILTINS: dict[str, Builtin] = {
    "CONV_2D": Builtin("Conv2DOptions", _conv),
    "DEPTHWISE_CONV_2D": Builtin(
        "DepthwiseConv2DOptions", _depthwise, version=lambda op, g: 1 + (_ints(op, "dilation") != (1, 1))
    ),
    "TRANSPOSE_CONV": Builtin(
        "TransposeConvOptions",
        _strided,
        operands=lambda op, g: [_int32(g.tensors[op.outputs[0]].shape), *op.inputs],
        version=lambda op, g: 4 if op.attr("activation", "NONE") != "NONE" else 3 if len(op.inputs) > 2 else 1,
    ),
    "FULLY_CONNECTED": Builtin(
        "FullyConnectedOptions", _fully_connected, version=lambda op, g: 5 if op.attr("keep_dims", False) else 1
    ),
    **{kind: Builtin(f"{kind.title()}Options", _activation) for kind in ("ADD", "SUB", "MUL", "DIV")},
    **{kind: Builtin("MaximumMinimumOptions") for kind in ("MAXIMUM", "MINIMUM")},
    "CONCATENATION": Builtin("ConcatenationOptions", _concatenation),
    **{kind: Builtin("Pool2DOptions", _pool) for kind in ("AVERAGE_POOL_2D", "MAX_POOL_2D")},
    **{kind: Builtin("ReducerOptions", _reduce, _then("axes")) for kind in ("MEAN", "SUM", "REDUCE_MAX")},
    "PAD": Builtin("PadOptions", operands=_paddings),
    "PADV2": Builtin("PadV2Options", operands=_paddings),
    "RESHAPE": Builtin("ReshapeOptions", _reshape, lambda op, g: [*op.inputs, _int32(g.tensors[op.outputs[0]].shape)]),
    "TRANSPOSE": Builtin("TransposeOptions", operands=_then("perm")),
    "SOFTMAX": Builtin("SoftmaxOptions", _set("beta", "beta")),
    **{kind: Builtin() for kind in ("RELU", "RELU6", "RELU_N1_TO_1", "LOGISTIC", "TANH", "PRELU")},
    "HARD_SWISH": Builtin("HardSwishOptions"),
    "LEAKY_RELU": Builtin("LeakyReluOptions", _set("alpha", "alpha")),
    "RESIZE_BILINEAR": Builtin("ResizeBilinearOptions", _resize, _sized, lambda op, g: 3),
    "RESIZE_NEAREST_NEIGHBOR": Builtin("ResizeNearestNeighborOptions", _resize, _sized, lambda op, g: 3),
    "DEPTH_TO_SPACE": Builtin("DepthToSpaceOptions", _set("blockSize", "block_size")),
    "STRIDED_SLICE": Builtin("StridedSliceOptions", operands=_then("begin", "end", "strides")),
    "SLICE": Builtin("SliceOptions", operands=_then("begin", "size")),
    "SPLIT": Builtin("SplitOptions", _split, lambda op, g: [np.asarray(op.attr("axis"), np.int32), *op.inputs]),
}
