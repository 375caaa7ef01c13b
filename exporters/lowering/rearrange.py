"""Operators that only move elements: views, slices, concatenation, repetition; and those that do nothing in inference."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch

from paceline.exporters.draft import Draft, Shape
from paceline.exporters.lowering.layout import (
    arranged,
    complete,
    constant_in,
    emitted,
    image,
    isolated,
    matched,
    permuted,
    reshaped,
)
from paceline.exporters.lowering.registry import LoweringError, computed, lowers
from paceline.exporters.lowering.values import Constant, Value, factor, flat, joined, size_of


@lowers(
    *("view", "reshape", "flatten", "unflatten", "squeeze", "unsqueeze", "view_as", "reshape_as", "_unsafe_view"),
)
def reshape(draft: Draft, shape: Shape, x: Value, *_: Any) -> Value:
    return reshaped(draft, computed(x, "input"), shape)


@lowers(
    *("contiguous", "clone", "detach", "alias", "lift_fresh_copy", "_to_copy", "to", "type_as", "identity", "float", "positive"),
)
def nothing(draft: Draft, shape: Shape, x: Value, *_: Any) -> Value:
    return x


@lowers("dropout", "feature_dropout", "alpha_dropout", "feature_alpha_dropout")
def dropout(draft: Draft, shape: Shape, x: Value, p: float, train: bool) -> Value:
    if train:
        raise LoweringError("dropout is in training mode", "call .eval() first")
    return x


@lowers("permute")
def permute(draft: Draft, shape: Shape, x: Value, dims: Sequence[int]) -> Value:
    return permuted(x, dims)


@lowers("transpose.int", "swapaxes", "swapdims")
def transpose(draft: Draft, shape: Shape, x: Value, first: int, second: int) -> Value:
    dims = list(range(len(shape)))
    dims[first], dims[second] = dims[second], dims[first]
    return permuted(x, dims)


@lowers("t", "numpy_T", "mT")
def t(draft: Draft, shape: Shape, x: Value) -> Value:
    rank = len(shape)
    return permuted(x, (*range(rank - 2), rank - 1, rank - 2) if rank > 1 else range(rank))


@lowers("movedim.int", "moveaxis.int")
def movedim(draft: Draft, shape: Shape, x: Value, source: int, target: int) -> Value:
    rank = len(shape)
    dims = [d for d in range(rank) if d != source % rank]
    dims.insert(target % rank, source % rank)
    return permuted(x, dims)


def concatenated(draft: Draft, tensors: Sequence[Value | Constant], dim: int) -> Value:
    """Tensors of equal shape but for the dimension `dim`, one behind the other; they need not be stored in one order."""
    values = [x for x in tensors if isinstance(x, Value)]
    dim %= len(values[0].dims)
    largest = max(values, key=lambda x: size_of(flat(x.axes)))
    first, axis = isolated(draft, complete(draft, largest), dim)
    others = [d for d in range(len(first.dims)) if d != dim]
    for other in values:  # until first has every factor that one of the others needs
        first, _ = matched(draft, first, other, others)
    names, length = [], sum(x.shape[dim] for x in tensors)
    for x in tensors:
        if isinstance(x, Value):
            part = with_dim(draft, matched(draft, first, x, others)[1], dim)
            places = tuple(part.dims[dim] if i == axis else a for i, a in enumerate(first.axes))
            names.append(arranged(draft, part, places).name)
        else:
            own = factor(x.shape[dim])
            dims = tuple(own if d == dim else f for d, f in enumerate(first.dims))
            axes = tuple(own if i == axis else a for i, a in enumerate(first.axes))
            names.append(constant_in(draft, x, dims, axes, full=True))
    new = factor(length)
    dims = tuple(new if d == dim else f for d, f in enumerate(first.dims))
    axes = tuple(new if i == axis else a for i, a in enumerate(first.axes))
    name = draft.emit("CONCATENATION", names, tuple(size_of(a) for a in axes), axis=axis, activation="NONE")
    return Value(name, dims, axes)


def with_dim(draft: Draft, x: Value, dim: int) -> Value:
    """`x` with its dimension `dim` in storage, should it be broadcast."""
    return x if set(x.dims[dim]) <= set(flat(x.axes)) else complete(draft, x)


@lowers("cat", "concat", "concatenate")
def cat(draft: Draft, shape: Shape, tensors: Sequence[Value | Constant], dim: int = 0) -> Value:
    filled = [x for x in tensors if 0 not in x.shape]
    return concatenated(draft, filled, dim) if len(filled) > 1 else computed(filled[0], "input")


@lowers("stack")
def stack(draft: Draft, shape: Shape, tensors: Sequence[Value | Constant], dim: int = 0) -> Value:
    dim %= len(shape)
    row = (*shape[:dim], 1, *shape[dim + 1 :])
    rows = [replace(x, tensor=x.tensor.reshape(row)) if isinstance(x, Constant) else reshaped(draft, x, row) for x in tensors]
    return concatenated(draft, rows, dim)


def sliced(draft: Draft, x: Value, dim: int, start: int, stop: int, step: int = 1) -> Value:
    """x[..., start:stop:step, ...] in torch's dimension `dim`; no operator where that is all of x."""
    dim %= len(x.dims)
    size, own = -(-(stop - start) // step), x.dims[dim]
    if size <= 0:
        raise LoweringError("it slices nothing", "leave the empty tensor out")
    if size == x.shape[dim] and step == 1:
        return x
    new = factor(size)
    if not set(own) & set(flat(x.axes)):
        return replace(x, dims=tuple(new if d == dim else f for d, f in enumerate(x.dims)))
    leading = [i for i, a in enumerate(x.axes) if len(own) == 1 and a[:1] == own]
    if leading and (step == 1 or x.axes[leading[0]] == own):
        axis = leading[0]
    else:
        x, axis = isolated(draft, with_dim(draft, x, dim), dim)
    rest = x.axes[axis][len(x.dims[dim]) :]
    inner = size_of(rest)
    axes = tuple(new + rest if i == axis else a for i, a in enumerate(x.axes))
    shape = tuple(size_of(a) for a in axes)
    begin = tuple(start * inner if i == axis else 0 for i in range(len(axes)))
    if step == 1:
        name = draft.emit("SLICE", [x.name], shape, begin=begin, size=shape)
    else:
        end = tuple(stop if i == axis else n for i, n in enumerate(shape))
        strides = tuple(step if i == axis else 1 for i in range(len(axes)))
        name = draft.emit("STRIDED_SLICE", [x.name], shape, begin=begin, end=end, strides=strides)
    return Value(name, tuple(new if d == dim else f for d, f in enumerate(x.dims)), axes)


@lowers("slice")
def slice_(draft: Draft, shape: Shape, x: Value, dim: int, start: int | None, stop: int | None, step: int) -> Value:
    first, last, step = slice(start, stop, step).indices(x.shape[dim])
    return sliced(draft, x, dim, first, last, step)


@lowers("narrow")
def narrow(draft: Draft, shape: Shape, x: Value, dim: int, start: int, length: int) -> Value:
    start %= x.shape[dim]
    return sliced(draft, x, dim, start, start + length)


@lowers("select")
def select(draft: Draft, shape: Shape, x: Value, dim: int, index: int) -> Value:
    index %= x.shape[dim]
    return reshaped(draft, sliced(draft, x, dim, index, index + 1), shape)


def parted(draft: Draft, x: Value, sizes: Sequence[int], dim: int) -> tuple[Value, ...]:
    """`x` cut along the dimension `dim`: one SPLIT for equal parts, else slices."""
    dim %= len(x.dims)
    if len(set(sizes)) == 1 and len(sizes) > 1 and x.dims[dim]:
        own = x.dims[dim]
        if not (len(own) == 1 and any(a[:1] == own for a in x.axes)):
            x, _ = isolated(draft, with_dim(draft, x, dim), dim)
            own = x.dims[dim]
        axis = next(i for i, a in enumerate(x.axes) if a[:1] == own)
        new = factor(sizes[0])
        axes = tuple(new + a[1:] if i == axis else a for i, a in enumerate(x.axes))
        dims = tuple(new if d == dim else f for d, f in enumerate(x.dims))
        shape = tuple(size_of(a) for a in axes)
        return tuple(Value(name, dims, axes) for name in draft.emit_many("SPLIT", [x.name], [shape] * len(sizes), axis=axis))
    starts = [sum(sizes[:i]) for i in range(len(sizes))]
    return tuple(sliced(draft, x, dim, start, start + size) for start, size in zip(starts, sizes, strict=True))


@lowers("unbind")
def unbind(draft: Draft, shapes: tuple[Shape, ...], x: Value, dim: int) -> tuple[Value, ...]:
    parts = parted(draft, computed(x, "input"), [1] * len(shapes), dim)
    return tuple(reshaped(draft, part, shape) for part, shape in zip(parts, shapes, strict=True))


@lowers("split.Tensor", "split.sizes", "split_with_sizes", "chunk", "tensor_split.sections", "tensor_split.indices")
def split(draft: Draft, shapes: tuple[Shape, ...], x: Value, _: Any, dim: int = 0) -> tuple[Value, ...]:
    return parted(draft, computed(x, "input"), [shape[dim] for shape in shapes], dim)


@lowers("zeros_like", "new_zeros")
def zeros(draft: Draft, shape: Shape, *_: Any) -> Constant:
    return Constant(draft.label, torch.zeros(shape))


@lowers("ones_like", "new_ones")
def ones(draft: Draft, shape: Shape, *_: Any) -> Constant:
    return Constant(draft.label, torch.ones(shape))


@lowers("full_like", "new_full")
def full(draft: Draft, shape: Shape, x: Value, *arguments: Any) -> Constant:
    value = next(a for a in arguments if isinstance(a, int | float))
    return Constant(draft.label, torch.full(shape, value))


@lowers("expand", "expand_as")
def expand(draft: Draft, shape: Shape, x: Value, *_: Any) -> Value:
    dims = ((),) * (len(shape) - len(x.dims)) + computed(x, "input").dims
    return replace(x, dims=tuple(own or factor(n) for own, n in zip(dims, shape, strict=True)))


@lowers("repeat", "tile")
def repeat(draft: Draft, shape: Shape, x: Value, repeats: Sequence[int]) -> Value:
    dims = ((),) * (len(shape) - len(x.dims)) + x.dims
    times = (1,) * (len(shape) - len(repeats)) + tuple(repeats)
    return joined(replace(x, dims=tuple(factor(n) + own for own, n in zip(dims, times, strict=True))))


@lowers("repeat_interleave.self_int")
def repeat_interleave(draft: Draft, shape: Shape, x: Value, repeats: int, dim: int | None, *_: Any) -> Value:
    if dim is None:
        x, dim = reshaped(draft, x, (size_of(flat(x.dims)),)), 0
    own = dim % len(x.dims)
    return joined(replace(x, dims=tuple(f + factor(repeats) if d == own else f for d, f in enumerate(x.dims))))


@lowers("channel_shuffle")
def channel_shuffle(draft: Draft, shape: Shape, x: Value, groups: int) -> Value:
    n, c, *rest = shape
    apart = reshaped(draft, x, (n, groups, c // groups, *rest))
    return reshaped(draft, permuted(apart, (0, 2, 1, *range(3, len(shape) + 1))), shape)


@lowers("pixel_shuffle")
def pixel_shuffle(draft: Draft, shape: Shape, x: Value, block: int) -> Value:
    # torch keeps the block's positions innermost among the channels, DEPTH_TO_SPACE the resulting channels
    *lead, c, h, w = computed(x, "input", 4).shape
    view = reshaped(draft, x, (*lead, shape[1], block * block, h, w))
    order = image(draft, reshaped(draft, permuted(view, (0, 2, 1, 3, 4)), (*lead, c, h, w)))
    return emitted(draft, "DEPTH_TO_SPACE", [order.name], shape, block_size=block)


@lowers("pixel_unshuffle")
def pixel_unshuffle(draft: Draft, shape: Shape, x: Value, block: int) -> Value:
    n, c, *_ = computed(x, "input", 4).shape
    apart = emitted(draft, "SPACE_TO_DEPTH", [image(draft, x).name], shape, block_size=block)
    view = permuted(reshaped(draft, apart, (n, block * block, c, *shape[2:])), (0, 2, 1, 3, 4))
    return reshaped(draft, view, shape)
