"""Arithmetic with broadcasting."""

from __future__ import annotations

import dataclasses
import math

import torch

from paceline.exporters.draft import Draft, Shape
from paceline.exporters.lowering.elementwise import binary, unary
from paceline.exporters.lowering.registry import LoweringError, computed, known, lowers
from paceline.exporters.lowering.values import Constant, Operand, Value


def scaled(draft: Draft, x: Operand, by: float) -> Operand:
    """`x` times the number `by`."""
    if by == 1:
        return x
    if isinstance(x, Constant):
        return dataclasses.replace(x, tensor=x.tensor * by)
    return binary(draft, "MUL", x, by) if isinstance(x, Value) else x * by


@lowers("add")
def add(draft: Draft, shape: Shape, a: Operand, b: Operand, alpha: float = 1) -> Value:
    return binary(draft, "ADD", a, scaled(draft, b, alpha))


@lowers("sub", "subtract")
def sub(draft: Draft, shape: Shape, a: Operand, b: Operand, alpha: float = 1) -> Value:
    return binary(draft, "SUB", a, scaled(draft, b, alpha))


@lowers("rsub")
def rsub(draft: Draft, shape: Shape, a: Operand, b: Operand, alpha: float = 1) -> Value:
    return binary(draft, "SUB", b, scaled(draft, a, alpha))


@lowers("mul", "multiply")
def mul(draft: Draft, shape: Shape, a: Operand, b: Operand) -> Value:
    if isinstance(a, Value) and a == b:
        return unary(draft, "SQUARE", a)
    return binary(draft, "MUL", a, b)


@lowers("div.Tensor", "div.Scalar", "divide.Tensor", "true_divide.Tensor")
def div(draft: Draft, shape: Shape, a: Operand, b: Operand) -> Value:
    if isinstance(b, Constant):
        return binary(draft, "MUL", a, Constant(b.name, 1 / b.tensor.double()))
    return binary(draft, "DIV", a, b) if isinstance(b, Value) else binary(draft, "MUL", a, 1 / b)


@lowers("div.Tensor_mode", "div.Scalar_mode", "floor_divide")
def rounded_div(draft: Draft, shape: Shape, a: Operand, b: Operand, rounding: str | None = "floor") -> Value:
    if rounding is None:
        return div(draft, shape, a, b)
    if rounding == "trunc":  # a product with the reciprocal may fall on the other side of a whole number
        return trunc(draft, shape, binary(draft, "DIV", a, b))
    if isinstance(b, int | float) and abs(math.frexp(b)[0]) == 0.5:
        return unary(draft, "FLOOR", binary(draft, "MUL", a, 1 / b))
    # torch takes the remainder off first: for 1 // 0.1 the quotient rounds to 10, where torch has 9
    whole = binary(draft, "SUB", a, binary(draft, "FLOOR_MOD", a, b))
    return unary(draft, "ROUND", binary(draft, "DIV", whole, b))


@lowers("remainder.Scalar", "remainder.Tensor", "remainder.Scalar_Tensor")
def remainder(draft: Draft, shape: Shape, a: Operand, b: Operand) -> Value:
    return binary(draft, "FLOOR_MOD", a, b)


@lowers("fmod.Scalar", "fmod.Tensor")
def fmod(draft: Draft, shape: Shape, a: Operand, b: Operand) -> Value:
    """The remainder with the sign of `a`."""
    a = computed(a, "dividend")
    size = unary(draft, "ABS", b) if isinstance(b, Value) else _magnitude(b)
    return binary(draft, "MUL", binary(draft, "FLOOR_MOD", unary(draft, "ABS", a), size), unary(draft, "SIGN", a))


def _magnitude(x: Constant | float) -> Constant | float:
    return dataclasses.replace(x, tensor=x.tensor.abs()) if isinstance(x, Constant) else abs(x)


@lowers("neg")
def neg(draft: Draft, shape: Shape, x: Value) -> Value:
    return binary(draft, "MUL", x, -1)


@lowers("reciprocal")
def reciprocal(draft: Draft, shape: Shape, x: Value) -> Value:
    return binary(draft, "DIV", 1, x)


