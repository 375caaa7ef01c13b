"""Products of matrices, attention and softmax."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from paceline.exporters.draft import Draft, Shape
from paceline.exporters.lowering.convolution import pointwise
from paceline.exporters.lowering.elementwise import binary, unary
from paceline.exporters.lowering.layout import MAX_RANK, arranged, complete, features_last, isolated, matched, permuted, reshaped
from paceline.exporters.lowering.reductions import reduced
from paceline.exporters.lowering.registry import LoweringError, computed, lowers
from paceline.exporters.lowering.values import Constant, Factor, Factors, Operand, Value, factor, flat, renewed, size_of


def along(draft: Draft, x: Value, dim: int, matrix: npt.NDArray[np.float64]) -> Value:
    """The dimension `dim` multiplied by `matrix` (outputs, inputs), in BATCH_MATMUL, whatever lies around the dimension."""
    x = complete(draft, x)
    x, axis = isolated(draft, x, dim)
    own = x.dims[dim]
    if axis == len(x.axes) - 1:
        return pointwise(draft, x, dim, Constant(f"{draft.label}/weight", torch.from_numpy(matrix)), None)
    before, after = flat(x.axes[:axis]), flat(x.axes[axis + 1 :])
    x = arranged(draft, x, (before, own, after))
    new = factor(matrix.shape[0])
    operands = [draft.constant(f"{draft.label}/matrix", matrix[None]), x.name]
    shape = (size_of(before), matrix.shape[0], size_of(after))
    name = draft.emit("BATCH_MATMUL", operands, shape, adj_x=False, adj_y=False)
    return Value(name, tuple(new if d == dim % len(x.dims) else f for d, f in enumerate(x.dims)), (before, new, after))


def as_value(draft: Draft, x: Value | Constant) -> Value:
    """`x` as an operand of operators that treat both sides alike."""
    if isinstance(x, Value):
        return x
    dims = tuple(factor(n) for n in x.shape)
    return Value(draft.constant(x.name, x.tensor.detach().cpu().numpy()), dims, dims)


def product(draft: Draft, a: Value | Constant, b: Value | Constant) -> Value:
    """a (..., M, K) times b (..., K, N), the leading dimensions broadcast."""
    if isinstance(b, Constant) and b.tensor.ndim == 2:
        return pointwise(draft, computed(a, "factor"), -1, replace(b, tensor=b.tensor.T), None)
    if isinstance(a, Constant) and a.tensor.ndim == 2:
        return along(draft, computed(b, "factor"), -2, a.tensor.detach().double().numpy())
    rank = max(len(a.shape), len(b.shape))
    left, right = (replace(v, dims=((),) * (rank - len(v.dims)) + v.dims) for v in (as_value(draft, a), as_value(draft, b)))
    left, right = matched(draft, left, renewed(right), range(rank - 2))
    lead = tuple(one or other for one, other in zip(left.dims[:-2], right.dims[:-2], strict=True))
    place = _place(flat(left.axes) + flat(right.axes))
    batch = sorted((dim for dim in lead if dim), key=lambda dim: min(place(f) for f in dim))
    if len(batch) > MAX_RANK - 2:
        batch = [flat(batch)]
    rows, columns = left.dims[-2], right.dims[-1]
    names, turned = zip(*(_matrices(draft, v, batch) for v in (left, right)), strict=True)
    axes = (*batch, rows, columns)
    if all(turned):  # the transpose of the product, from operands as they are stored
        names, turned, axes = names[::-1], (False, False), (*batch, columns, rows)
    shape = tuple(size_of(axis) for axis in axes)
    name = draft.emit("BATCH_MATMUL", names, shape, adj_x=turned[0], adj_y=turned[1])
    return Value(name, (*lead, rows, columns), axes)


def _place(order: Factors) -> Callable[[Factor], int]:
    return lambda f: order.index(f) if f in order else len(order)


def _matrices(draft: Draft, x: Value, batch: Sequence[Factors]) -> tuple[str, bool]:
    """`x` as a batch of matrices, and whether these are stored by columns; a batch of 1 where `x` is the same for all."""
    have = set(flat(x.axes))
    rows, columns = x.dims[-2:]
    lead = tuple(axis if have & set(axis) else () for axis in batch)
    turned = bool(rows) and flat(x.axes)[-1:] == rows[-1:]
    return arranged(draft, x, (*lead, columns, rows) if turned else (*lead, rows, columns)).name, turned


@lowers("matmul", "bmm", "mm", "mv")
def matmul(draft: Draft, shape: Shape, a: Value | Constant, b: Value | Constant) -> Value:
    left, right = len(a.shape) == 1, len(b.shape) == 1
    if left:
        a = _reshaped(draft, a, (1, *a.shape))
    if right:
        b = _reshaped(draft, b, (*b.shape, 1))
    return reshaped(draft, product(draft, a, b), shape) if left or right else product(draft, a, b)


def _reshaped(draft: Draft, x: Value | Constant, shape: Shape) -> Value | Constant:
    return replace(x, tensor=x.tensor.reshape(shape)) if isinstance(x, Constant) else reshaped(draft, x, shape)


@lowers("addmm", "baddbmm", "addbmm")
def addmm(draft: Draft, shape: Shape, c: Operand, a: Operand, b: Operand, beta: float = 1, alpha: float = 1) -> Value:
    assert isinstance(a, Value | Constant)
    assert isinstance(b, Value | Constant)
    result: Value = product(draft, a, b)
    if alpha != 1:
        result = binary(draft, "MUL", result, alpha)
    if beta == 0:
        return result
    if beta != 1:
        c = replace(c, tensor=c.tensor * beta) if isinstance(c, Constant) else binary(draft, "MUL", c, beta)
    return binary(draft, "ADD", result, c)


@lowers("softmax.int", "_softmax", "special_softmax", "_safe_softmax")
def softmax(draft: Draft, shape: Shape, x: Value, dim: int, *_: Any) -> Value:
    x, _order = features_last(draft, computed(x, "input"), dim)
    return unary(draft, "SOFTMAX", x, beta=1.0)


@lowers("log_softmax.int", "_log_softmax", "special_log_softmax")
def log_softmax(draft: Draft, shape: Shape, x: Value, dim: int, *_: Any) -> Value:
    x, _order = features_last(draft, computed(x, "input"), dim)
    return unary(draft, "LOG_SOFTMAX", x)


@lowers("scaled_dot_product_attention")
def attention(
    draft: Draft,
    shape: Shape,
    query: Value | Constant,
    key: Value | Constant,
    value: Value | Constant,
    mask: Operand | None,
    dropout: float,
    causal: bool,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> Value:
    """softmax(query key^T scale + mask) value, the scale applied to the query, which is smaller than the scores."""
    if dropout:
        raise LoweringError("its dropout draws random numbers", "pass dropout_p=0 in inference")
    factor_ = 1 / math.sqrt(query.shape[-1]) if scale is None else scale
    query, key, value = (as_value(draft, x) for x in (query, key, value))
    if enable_gqa and key.shape[-3] != query.shape[-3]:
        times = query.shape[-3] // key.shape[-3]
        key, value = (replace(x, dims=(*x.dims[:-3], x.dims[-3] + factor(times), *x.dims[-2:])) for x in (key, value))
    rank = len(key.dims)
    turned = permuted(key, (*range(rank - 2), rank - 1, rank - 2))
    scores = product(draft, binary(draft, "MUL", query, factor_) if factor_ != 1 else query, turned)
    if causal:
        mask = Constant(f"{draft.label}/causal", torch.ones(scores.shape[-2:], dtype=torch.bool).tril())
    if isinstance(mask, Constant) and mask.tensor.dtype == torch.bool:
        mask = replace(mask, tensor=torch.zeros(mask.shape).masked_fill(~mask.tensor, -math.inf))
    if mask is not None:
        scores = binary(draft, "ADD", scores, mask)
    return product(draft, softmax(draft, scores.shape, scores, -1), value)


@lowers("einsum")
def einsum(draft: Draft, shape: Shape, equation: str, tensors: list[Value | Constant], *_: Any) -> Value:
    left, _arrow, out = equation.replace(" ", "").partition("->")
    terms = left.split(",")
    if "." in equation or not _arrow or len(terms) != 2 or any(len(set(t)) != len(t) for t in (*terms, out)):
        raise LoweringError(
            f"einsum {equation!r}", "write it with two operands, an explicit result and no repeated letters in one"
        )
    a, b = (as_value(draft, x) for x in tensors)
    for which, (own, other) in enumerate((terms, terms[::-1])):
        alone = [i for i, letter in enumerate(own) if letter not in other and letter not in out]
        if alone:
            x = reduced(draft, "SUM", (a, b)[which], alone, False)
            a, b = (x, b) if which == 0 else (a, x)
            terms[which] = "".join(letter for letter in own if letter in other or letter in out)
    first, second = terms
    batch = [c for c in first if c in second and c in out]
    inner = [c for c in first if c in second and c not in out]
    rows, columns = [c for c in first if c not in second], [c for c in second if c not in first]

    def dims(x: Value, letters: str, wanted: list[str]) -> Factors:
        return tuple(f for c in wanted for f in x.dims[letters.index(c)])

    leads = [tuple(x.dims[letters.index(c)] for c in batch) for x, letters in ((a, first), (b, second))]
    sizes = {c: size_of(x.dims[i]) for x, letters in ((a, first), (b, second)) for i, c in enumerate(letters)}
    a = replace(a, dims=(*leads[0], dims(a, first, rows), dims(a, first, inner)))
    b = replace(b, dims=(*leads[1], dims(b, second, inner), dims(b, second, columns)))
    order = [*batch, *rows, *columns]
    result = reshaped(draft, product(draft, a, b), [sizes[c] for c in order])
    return permuted(result, [order.index(c) for c in out])
