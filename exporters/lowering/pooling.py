"""Pooling."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812

from paceline.exporters.draft import Draft, Shape
from paceline.exporters.lowering.elementwise import binary
from paceline.exporters.lowering.layout import emitted, image, reshaped
from paceline.exporters.lowering.products import along
from paceline.exporters.lowering.rearrange import concatenated, sliced
from paceline.exporters.lowering.reductions import reduced
from paceline.exporters.lowering.registry import computed, lowers, pair
from paceline.exporters.lowering.values import Constant, Value

_LOWEST = float(np.finfo(np.float32).min)
Borders = tuple[int, int, int, int]


def _borders(x: Value, shape: Shape, kernel: tuple[int, int], stride: tuple[int, int], padding: tuple[int, int]) -> Borders:
    """(top, bottom, left, right) that make a VALID pool give `shape`; ceil_mode needs more at the end than at the start."""
    needed = [
        max((out - 1) * s + k - size - p, 0)
        for size, out, k, s, p in zip(x.shape[2:], shape[2:], kernel, stride, padding, strict=True)
    ]
    return padding[0], needed[0], padding[1], needed[1]


def _is_same(x: Value, shape: Shape, stride: tuple[int, int], borders: Borders) -> bool:
    """Whether TFLite's SAME puts its padding exactly there: `borders` hold no more than the last window needs."""
    return all(
        out == -(-size // s) and after - before in (0, 1)
        for size, out, s, before, after in zip(x.shape[2:], shape[2:], stride, borders[::2], borders[1::2], strict=True)
    )


def _padded(draft: Draft, x: Value, borders: Borders, kind: str, **value: float) -> Value:
    top, bottom, left, right = borders
    n, c, h, w = x.shape
    shape = (n, c, h + top + bottom, w + left + right)
    return emitted(draft, kind, [x.name], shape, paddings=(0, 0, top, bottom, left, right, 0, 0), **value)


def _pool(
    draft: Draft, kind: str, x: Value, shape: Shape, kernel: tuple[int, int], stride: tuple[int, int], padding: str
) -> Value:
    if kernel == (1, 1):  # XNNPACK refuses such a pool, and computes garbage where RELU surrounds it
        for dim, step in zip((2, 3), stride, strict=True):
            x = sliced(draft, x, dim, 0, x.shape[dim], step)
        return x
    return emitted(draft, kind, [x.name], shape, filter=kernel, stride=stride, padding=padding, activation="NONE")


@lowers("max_pool2d_with_indices")
def max_pool2d_with_indices(draft: Draft, shapes: tuple[Shape, Shape], x: Value, *options: Any) -> tuple[Value, None]:
    return max_pool2d(draft, shapes[0], x, *options), None


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
    if len(shape) == 3:
        batch = reshaped(draft, computed(x, "input"), (1, *x.shape))
        return reshaped(draft, max_pool2d(draft, (1, *shape), batch, kernel_size, stride, padding, dilation, ceil_mode), shape)
    x, kernel = image(draft, computed(x, "input", 4)), pair(kernel_size)
    strides, dilations = pair(stride or kernel_size), pair(dilation)
    spans = (dilations[0] * (kernel[0] - 1) + 1, dilations[1] * (kernel[1] - 1) + 1)
    borders = _borders(x, shape, spans, strides, pair(padding))
    if dilations != (1, 1):
        x = _padded(draft, x, borders, "PADV2", value=_LOWEST) if any(borders) else x
        return _dilated(draft, x, shape, kernel, strides, dilations)
    if not any(borders):
        return _pool(draft, "MAX_POOL_2D", x, shape, kernel, strides, "VALID")
    if _is_same(x, shape, strides, borders):
        return _pool(draft, "MAX_POOL_2D", x, shape, kernel, strides, "SAME")
    return _pool(draft, "MAX_POOL_2D", _padded(draft, x, borders, "PADV2", value=_LOWEST), shape, kernel, strides, "VALID")


def _dilated(
    draft: Draft, x: Value, shape: Shape, kernel: tuple[int, int], strides: tuple[int, int], dilations: tuple[int, int]
) -> Value:
    """Max pooling with gaps: the maximum of shifted slices, first along the height, then along the width."""
    for dim, k, s, d in zip((2, 3), kernel, strides, dilations, strict=True):
        reach = (shape[dim] - 1) * s + 1
        parts = [sliced(draft, x, dim, i * d, i * d + reach, s) for i in range(k)]
        x = parts[0]
        for part in parts[1:]:
            x = binary(draft, "MAXIMUM", x, part)
    return x


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
    if len(shape) == 3:
        batch = reshaped(draft, computed(x, "input"), (1, *x.shape))
        options = kernel_size, stride, padding, ceil_mode, count_include_pad, divisor_override
        return reshaped(draft, avg_pool2d(draft, (1, *shape), batch, *options), shape)
    x, kernel = image(draft, computed(x, "input", 4)), pair(kernel_size)
    strides, pads = pair(stride or kernel_size), pair(padding)
    borders = _borders(x, shape, kernel, strides, pads)
    ones = torch.ones(1, 1, *x.shape[2:], dtype=torch.float64)
    mean = F.avg_pool2d(ones, kernel, strides, pads, ceil_mode, count_include_pad, divisor_override)
    inside = F.avg_pool2d(ones, kernel, strides, pads, ceil_mode, divisor_override=1)
    if any(borders) and bool((mean == 1).all()) and _is_same(x, shape, strides, borders):
        return _pool(draft, "AVERAGE_POOL_2D", x, shape, kernel, strides, "SAME")
    padded = _padded(draft, x, borders, "PAD") if any(borders) else x
    pooled = _pool(draft, "AVERAGE_POOL_2D", padded, shape, kernel, strides, "VALID")
    # VALID divides by the whole window everywhere; where torch divides by less, a constant map makes up for it
    ratio = mean / inside * (kernel[0] * kernel[1])
    if torch.allclose(ratio, torch.ones_like(ratio), rtol=1e-12):
        return pooled
    uniform = bool((ratio == ratio.flatten()[0]).all())
    return binary(draft, "MUL", pooled, float(ratio.flatten()[0]) if uniform else Constant(f"{draft.label}/divisor", ratio))


def _windows(size: int, out: int) -> list[tuple[int, int]]:
    """Start and end of the windows of adaptive pooling from `size` to `out` elements."""
    return [(i * size // out, -(-(i + 1) * size // out)) for i in range(out)]


def _uniform(x: Value, shape: Shape) -> tuple[int, int] | None:
    """The window of an adaptive pool, if all its windows have one size and none overlap."""
    if any(size % out for size, out in zip(x.shape[2:], shape[2:], strict=True)):
        return None
    return x.shape[2] // shape[2], x.shape[3] // shape[3]


@lowers("adaptive_avg_pool2d")
def adaptive_avg_pool2d(draft: Draft, shape: Shape, x: Value, output_size: Sequence[int]) -> Value:
    x = computed(x, "input")
    if len(shape) == 3:
        return reshaped(draft, adaptive_avg_pool2d(draft, (1, *shape), reshaped(draft, x, (1, *x.shape)), output_size), shape)
    if shape[2:] == (1, 1):
        return reduced(draft, "MEAN", x, (2, 3), True)
    window = _uniform(x, shape)
    if window is not None:
        return _pool(draft, "AVERAGE_POOL_2D", image(draft, x), shape, window, window, "VALID")
    for dim in (2, 3):
        if x.shape[dim] != shape[dim]:
            matrix = np.zeros((shape[dim], x.shape[dim]))
            for row, (start, end) in enumerate(_windows(x.shape[dim], shape[dim])):
                matrix[row, start:end] = 1 / (end - start)
            x = along(draft, x, dim, matrix)
    return x


@lowers("adaptive_max_pool2d")
def adaptive_max_pool2d(draft: Draft, shapes: tuple[Shape, Shape], x: Value, output_size: Sequence[int]) -> tuple[Value, None]:
    shape = shapes[0]
    x = computed(x, "input")
    if len(shape) == 3:
        batch = (1, *shape)
        whole, _ = adaptive_max_pool2d(draft, (batch, batch), reshaped(draft, x, (1, *x.shape)), output_size)
        return reshaped(draft, whole, shape), None
    if shape[2:] == (1, 1):
        return reduced(draft, "REDUCE_MAX", x, (2, 3), True), None
    window = _uniform(x, shape)
    if window is not None:
        return _pool(draft, "MAX_POOL_2D", image(draft, x), shape, window, window, "VALID"), None
    for dim in (2, 3):
        rows = [sliced(draft, x, dim, start, end) for start, end in _windows(x.shape[dim], shape[dim])]
        x = concatenated(draft, [reduced(draft, "REDUCE_MAX", row, [dim], True) for row in rows], dim)
    return x, None


def _register_flat(operator: str) -> None:
    """Pooling in one dimension: of a map that is one element high."""

    @lowers(f"{operator}_pool1d")
    def lower(
        draft: Draft,
        shape: Shape,
        x: Value,
        kernel: Sequence[int],
        stride: Sequence[int],
        padding: Sequence[int],
        *options: bool | Sequence[int],
    ) -> Value:
        high = reshaped(draft, computed(x, "input"), (*x.shape[:-1], 1, x.shape[-1]))
        wide = (*shape[:-1], 1, shape[-1])
        ends = (1, *kernel), (1, *(stride or kernel)), (0, *padding)
        if operator == "avg":
            pooled = avg_pool2d(draft, wide, high, *ends, bool(options[0]), bool(options[1]), None)
        else:
            assert isinstance(options[0], Sequence)
            pooled = max_pool2d(draft, wide, high, *ends, (1, *options[0]), bool(options[1]))
        return reshaped(draft, pooled, shape)


_register_flat("avg")
_register_flat("max")


@lowers("adaptive_max_pool1d")
def adaptive_max_pool1d(draft: Draft, shapes: tuple[Shape, Shape], x: Value, output_size: Sequence[int]) -> tuple[Value, None]:
    shape = shapes[0]
    high, wide = reshaped(draft, computed(x, "input"), (*x.shape[:-1], 1, x.shape[-1])), (*shape[:-1], 1, shape[-1])
    whole, _ = adaptive_max_pool2d(draft, (wide, wide), high, (1, *output_size))
    return reshaped(draft, whole, shape), None


@lowers("adaptive_avg_pool1d")
def adaptive_avg_pool1d(draft: Draft, shape: Shape, x: Value, output_size: Sequence[int]) -> Value:
    high = reshaped(draft, computed(x, "input"), (*x.shape[:-1], 1, x.shape[-1]))
    return reshaped(draft, adaptive_avg_pool2d(draft, (*shape[:-1], 1, shape[-1]), high, (1, *output_size)), shape)