@lowers("addcmul")
def addcmul(draft: Draft, shape: Shape, c: Operand, a: Operand, b: Operand, value: float = 1) -> Value:
    if isinstance(a, Constant) and isinstance(b, Constant):
        return binary(draft, "ADD", c, Constant(a.name, a.tensor * b.tensor * value))
    return binary(draft, "ADD", c, scaled(draft, binary(draft, "MUL", a, b), value))


@lowers("addcdiv")
def addcdiv(draft: Draft, shape: Shape, c: Operand, a: Operand, b: Operand, value: float = 1) -> Value:
    return binary(draft, "ADD", c, scaled(draft, div(draft, shape, a, b), value))


@lowers("lerp")
def lerp(draft: Draft, shape: Shape, start: Operand, end: Operand, weight: Operand) -> Value:
    return binary(draft, "ADD", start, binary(draft, "MUL", binary(draft, "SUB", end, start), weight))


@lowers("maximum", "max.other", "fmax")
def maximum(draft: Draft, shape: Shape, a: Operand, b: Operand) -> Value:
    return binary(draft, "MAXIMUM", a, b)


@lowers("minimum", "min.other", "fmin")
def minimum(draft: Draft, shape: Shape, a: Operand, b: Operand) -> Value:
    return binary(draft, "MINIMUM", a, b)


def _register_unary(operator: str, kind: str) -> None:
    @lowers(operator)
    def lower(draft: Draft, shape: Shape, x: Value) -> Value:
        return unary(draft, kind, x)


for _name in ("abs", "exp", "log", "sqrt", "rsqrt", "sin", "cos", "floor", "ceil", "square", "sign"):
    _register_unary(_name, _name.upper())
_register_unary("sgn", "SIGN")


@lowers("round")
def round_(draft: Draft, shape: Shape, x: Value, decimals: int = 0) -> Value:
    if decimals == 0:
        return unary(draft, "ROUND", x)
    unit = 10.0 ** abs(decimals)
    up, down = ("MUL", "DIV") if decimals > 0 else ("DIV", "MUL")
    return binary(draft, down, unary(draft, "ROUND", binary(draft, up, x, unit)), unit)


@lowers("trunc", "fix")
def trunc(draft: Draft, shape: Shape, x: Value) -> Value:
    """Each sign rounded towards zero for itself: delegates have no SIGN."""
    falling = unary(draft, "CEIL", binary(draft, "MINIMUM", x, 0.0))
    return binary(draft, "ADD", unary(draft, "FLOOR", unary(draft, "RELU", x)), falling)


@lowers("frac")
def frac(draft: Draft, shape: Shape, x: Value) -> Value:
    return binary(draft, "SUB", x, trunc(draft, shape, x))


@lowers("cosh")
def cosh(draft: Draft, shape: Shape, x: Value) -> Value:
    both = binary(draft, "ADD", unary(draft, "EXP", x), unary(draft, "EXP", unary(draft, "NEG", x)))
    return binary(draft, "MUL", both, 0.5)


@lowers("sinh")
def sinh(draft: Draft, shape: Shape, x: Value) -> Value:
    return binary(draft, "MUL", unary(draft, "TANH", x), cosh(draft, shape, x))


@lowers("tan")
def tan(draft: Draft, shape: Shape, x: Value) -> Value:
    return binary(draft, "DIV", unary(draft, "SIN", x), unary(draft, "COS", x))


def _register_logarithm(operator: str, base: float) -> None:
    @lowers(operator)
    def lower(draft: Draft, shape: Shape, x: Value) -> Value:
        return binary(draft, "MUL", unary(draft, "LOG", x), 1 / math.log(base))


_register_logarithm("log2", 2)
_register_logarithm("log10", 10)


@lowers("log1p")
def log1p(draft: Draft, shape: Shape, x: Value) -> Value:
    """y = log(1 + x), then one step of Newton's method on expm1(y) = x: near 0 rounding and the kernels' LOG lose all digits."""
    y = unary(draft, "LOG", binary(draft, "ADD", x, 1))
    error = binary(draft, "SUB", x, expm1(draft, shape, y))
    # the slope is 1 + x; below 0 the correction is tiny anyway, and 0 as a divisor would spoil log1p(-1)
    slope = binary(draft, "ADD", unary(draft, "RELU", x), 1)
    return binary(draft, "ADD", y, binary(draft, "DIV", error, slope))


