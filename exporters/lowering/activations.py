"""Activation functions."""

from __future__ import annotations

import math

from paceline.exporters.draft import Draft, Shape
from paceline.exporters.lowering.elementwise import binary, unary
from paceline.exporters.lowering.layout import arranged, constant_in
from paceline.exporters.lowering.rearrange import parted
from paceline.exporters.lowering.registry import LoweringError, known, lowers
from paceline.exporters.lowering.values import Constant, Operand, Value, flat


def _register(operator: str, kind: str) -> None:
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
    _register(_operator, _kind)


@lowers("clamp", "hardtanh", "clip")
def clamp(draft: Draft, shape: Shape, x: Value, low: Operand | None, high: Operand | None) -> Value:
    fused = {(0, 6): "RELU6", (-1, 1): "RELU_N1_TO_1"}
    ends = tuple(end if isinstance(end, int | float) else None for end in (low, high))
    if ends in fused:
        return unary(draft, fused[ends], x)
    if low is not None and low != -math.inf:
        x = unary(draft, "RELU", x) if low == 0 else binary(draft, "MAXIMUM", x, low)
    return x if high is None or high == math.inf else binary(draft, "MINIMUM", x, high)


@lowers("clamp_min")
def clamp_min(draft: Draft, shape: Shape, x: Value, low: Operand) -> Value:
    return clamp(draft, shape, x, low, None)


@lowers("clamp_max")
def clamp_max(draft: Draft, shape: Shape, x: Value, high: Operand) -> Value:
    return clamp(draft, shape, x, None, high)


@lowers("hardsigmoid")
def hardsigmoid(draft: Draft, shape: Shape, x: Value) -> Value:
    return binary(draft, "MUL", unary(draft, "RELU6", binary(draft, "ADD", x, 3)), 1 / 6)


@lowers("silu")
def silu(draft: Draft, shape: Shape, x: Value) -> Value:
    return binary(draft, "MUL", x, unary(draft, "LOGISTIC", x))


@lowers("gelu")
def gelu(draft: Draft, shape: Shape, x: Value, approximate: str) -> Value:
    return unary(draft, "GELU", x, approximate=approximate == "tanh")


@lowers("leaky_relu")
def leaky_relu(draft: Draft, shape: Shape, x: Value, slope: float) -> Value:
    return unary(draft, "LEAKY_RELU", x, alpha=float(slope))


@lowers("rrelu")
def rrelu(draft: Draft, shape: Shape, x: Value, lower: float, upper: float, training: bool, *_: object) -> Value:
    if training:
        raise LoweringError("rrelu is in training mode", "call .eval() first")
    return leaky_relu(draft, shape, x, (lower + upper) / 2)


@lowers("prelu")
def prelu(draft: Draft, shape: Shape, x: Value, weight: Constant) -> Value:
    weight = known(weight, "slope")
    if weight.tensor.numel() == 1:
        return unary(draft, "LEAKY_RELU", x, alpha=float(weight.tensor.item()))
    slopes = Constant(weight.name, weight.tensor.reshape(-1, *(1,) * (len(shape) - 2)))
    if not set(x.dims[1]) <= set(flat(x.axes)):
        x = arranged(draft, x, x.dims)
    alpha = constant_in(draft, slopes, x.dims, x.axes)
    if draft.shapes[alpha] != x.stored[-len(draft.shapes[alpha]) :] or len(draft.shapes[alpha]) > 1:
        return _prelu_of_halves(draft, x, slopes)
    return Value(draft.emit("PRELU", [x.name, alpha], x.stored), x.dims, x.axes)


def _prelu_of_halves(draft: Draft, x: Value, slopes: Constant) -> Value:
    """Where the channels are not stored last: max(x, 0) + slope * min(x, 0)."""
    negative = binary(draft, "MUL", binary(draft, "MINIMUM", x, 0.0), slopes)
    return binary(draft, "ADD", unary(draft, "RELU", x), negative)


