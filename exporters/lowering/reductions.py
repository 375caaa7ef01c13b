"""Reductions over dimensions: means, sums, extremes, variances, norms."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

from paceline.exporters.draft import Draft, Shape
from paceline.exporters.lowering.arithmetic import pow_
from paceline.exporters.lowering.elementwise import binary, unary
from paceline.exporters.lowering.layout import arranged, complete, in_runs, isolated
from paceline.exporters.lowering.registry import LoweringError, computed, lowers
from paceline.exporters.lowering.values import Constant, Operand, Value, flat, size_of

Dims = Sequence[int] | int | None


def reduced(draft: Draft, kind: str, x: Value, dims: Dims, keepdim: bool) -> Value:
    """`x` reduced over the dimensions `dims`, all of them if there are none."""
    rank = len(x.dims)
    listed = [dims] if isinstance(dims, int) else list(dims or range(rank))
    gone = {d % rank for d in listed} if rank else set()
    inside = {f for d in gone for f in x.dims[d]}
    if inside:
        if not inside <= set(flat(x.axes)):
            x = complete(draft, x)
            inside = {f for d in gone for f in x.dims[d]}
        x = arranged(draft, x, in_runs(x.axes, inside))
        left = tuple(() if set(axis) & inside else axis for axis in x.axes)
        over = tuple(i for i, axis in enumerate(x.axes) if set(axis) & inside)
        name = draft.emit(kind, [x.name], tuple(size_of(axis) for axis in left), axes=over, keep_dims=True)
        x = replace(x, name=name, axes=left)
    kept = (((),) if d in gone else (dim,) for d, dim in enumerate(x.dims) if keepdim or d not in gone)
    return replace(x, dims=tuple(dim for (dim,) in kept))


def _dropped(x: Value, dims: Dims) -> Value:
    """`x` without the dimensions `dims`, which are of size 1."""
    gone = {d % len(x.dims) for d in ([dims] if isinstance(dims, int) else list(dims or range(len(x.dims))))}
    return replace(x, dims=tuple(dim for d, dim in enumerate(x.dims) if d not in gone))


def elements(x: Value, dims: Dims) -> int:
    """How many elements each result of a reduction stands for."""
    listed = [dims] if isinstance(dims, int) else list(dims or range(len(x.dims)))
    return math.prod(x.shape[d] for d in {d % len(x.dims) for d in listed})


def _register(kind: str, *operators: str) -> None:
    @lowers(*operators)
    def lower(draft: Draft, shape: Shape, x: Value, dims: Dims = None, keepdim: bool = False, *_: Any) -> Value:
        return reduced(draft, kind, x, dims, keepdim)


_register("MEAN", "mean.dim")
_register("SUM", "sum.dim_IntList")
_register("REDUCE_MAX", "amax")
_register("REDUCE_MIN", "amin")
_register("REDUCE_PROD", "prod.dim_int")


def _register_total(kind: str, *operators: str) -> None:
    @lowers(*operators)
    def lower(draft: Draft, shape: Shape, x: Value, *_: Any) -> Value:
        return reduced(draft, kind, x, None, False)


_register_total("MEAN", "mean.default")
_register_total("SUM", "sum.default")
_register_total("REDUCE_PROD", "prod.default")
_register_total("REDUCE_MAX", "max.default")
_register_total("REDUCE_MIN", "min.default")


@lowers("max.dim")
def max_dim(draft: Draft, shapes: tuple[Shape, Shape], x: Value, dim: int, keepdim: bool) -> tuple[Value, None]:
    return reduced(draft, "REDUCE_MAX", x, [dim], keepdim), None


@lowers("min.dim")
def min_dim(draft: Draft, shapes: tuple[Shape, Shape], x: Value, dim: int, keepdim: bool) -> tuple[Value, None]:
    return reduced(draft, "REDUCE_MIN", x, [dim], keepdim), None


def moments(draft: Draft, x: Value, dims: Dims) -> tuple[Value, Value, Value]:
    """Mean and biased variance over `dims` (which stay, as size 1), and the deviations from the mean."""
    mean = reduced(draft, "MEAN", x, dims, True)
    deviation = binary(draft, "SUB", x, mean)
    return mean, reduced(draft, "MEAN", unary(draft, "SQUARE", deviation), dims, True), deviation


def _variance(draft: Draft, x: Value, dims: Dims, correction: float | None, keepdim: bool) -> tuple[Value, Value]:
    mean = reduced(draft, "MEAN", x, dims, True)
    variance = reduced(draft, "MEAN", binary(draft, "SQUARED_DIFFERENCE", x, mean), dims, True)
    count, less = elements(x, dims), 1.0 if correction is None else float(correction)
    if count <= less:
        raise LoweringError(f"the variance of {count} numbers with correction {less:g}", "use correction=0")
    if less:
        variance = binary(draft, "MUL", variance, count / (count - less))
    return (variance, mean) if keepdim else (_dropped(variance, dims), _dropped(mean, dims))


def _register_spread(operator: str, result: Callable[[Draft, Value, Value], Any]) -> None:
    @lowers(f"{operator}.correction")
    def with_correction(draft: Draft, _: Any, x: Value, dims: Dims, correction: float | None, keepdim: bool) -> Any:
        return result(draft, *_variance(draft, x, dims, correction, keepdim))

    @lowers(f"{operator}.dim")
    def with_dims(draft: Draft, _: Any, x: Value, dims: Dims, unbiased: bool, keepdim: bool) -> Any:
        return result(draft, *_variance(draft, x, dims, float(unbiased), keepdim))

    @lowers(operator)
    def of_all(draft: Draft, _: Any, x: Value, unbiased: bool = True) -> Any:
        return result(draft, *_variance(draft, x, None, float(unbiased), False))


_register_spread("var", lambda draft, variance, mean: variance)
_register_spread("std", lambda draft, variance, mean: unary(draft, "SQRT", variance))
_register_spread("var_mean", lambda draft, variance, mean: (variance, mean))
_register_spread("std_mean", lambda draft, variance, mean: (unary(draft, "SQRT", variance), mean))


@lowers("linalg_vector_norm", "norm.ScalarOpt_dim", "norm.Scalar")
def vector_norm(
    draft: Draft, shape: Shape, x: Value, order: float = 2, dims: Dims = None, keepdim: bool = False, *_: Any
) -> Value:
    if order is None or order == 2:
        return unary(draft, "SQRT", reduced(draft, "SUM", unary(draft, "SQUARE", x), dims, keepdim))
    if order == 1:
        return reduced(draft, "SUM", unary(draft, "ABS", x), dims, keepdim)
    if order in (math.inf, -math.inf):
        return reduced(draft, "REDUCE_MAX" if order > 0 else "REDUCE_MIN", unary(draft, "ABS", x), dims, keepdim)
    if order <= 0:
        raise LoweringError(f"it is a norm of order {order:g}", "use a norm of positive order")
    total = reduced(draft, "SUM", pow_(draft, shape, unary(draft, "ABS", x), order), dims, keepdim)
    return pow_(draft, shape, total, 1 / order)


@lowers("linalg_matrix_norm.str_ord")
def matrix_norm(draft: Draft, shape: Shape, x: Value, order: str, dims: Dims, keepdim: bool, *_: Any) -> Value:
    if order != "fro":
        raise LoweringError(f"it is the {order!r} norm of a matrix", "use the Frobenius norm, 'fro'")
    return vector_norm(draft, shape, x, 2, dims, keepdim)


@lowers("aminmax")
def aminmax(draft: Draft, shapes: tuple[Shape, Shape], x: Value, dim: int | None, keepdim: bool) -> tuple[Value, Value]:
    return reduced(draft, "REDUCE_MIN", x, dim, keepdim), reduced(draft, "REDUCE_MAX", x, dim, keepdim)


@lowers("logsumexp")
def logsumexp(draft: Draft, shape: Shape, x: Value, dims: Dims, keepdim: bool) -> Value:
    highest = reduced(draft, "REDUCE_MAX", x, dims, True)
    total = reduced(draft, "SUM", unary(draft, "EXP", binary(draft, "SUB", x, highest)), dims, True)
    result = binary(draft, "ADD", unary(draft, "LOG", total), highest)
    return result if keepdim else _dropped(result, dims)


@lowers("logaddexp")
def logaddexp(draft: Draft, shape: Shape, a: Operand, b: Operand) -> Value:
    apart = unary(draft, "EXP", unary(draft, "NEG", unary(draft, "ABS", binary(draft, "SUB", a, b))))
    return binary(draft, "ADD", binary(draft, "MAXIMUM", a, b), unary(draft, "LOG", binary(draft, "ADD", apart, 1)))


@lowers("cumsum")
def cumsum(draft: Draft, shape: Shape, x: Value, dim: int, *_: Any) -> Value:
    if not x.dims:
        return x
    x, axis = isolated(draft, complete(draft, x), dim)
    return unary(draft, "CUMSUM", x, axis=axis)


@lowers("cosine_similarity")
def cosine_similarity(draft: Draft, shape: Shape, a: Operand, b: Operand, dim: int, eps: float) -> Value:
    both = binary(draft, "MUL", a, b)
    dim = dim % len(both.dims) - len(both.dims)
    result = reduced(draft, "SUM", both, dim, True)
    for x in (a, b):
        if isinstance(x, Constant):
            length: Operand = Constant(x.name, 1 / x.tensor.double().norm(dim=dim, keepdim=True).clamp_min(eps))
            result = binary(draft, "MUL", result, length)
        else:
            length = vector_norm(draft, shape, computed(x, "operand"), 2, dim, True)
            result = binary(draft, "DIV", result, binary(draft, "MAXIMUM", length, eps))
    return _dropped(result, dim)


@lowers("pairwise_distance")
def pairwise_distance(draft: Draft, shape: Shape, a: Operand, b: Operand, order: float, eps: float, keepdim: bool) -> Value:
    apart = binary(draft, "ADD", binary(draft, "SUB", a, b), eps)
    return vector_norm(draft, shape, apart, order, -1, keepdim)