@lowers("expm1")
def expm1(draft: Draft, shape: Shape, x: Value) -> Value:
    """tanh(x / 2) (exp(x) + 1): nothing cancels where x is small."""
    half = unary(draft, "TANH", binary(draft, "MUL", x, 0.5))
    return binary(draft, "MUL", half, binary(draft, "ADD", unary(draft, "EXP", x), 1))


@lowers("exp2")
def exp2(draft: Draft, shape: Shape, x: Value) -> Value:
    return unary(draft, "EXP", binary(draft, "MUL", x, math.log(2)))


@lowers("pow.Tensor_Scalar")
def pow_(draft: Draft, shape: Shape, x: Value, exponent: float) -> Value:
    roots = {0.5: "SQRT", -0.5: "RSQRT"}
    if exponent in roots:
        return unary(draft, roots[exponent], x)
    if 2 * exponent == int(2 * exponent) and 1 <= abs(exponent) <= 8:
        power = _whole_power(draft, x, abs(int(exponent)))
        if exponent % 1:
            power = binary(draft, "MUL", power, unary(draft, "SQRT", x))
        return power if exponent > 0 else binary(draft, "DIV", 1, power)
    return binary(draft, "POW", x, exponent)


def _whole_power(draft: Draft, x: Value, exponent: int) -> Value:
    if exponent == 1:
        return x
    half = unary(draft, "SQUARE", _whole_power(draft, x, exponent // 2))
    return binary(draft, "MUL", half, x) if exponent % 2 else half


@lowers("pow.Scalar")
def power_of(draft: Draft, shape: Shape, base: float, x: Value) -> Value:
    if base <= 0:
        raise LoweringError(f"it raises {base:g} to a power", "use a positive base")
    return unary(draft, "EXP", binary(draft, "MUL", x, math.log(base)))


@lowers("pow.Tensor_Tensor")
def power(draft: Draft, shape: Shape, base: Operand, exponent: Operand) -> Value:
    if isinstance(exponent, Constant) and exponent.tensor.numel() == 1:
        return pow_(draft, shape, computed(base, "base"), exponent.tensor.item())
    return binary(draft, "POW", base, exponent)


@lowers("where.self", "where.ScalarOther", "where.ScalarSelf")
def where(draft: Draft, shape: Shape, condition: Operand, a: Operand, b: Operand) -> Value:
    """Chosen by a constant mask: one operand times the mask plus the other times its opposite, exact for finite numbers."""
    mask = known(condition, "condition").tensor
    chosen = _kept(draft, a, mask), _kept(draft, b, ~mask)
    values = [x for x in chosen if isinstance(x, Value)]
    constants = [x for x in chosen if isinstance(x, Constant)]
    if constants and not constants[0].tensor.any():
        return values[0]
    if constants and bool(torch.isinf(constants[0].tensor[constants[0].tensor != 0]).all()):
        # infinity wins over whatever is there: no need to mask that
        return binary(draft, "ADD", computed(a if isinstance(a, Value) else b, "operand"), constants[0])
    return binary(draft, "ADD", chosen[0], chosen[1])


def _kept(draft: Draft, x: Operand, mask: torch.Tensor) -> Value | Constant:
    """`x` where the mask holds, zero elsewhere."""
    if isinstance(x, Value):
        return binary(draft, "MUL", x, Constant(f"{draft.label}/mask", mask.float()))
    tensor = x.tensor if isinstance(x, Constant) else torch.tensor(float(x))
    return Constant(f"{draft.label}/values", torch.where(mask, tensor, torch.zeros((), dtype=tensor.dtype)))


@lowers("masked_fill")
def masked_fill(draft: Draft, shape: Shape, x: Value, mask: Operand, value: Operand) -> Value:
    if isinstance(mask, Constant) and not mask.tensor.any():
        return x
    return where(draft, shape, mask, value, computed(x, "input"))