@lowers("elu")
def elu(draft: Draft, shape: Shape, x: Value, alpha: float, scale: float, input_scale: float) -> Value:
    if (alpha, input_scale) == (1, 1):
        result = unary(draft, "ELU", x)
        return result if scale == 1 else binary(draft, "MUL", result, scale)
    falling = unary(draft, "EXP", binary(draft, "MUL", binary(draft, "MINIMUM", x, 0.0), input_scale))
    negative = binary(draft, "MUL", binary(draft, "SUB", falling, 1), alpha * scale)
    return binary(draft, "ADD", _scaled(draft, unary(draft, "RELU", x), scale), negative)


def _scaled(draft: Draft, x: Value, scale: float) -> Value:
    return x if scale == 1 else binary(draft, "MUL", x, scale)


@lowers("selu")
def selu(draft: Draft, shape: Shape, x: Value) -> Value:
    return elu(draft, shape, x, 1.6732632423543772, 1.0507009873554805, 1)


@lowers("celu")
def celu(draft: Draft, shape: Shape, x: Value, alpha: float) -> Value:
    return elu(draft, shape, x, alpha, 1, 1 / alpha)


_HIGH = 15.0
"""exp(-15) / 15 is a sixth of the distance between neighbouring float32 numbers there."""


@lowers("softplus")
def softplus(draft: Draft, shape: Shape, x: Value, beta: float, threshold: float) -> Value:
    """log(1 + exp(beta x)) / beta as max(x, 0) + log(1 + exp(-|beta x|)) / beta, which can't overflow.

    torch returns x itself beyond the threshold: where that is high, the same number in float32.
    """
    if threshold < _HIGH:
        raise LoweringError(f"it is cut off at the threshold {threshold:g}", "use threshold=20")
    x = _scaled(draft, x, beta)
    falling = unary(draft, "EXP", unary(draft, "NEG", unary(draft, "ABS", x)))
    rest = unary(draft, "LOG", binary(draft, "ADD", falling, 1))
    return _scaled(draft, binary(draft, "ADD", unary(draft, "RELU", x), rest), 1 / beta)


@lowers("log_sigmoid")
def log_sigmoid(draft: Draft, shape: Shape, x: Value) -> Value:
    return binary(draft, "MUL", softplus(draft, shape, binary(draft, "MUL", x, -1), 1, 20), -1)


@lowers("mish")
def mish(draft: Draft, shape: Shape, x: Value) -> Value:
    """x tanh(softplus(x)) = x n / (n + 2) with n = exp(x) (exp(x) + 2); beyond 20 the quotient is 1 in float32."""
    power = unary(draft, "EXP", binary(draft, "MINIMUM", x, 20.0))
    n = binary(draft, "MUL", power, binary(draft, "ADD", power, 2))
    return binary(draft, "MUL", x, binary(draft, "DIV", n, binary(draft, "ADD", n, 2)))


@lowers("softsign")
def softsign(draft: Draft, shape: Shape, x: Value) -> Value:
    return binary(draft, "DIV", x, binary(draft, "ADD", unary(draft, "ABS", x), 1))


@lowers("threshold")
def threshold(draft: Draft, shape: Shape, x: Value, limit: float, value: float) -> Value:
    if limit != value:
        raise LoweringError(f"it jumps from {value:g} to {limit:g}", "use a threshold that equals the value")
    return unary(draft, "RELU", x) if limit == 0 else binary(draft, "MAXIMUM", x, limit)


@lowers("softshrink")
def softshrink(draft: Draft, shape: Shape, x: Value, limit: float) -> Value:
    return binary(draft, "SUB", x, clamp(draft, shape, x, -limit, limit)) if limit else x


@lowers("logit")
def logit(draft: Draft, shape: Shape, x: Value, eps: float | None) -> Value:
    x = x if eps is None else clamp(draft, shape, x, eps, 1 - eps)
    return unary(draft, "LOG", binary(draft, "DIV", x, binary(draft, "SUB", 1, x)))


@lowers("glu")
def glu(draft: Draft, shape: Shape, x: Value, dim: int) -> Value:
    half = x.shape[dim] // 2
    values, gates = parted(draft, x, [half, half], dim)
    return binary(draft, "MUL", values, unary(draft, "LOGISTIC", gates))
