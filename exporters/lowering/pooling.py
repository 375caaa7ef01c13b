"""Pooling, reductions over dimensions, resizing."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812

from paceline.exporters.draft import Draft, Shape
from paceline.exporters.lowering.layout import axis, graph_ordered, nhwc, transposed
from paceline.exporters.lowering.registry import LoweringError, Value, image, lowers, pair

_LOWEST = float(np.finfo(np.float32).min)


def _borders(
    x: Value, shape: Shape, kernel: tuple[int, int], stride: tuple[int, int], padding: tuple[int, int]
) -> tuple[int, int, int, int]:
    """(top, bottom, left, right) that make a VALID pool give `shape`; ceil_mode needs more at the end than at the start."""
    needed = [
        max((out - 1) * s + k - size - p, 0)
        for size, out, k, s, p in zip(x.shape[2:], shape[2:], kernel, stride, padding, strict=True)
    ]
    return padding[0], needed[0], padding[1], needed[1]


def _is_same(x: Value, shape: Shape, stride: tuple[int, int], borders: tuple[int, int, int, int]) -> bool:
    """Whether TFLite's SAME puts its padding exactly there: `borders` hold no more than the last window needs."""
    return all(
        out == -(-size // s) and after - before in (0, 1)
        for size, out, s, before, after in zip(x.shape[2:], shape[2:], stride, borders[::2], borders[1::2], strict=True)
    )


def _padded(draft: Draft, x: Value, borders: tuple[int, int, int, int], kind: str, **value: float) -> str:
    n, h, w, c = nhwc(x.shape)
    top, bottom, left, right = borders
    shape = (n, h + top + bottom, w + left + right, c)
    return draft.emit(kind, [x.name], shape, paddings=(0, 0, top, bottom, left, right, 0, 0), **value)


def _pool(
    draft: Draft, kind: str, name: str, shape: Shape, kernel: tuple[int, int], stride: tuple[int, int], padding: str
) -> Value:
    if kernel == stride == (1, 1):  # nothing to do; and XNNPACK computes garbage where RELU surrounds such a pool
        return Value(name, shape)
    pooled = draft.emit(kind, [name], nhwc(shape), filter=kernel, stride=stride, padding=padding, activation="NONE")
    return Value(pooled, shape)


@lowers("max_pool2d")
def max_pool2d(
    draft: Draft,
    shape: Shape,
    x: Value,
    kernel_size: Sequence[int],
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    ceil_mode: bool,
) -> Value:
    x, kernel = image(x), pair(kernel_size)
    strides = pair(stride or kernel_size)
    if pair(dilation) != (1, 1):
        raise LoweringError("max pooling is dilated", "use dilation=1")
    borders = _borders(x, shape, kernel, strides, pair(padding))
    if not any(borders):
        return _pool(draft, "MAX_POOL_2D", x.name, shape, kernel, strides, "VALID")
    if _is_same(x, shape, strides, borders):
        return _pool(draft, "MAX_POOL_2D", x.name, shape, kernel, strides, "SAME")
    return _pool(draft, "MAX_POOL_2D", _padded(draft, x, borders, "PADV2", value=_LOWEST), shape, kernel, strides, "VALID")


@lowers("avg_pool2d")
def avg_pool2d(
    draft: Draft,
    shape: Shape,
    x: Value,
    kernel_size: Sequence[int],
    stride: Sequence[int],
    padding: Sequence[int],
    ceil_mode: bool,
    count_include_pad: bool,
    divisor_override: int | None,
) -> Value:
    x, kernel = image(x), pair(kernel_size)
    strides, pads = pair(stride or kernel_size), pair(padding)
    borders = _borders(x, shape, kernel, strides, pads)
    ones = torch.ones(1, 1, *x.shape[2:], dtype=torch.float64)
    mean = F.avg_pool2d(ones, kernel, strides, pads, ceil_mode, count_include_pad, divisor_override)
    inside = F.avg_pool2d(ones, kernel, strides, pads, ceil_mode, divisor_override=1)
    if any(borders) and bool((mean == 1).all()) and _is_same(x, shape, strides, borders):
        return _pool(draft, "AVERAGE_POOL_2D", x.name, shape, kernel, strides, "SAME")
    name = _padded(draft, x, borders, "PAD") if any(borders) else x.name
    pooled = _pool(draft, "AVERAGE_POOL_2D", name, shape, kernel, strides, "VALID")
    # VALID divides by the whole window everywhere; where torch divides by less, a constant map makes up for it
    ratio = mean / inside * (kernel[0] * kernel[1])
    if torch.allclose(ratio, torch.ones_like(ratio), rtol=1e-12):
        return pooled
    if bool((ratio == ratio.flatten()[0]).all()):
        ratio = ratio.flatten()[0]
    correction = ratio.numpy().reshape(ratio.shape and (*ratio.shape[2:], 1))
    operands = [pooled.name, draft.constant(f"{draft.label}/divisor", correction)]
    return Value(draft.emit("MUL", operands, nhwc(shape), activation="NONE"), shape)


def _windows(x: Value, shape: Shape) -> tuple[int, int]:
    sizes = [(size // out, size % out) for size, out in zip(x.shape[2:], shape[2:], strict=True)]
    if any(rest for _, rest in sizes):
        raise LoweringError(
            f"adaptive pooling from {x.shape[2:]} to {shape[2:]} has windows of different sizes",
            "choose an output size that divides the input size",
        )
    return sizes[0][0], sizes[1][0]


@lowers("adaptive_avg_pool2d")
def adaptive_avg_pool2d(draft: Draft, shape: Shape, x: Value, output_size: Sequence[int]) -> Value:
    x = image(x)
    if shape[2:] == (1, 1):
        return _reduced(draft, "MEAN", x, (2, 3), True)
    window = _windows(x, shape)
    return _pool(draft, "AVERAGE_POOL_2D", x.name, shape, window, window, "VALID")


@lowers("adaptive_max_pool2d")
def adaptive_max_pool2d(draft: Draft, shapes: tuple[Shape, Shape], x: Value, output_size: Sequence[int]) -> tuple[Value, None]:
    x = image(x)
    if shapes[0][2:] == (1, 1):
        return _reduced(draft, "REDUCE_MAX", x, (2, 3), True), None
    window = _windows(x, shapes[0])
    return _pool(draft, "MAX_POOL_2D", x.name, shapes[0], window, window, "VALID"), None


def _reduced(draft: Draft, kind: str, x: Value, dims: Sequence[int] | None, keepdim: bool) -> Value:
    rank = len(x.shape)
    gone = {d % rank for d in dims} if dims else set(range(rank))
    kept = [d for d in range(rank) if d not in gone]
    axes = tuple(sorted(axis(d, rank) for d in gone))
    if keepdim:
        shape = tuple(1 if d in gone else n for d, n in enumerate(x.shape))
        return Value(draft.emit(kind, [x.name], nhwc(shape), axes=axes, keep_dims=True), shape)
    order = sorted(kept, key=lambda d: axis(d, rank))
    name = draft.emit(kind, [x.name], tuple(x.shape[d] for d in order), axes=axes, keep_dims=False)
    return graph_ordered(draft, transposed(draft, name, [order.index(d) for d in kept]))


def _register_reduction(operator: str, kind: str) -> None:
    @lowers(operator)
    def lower(draft: Draft, shape: Shape, x: Value, dims: Sequence[int] | None, keepdim: bool, *_: Any) -> Value:
        return _reduced(draft, kind, x, dims, keepdim)


for _operator, _kind in {"mean.dim": "MEAN", "sum.dim_IntList": "SUM", "amax": "REDUCE_MAX"}.items():
    _register_reduction(_operator, _kind)


@lowers("mean.default")
def mean(draft: Draft, shape: Shape, x: Value, dtype: Any) -> Value:
    return _reduced(draft, "MEAN", x, None, False)


@lowers("sum.default")
def total(draft: Draft, shape: Shape, x: Value, dtype: Any) -> Value:
    return _reduced(draft, "SUM", x, None, False)


@lowers("max.dim")
def max_dim(draft: Draft, shapes: tuple[Shape, Shape], x: Value, dim: int, keepdim: bool) -> tuple[Value, None]:
    return _reduced(draft, "REDUCE_MAX", x, [dim], keepdim), None


def _resize(draft: Draft, kind: str, x: Value, shape: Shape, align_corners: bool, half_pixel_centers: bool) -> Value:
    flags = {"align_corners": align_corners, "half_pixel_centers": half_pixel_centers}
    return Value(draft.emit(kind, [x.name], nhwc(shape), **flags), shape)


def _same_scale(x: Value, shape: Shape, scales: Sequence[float] | None) -> None:
    """torch maps positions by the scale factor it was given, TFLite by the ratio of the sizes."""
    for size, out, factor in zip(x.shape[2:], shape[2:], scales or (), strict=False):
        if abs(size * factor - out) > 1e-6:
            raise LoweringError(
                f"resizing {size} by {factor:g} to {out} maps pixels by the factor, not by the ratio of the sizes",
                "pass size=, or recompute_scale_factor=True",
            )


@lowers("upsample_bilinear2d.vec")
def bilinear(draft: Draft, shape: Shape, x: Value, size: Any, align_corners: bool, scales: Sequence[float] | None) -> Value:
    if not align_corners:
        _same_scale(x, shape, scales)
    return _resize(draft, "RESIZE_BILINEAR", image(x), shape, align_corners, not align_corners)


@lowers("upsample_nearest2d.vec")
def nearest(draft: Draft, shape: Shape, x: Value, size: Any, scales: Sequence[float] | None) -> Value:
    _same_scale(x, shape, scales)
    return _resize(draft, "RESIZE_NEAREST_NEIGHBOR", image(x), shape, False, False)


@lowers("_upsample_nearest_exact2d.vec")
def nearest_exact(draft: Draft, shape: Shape, x: Value, size: Any, scales: Sequence[float] | None) -> Value:
    _same_scale(x, shape, scales)
    return _resize(draft, "RESIZE_NEAREST_NEIGHBOR", image(x), shape, False, True)
