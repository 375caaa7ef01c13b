"""Elementwise operators: arithmetic with broadcasting, activations, softmax."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import numpy as np

from paceline.exporters.draft import Draft, Shape
from paceline.exporters.lowering.layout import broadcastable, graph_ordered, nhwc, permuted, torch_ordered
from paceline.exporters.lowering.registry import Constant, LoweringError, Operand, Value, known, lowers


def binary(draft: Draft, kind: str, a: Operand, b: Operand) -> Value:
    """An elementwise operator on two operands, at least one of them computed."""
    shapes = [() if isinstance(x, int | float) else x.shape for x in (a, b)]
    shape = tuple(np.broadcast_shapes(*shapes))
    names = [broadcastable(draft, a, b, shape), broadcastable(draft, b, a, shape)]
    attributes = {} if kind in ("MAXIMUM", "MINIMUM") else {"activation": "NONE"}
    return Value(draft.emit(kind, names, nhwc(shape), **attributes), shape)


def unary(draft: Draft, kind: str, x: Value, **attributes: float) -> Value:
    return Value(draft.emit(kind, [x.name], nhwc(x.shape), **attributes), x.shape)


def _times(draft: Draft, x: Operand, factor: float) -> Operand:
    if factor == 1:
        return x
    if isinstance(x, Constant):
        return dataclasses.replace(x, tensor=x.tensor * factor)
    return binary(draft, "MUL", x, factor) if isinstance(x, Value) else x * factor


@lowers("add")
def add(draft: Draft, shape: Shape, a: Operand, b: Operand, alpha: float = 1) -> Value:
    return binary(draft, "ADD", a, _times(draft, b, alpha))


@lowers("sub", "subtract")
def sub(draft: Draft, shape: Shape, a: Operand, b: Operand, alpha: float = 1) -> Value:
    return binary(draft, "SUB", a, _times(draft, b, alpha))


@lowers("rsub")
def rsub(draft: Draft, shape: Shape, a: Operand, b: Operand, alpha: float = 1) -> Value:
    return binary(draft, "SUB", b, _times(draft, a, alpha))


@lowers("mul", "multiply")
def mul(draft: Draft, shape: Shape, a: Operand, b: Operand) -> Value:
    return binary(draft, "MUL", a, b)


@lowers("div.Tensor", "div.Scalar")
def div(draft: Draft, shape: Shape, a: Operand, b: Operand) -> Value:
    if isinstance(b, Constant):
        return binary(draft, "MUL", a, Constant(b.name, 1 / b.tensor.double()))
    return binary(draft, "DIV", a, b) if isinstance(b, Value) else binary(draft, "MUL", a, 1 / b)


@lowers("neg")
def neg(draft: Draft, shape: Shape, x: Value) -> Value:
    return binary(draft, "MUL", x, -1)


@lowers("reciprocal")
def reciprocal(draft: Draft, shape: Shape, x: Value) -> Value:
    return binary(draft, "DIV", 1, x)


@lowers("square")
def square(draft: Draft, shape: Shape, x: Value) -> Value:
    return binary(draft, "MUL", x, x)


@lowers("maximum")
def maximum(draft: Draft, shape: Shape, a: Operand, b: Operand) -> Value:
    return binary(draft, "MAXIMUM", a, b)


@lowers("minimum")
def minimum(draft: Draft, shape: Shape, a: Operand, b: Operand) -> Value:
    return binary(draft, "MINIMUM", a, b)


@lowers("clamp", "hardtanh", "clip")
def clamp(draft: Draft, shape: Shape, x: Value, low: Operand | None, high: Operand | None) -> Value:
    if low == 0 and high in (None, math.inf, 6):
        return unary(draft, "RELU6" if high == 6 else "RELU", x)
    if low is not None and low != -math.inf:
        x = binary(draft, "MAXIMUM", x, low)
    return x if high is None or high == math.inf else binary(draft, "MINIMUM", x, high)


@lowers("clamp_min")
def clamp_min(draft: Draft, shape: Shape, x: Value, low: Operand) -> Value:
    return clamp(draft, shape, x, low, None)


@lowers("clamp_max")
def clamp_max(draft: Draft, shape: Shape, x: Value, high: Operand) -> Value:
    return clamp(draft, shape, x, None, high)


def _register_unary(operator: str, kind: str) -> None:
    @lowers(operator)
    def lower(draft: Draft, shape: Shape, x: Value) -> Value:
        return unary(draft, kind, x)


for _operator, _kind in {
    "relu": "RELU",
    "relu6": "RELU6",
    "sigmoid": "LOGISTIC",
    "tanh": "TANH",
    "hardswish": "HARD_SWISH",
}.items():
    _register_unary(_operator, _kind)


@lowers("hardsigmoid")
def hardsigmoid(draft: Draft, shape: Shape, x: Value) -> Value:
    return binary(draft, "MUL", unary(draft, "RELU6", binary(draft, "ADD", x, 3)), 1 / 6)


@lowers("silu")
def silu(draft: Draft, shape: Shape, x: Value) -> Value:
    return binary(draft, "MUL", x, unary(draft, "LOGISTIC", x))


@lowers("leaky_relu")
def leaky_relu(draft: Draft, shape: Shape, x: Value, slope: float) -> Value:
    return unary(draft, "LEAKY_RELU", x, alpha=float(slope))


@lowers("prelu")
def prelu(draft: Draft, shape: Shape, x: Value, weight: Constant) -> Value:
    weight = known(weight, "slope")
    slopes = weight.tensor.detach().cpu().numpy()
    if slopes.size == 1:
        return unary(draft, "LEAKY_RELU", x, alpha=float(slopes.item()))
    if len(shape) not in (2, 4):
        raise LoweringError(f"a PReLU of one slope per channel needs a 2-D or 4-D input, not {shape}", "use one slope for all")
    alpha = draft.constant(weight.name, slopes.reshape((1,) * (len(shape) - 2) + (-1,)).astype(np.float32))
    return Value(draft.emit("PRELU", [x.name, alpha], nhwc(shape)), shape)


@lowers("softmax.int", "_softmax")
def softmax(draft: Draft, shape: Shape, x: Value, dim: int, *_: Any) -> Value:
    rank = len(shape)
    dim %= rank
    if rank == 4 and dim == 1:
        return unary(draft, "SOFTMAX", x, beta=1.0)
    order = [d for d in range(rank) if d != dim] + [dim]
    moved = permuted(draft, x, order)
    ordered = torch_ordered(draft, moved)
    result = draft.emit("SOFTMAX", [ordered], draft.shapes[ordered], beta=1.0)
    return permuted(draft, graph_ordered(draft, result), [order.index(d) for d in range(rank)])
