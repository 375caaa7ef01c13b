"""Operators that only move elements: shapes, slices, concatenation, padding, shuffles; and those that do nothing in inference."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from paceline.exporters.draft import Draft, Shape
from paceline.exporters.lowering.layout import axis, by_axis, nhwc, permuted, reshaped
from paceline.exporters.lowering.registry import Constant, LoweringError, Value, image, lowers


@lowers(
    *("view", "reshape", "flatten", "unflatten", "squeeze", "unsqueeze", "view_as", "reshape_as", "_unsafe_view"),
)
def reshape(draft: Draft, shape: Shape, x: Value, *_: Any) -> Value:
    return reshaped(draft, x, shape)


@lowers(
    *("contiguous", "clone", "detach", "alias", "lift_fresh_copy", "_to_copy", "to", "type_as", "identity"),
    *("feature_dropout", "alpha_dropout"),
)
def nothing(draft: Draft, shape: Shape, x: Value, *_: Any) -> Value:
    return x


@lowers("dropout")
def dropout(draft: Draft, shape: Shape, x: Value, p: float, train: bool) -> Value:
    if train:
        raise LoweringError("dropout is in training mode", "call .eval() first")
    return x


@lowers("permute")
def permute(draft: Draft, shape: Shape, x: Value, dims: Sequence[int]) -> Value:
    return permuted(draft, x, dims)


@lowers("transpose.int")
def transpose(draft: Draft, shape: Shape, x: Value, first: int, second: int) -> Value:
    dims = list(range(len(shape)))
    dims[first], dims[second] = dims[second], dims[first]
    return permuted(draft, x, dims)


@lowers("t")
def t(draft: Draft, shape: Shape, x: Value) -> Value:
    return permuted(draft, x, range(len(shape))[::-1])


@lowers("cat", "concat")
def cat(draft: Draft, shape: Shape, tensors: Sequence[Value | Constant], dim: int = 0) -> Value:
    names = []
    for x in tensors:
        if isinstance(x, Value):
            names.append(x.name)
        else:
            values = x.tensor.detach().cpu().numpy()
            names.append(draft.constant(x.name, values.transpose(0, 2, 3, 1) if values.ndim == 4 else values))
    result = draft.emit("CONCATENATION", names, nhwc(shape), axis=axis(dim, len(shape)), activation="NONE")
    return Value(result, shape)


@lowers("stack")
def stack(draft: Draft, shape: Shape, tensors: Sequence[Value], dim: int = 0) -> Value:
    dim %= len(shape)
    rows = (*shape[:dim], 1, *shape[dim + 1 :])
    if any(isinstance(x, Constant) for x in tensors):
        raise LoweringError("it stacks constants", "use torch.cat")
    return cat(draft, shape, [reshaped(draft, x, rows) for x in tensors], dim)


def sliced(draft: Draft, x: Value, dim: int, start: int, stop: int, step: int = 1) -> Value:
    """x[..., start:stop:step, ...] in torch's dimension `dim`; no operator where that is all of x."""
    dim %= len(x.shape)
    size = -(-(stop - start) // step)
    if (start, size, step) == (0, x.shape[dim], 1):
        return x
    shape = (*x.shape[:dim], size, *x.shape[dim + 1 :])
    begin = by_axis([start if d == dim else 0 for d in range(len(shape))])
    if step == 1:
        return Value(draft.emit("SLICE", [x.name], nhwc(shape), begin=begin, size=nhwc(shape)), shape)
    end = by_axis([stop if d == dim else n for d, n in enumerate(x.shape)])
    strides = by_axis([step if d == dim else 1 for d in range(len(shape))])
    return Value(draft.emit("STRIDED_SLICE", [x.name], nhwc(shape), begin=begin, end=end, strides=strides), shape)


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


@lowers("unbind")
def unbind(draft: Draft, shapes: tuple[Shape, ...], x: Value, dim: int) -> tuple[Value, ...]:
    return tuple(select(draft, shape, x, dim, i) for i, shape in enumerate(shapes))


@lowers("split.Tensor", "split.sizes", "split_with_sizes", "chunk")
def split(draft: Draft, shapes: tuple[Shape, ...], x: Value, _: Any, dim: int = 0) -> tuple[Value, ...]:
    sizes = [shape[dim] for shape in shapes]
    if len(set(sizes)) == 1 and len(sizes) > 1:
        outputs = draft.emit_many("SPLIT", [x.name], [nhwc(s) for s in shapes], axis=axis(dim, len(x.shape)))
        return tuple(Value(name, shape) for name, shape in zip(outputs, shapes, strict=True))
    starts = [sum(sizes[:i]) for i in range(len(sizes))]
    return tuple(sliced(draft, x, dim, start, start + size) for start, size in zip(starts, sizes, strict=True))


@lowers("pad", "constant_pad_nd")
def pad(draft: Draft, shape: Shape, x: Value, pads: Sequence[int], *mode_and_value: Any) -> Value:
    mode = next((m for m in mode_and_value if isinstance(m, str)), "constant")
    value = next((float(v) for v in mode_and_value if isinstance(v, int | float)), 0.0)
    if mode != "constant" or min(pads) < 0:
        raise LoweringError(f"padding by {tuple(pads)} with mode {mode!r}", "pad with a constant, and slice where you cut")
    ends = list(zip(pads[::2], pads[1::2], strict=True))[::-1]
    every = [(0, 0)] * (len(shape) - len(ends)) + ends
    paddings = sum((every[d] for d in by_axis(range(len(shape)))), ())
    if value:
        return Value(draft.emit("PADV2", [x.name], nhwc(shape), paddings=paddings, value=value), shape)
    return Value(draft.emit("PAD", [x.name], nhwc(shape), paddings=paddings), shape)


@lowers("zeros_like", "new_zeros")
def zeros(draft: Draft, shape: Shape, *_: Any) -> Constant:
    return Constant(draft.label, torch.zeros(shape))


@lowers("ones_like", "new_ones")
def ones(draft: Draft, shape: Shape, *_: Any) -> Constant:
    return Constant(draft.label, torch.ones(shape))


@lowers("expand", "expand_as")
def expand(draft: Draft, shape: Shape, x: Value, *_: Any) -> Value:
    """x + zeros: elementwise operators broadcast by themselves, and passes let them read x instead."""
    x = reshaped(draft, x, (1,) * (len(shape) - len(x.shape)) + x.shape)
    zeros = draft.constant(f"{draft.label}/zeros", np.zeros(nhwc(shape), np.float32))
    return Value(draft.emit("EXPAND", [x.name, zeros], nhwc(shape)), shape)


@lowers("repeat")
def repeat(draft: Draft, shape: Shape, x: Value, repeats: Sequence[int]) -> Value:
    x = reshaped(draft, x, (1,) * (len(shape) - len(x.shape)) + x.shape)
    for dim, times in enumerate(repeats):
        if times != 1:
            grown = (*x.shape[:dim], x.shape[dim] * times, *x.shape[dim + 1 :])
            x = cat(draft, grown, [x] * times, dim)
    return x


@lowers("repeat_interleave.self_int")
def repeat_interleave(draft: Draft, shape: Shape, x: Value, repeats: int, dim: int | None, *_: Any) -> Value:
    if dim is None or len(shape) != 4 or dim % 4 != 1:
        raise LoweringError("it repeats elements of another dimension than the channels", "use repeat and permute")
    return channel_shuffle(draft, shape, cat(draft, shape, [x] * repeats, 1), repeats)


@lowers("channel_shuffle")
def channel_shuffle(draft: Draft, shape: Shape, x: Value, groups: int) -> Value:
    return Value(draft.emit("CHANNEL_SHUFFLE", [image(x).name], nhwc(shape), groups=groups), shape)


@lowers("pixel_shuffle")
def pixel_shuffle(draft: Draft, shape: Shape, x: Value, block: int) -> Value:
    # torch keeps the block's positions innermost among the channels, DEPTH_TO_SPACE the resulting channels
    x = channel_shuffle(draft, x.shape, x, shape[1])
    return Value(draft.emit("DEPTH_TO_SPACE", [x.name], nhwc(shape), block_size=block), shape)
