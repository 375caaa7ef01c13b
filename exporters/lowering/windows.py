"""Windows of a map as a dimension of their own, and back; writing into a part of a tensor."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from paceline.exporters.draft import Draft, Shape
from paceline.exporters.lowering.elementwise import binary
from paceline.exporters.lowering.gathering import padded, picked
from paceline.exporters.lowering.layout import permuted, reshaped
from paceline.exporters.lowering.rearrange import concatenated, expand, sliced, stack
from paceline.exporters.lowering.registry import LoweringError, computed, known, lowers, pair
from paceline.exporters.lowering.values import Constant, Value


@lowers("unfold")
def unfold(draft: Draft, shape: Shape, x: Value, dim: int, size: int, step: int) -> Value:
    """Windows of one dimension; their elements become the last dimension."""
    x = computed(x, "input")
    dim %= len(x.dims)
    count = shape[dim]
    rows = picked(draft, x, dim, [i * step + j for i in range(count) for j in range(size)])
    apart = reshaped(draft, rows, (*shape[:dim], count, size, *x.shape[dim + 1 :]))
    return permuted(apart, [d for d in range(len(shape)) if d != dim + 1] + [dim + 1])


@lowers("im2col")
def im2col(
    draft: Draft,
    shape: Shape,
    x: Value,
    kernel_size: Sequence[int],
    dilation: Sequence[int],
    padding: Sequence[int],
    stride: Sequence[int],
) -> Value:
    """Each position of the window is a strided slice of the map."""
    (kh, kw), (dh, dw), (ph, pw), (sh, sw) = (pair(v) for v in (kernel_size, dilation, padding, stride))
    x = computed(x, "input", 4)
    if ph or pw:
        x = padded(draft, x, {2: (ph, ph), 3: (pw, pw)}, 0.0)
    n, c, h, w = x.shape
    rows, columns = (h - dh * (kh - 1) - 1) // sh + 1, (w - dw * (kw - 1) - 1) // sw + 1
    parts = []
    for i in range(kh):
        band = sliced(draft, x, 2, i * dh, i * dh + (rows - 1) * sh + 1, sh)
        parts += [sliced(draft, band, 3, j * dw, j * dw + (columns - 1) * sw + 1, sw) for j in range(kw)]
    together = stack(draft, (n, len(parts), c, rows, columns), parts, 1) if len(parts) > 1 else parts[0]
    apart = reshaped(draft, together, (n, len(parts), c, rows, columns))
    return reshaped(draft, permuted(apart, (0, 2, 1, 3, 4)), shape)


@lowers("col2im")
def col2im(
    draft: Draft,
    shape: Shape,
    x: Value,
    output_size: Sequence[int],
    kernel_size: Sequence[int],
    dilation: Sequence[int],
    padding: Sequence[int],
    stride: Sequence[int],
) -> Value:
    """The sum of shifted maps, one for each position of the window, with zeros between their pixels for a larger stride."""
    (kh, kw), (dh, dw), (ph, pw), (sh, sw) = (pair(v) for v in (kernel_size, dilation, padding, stride))
    n, c, height, width = shape
    rows = (height + 2 * ph - dh * (kh - 1) - 1) // sh + 1
    columns = (width + 2 * pw - dw * (kw - 1) - 1) // sw + 1
    windows = reshaped(draft, computed(x, "input", 3), (n, c, kh * kw, rows, columns))
    total: Value | None = None
    for k in range(kh * kw):
        part = reshaped(draft, sliced(draft, windows, 2, k, k + 1), (n, c, rows, columns))
        for dim, step in ((2, sh), (3, sw)):
            part = _spread(draft, part, dim, step)
        for dim, start, size in ((2, k // kw * dh - ph, height), (3, k % kw * dw - pw, width)):
            part = _placed(draft, part, dim, start, size)
        total = part if total is None else binary(draft, "ADD", total, part)
    assert total is not None
    return total


def _spread(draft: Draft, x: Value, dim: int, step: int) -> Value:
    """`x` with step - 1 zeros behind every element of `dim`."""
    if step == 1:
        return x
    shape = (*x.shape[:dim], x.shape[dim], 1, *x.shape[dim + 1 :])
    wide = padded(draft, reshaped(draft, x, shape), {dim + 1: (0, step - 1)}, 0.0)
    return reshaped(draft, wide, (*x.shape[:dim], x.shape[dim] * step, *x.shape[dim + 1 :]))


def _placed(draft: Draft, x: Value, dim: int, start: int, size: int) -> Value:
    """`x` from `start` on in a dimension of `size` elements, zeros around it; what lies outside is cut off."""
    first, last = max(-start, 0), min(x.shape[dim], size - start)
    x = sliced(draft, x, dim, first, last)
    border = (max(start, 0), size - max(start, 0) - (last - first))
    return padded(draft, x, {dim: border}, 0.0) if any(border) else x


@lowers("slice_scatter")
def slice_scatter(
    draft: Draft,
    shape: Shape,
    x: Value | Constant,
    source: Value | Constant,
    dim: int = 0,
    start: int | None = None,
    end: int | None = None,
    step: int = 1,
) -> Value:
    first, last, step = slice(start, end, step).indices(shape[dim])
    if step != 1:
        raise LoweringError(f"it writes every {step}th element", "write a contiguous part")
    parts = [part for part in (_cut(draft, x, dim, 0, first), source, _cut(draft, x, dim, last, shape[dim])) if part is not None]
    return concatenated(draft, parts, dim) if len(parts) > 1 else computed(source, "source")


@lowers("select_scatter")
def select_scatter(draft: Draft, shape: Shape, x: Value | Constant, source: Value | Constant, dim: int, index: int) -> Value:
    row = (*shape[:dim], 1, *shape[dim % len(shape) + 1 :])
    index %= shape[dim]
    part = Constant(source.name, source.tensor.reshape(row)) if isinstance(source, Constant) else reshaped(draft, source, row)
    return slice_scatter(draft, shape, x, part, dim, index, index + 1)


def _cut(draft: Draft, x: Value | Constant, dim: int, start: int, end: int) -> Value | Constant | None:
    if end <= start:
        return None
    if isinstance(x, Constant):
        return Constant(x.name, x.tensor.narrow(dim, start, end - start))
    return sliced(draft, x, dim, start, end)


@lowers("fill")
def fill(draft: Draft, shape: Shape, x: Value | Constant, value: Constant | float) -> Constant:
    number = known(value, "value").tensor if isinstance(value, Value | Constant) else torch.tensor(float(value))
    return Constant(draft.label, number.expand(shape))


@lowers("copy")
def copy(draft: Draft, shape: Shape, x: Value | Constant, source: Value | Constant, *_: object) -> Value | Constant:
    """`source` broadcast to the shape of what it is copied over."""
    if source.shape == shape:
        return source
    if isinstance(source, Constant):
        return Constant(source.name, source.tensor.expand(shape))
    return expand(draft, shape, source)
