"""Elements by index, padding by repetition of the border, flips and rolls; the indices are constants."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch

from paceline.exporters.draft import Draft, Shape
from paceline.exporters.lowering.layout import MAX_RANK, arranged, complete, dim_order, isolated, reshaped
from paceline.exporters.lowering.rearrange import concatenated, sliced
from paceline.exporters.lowering.registry import LoweringError, computed, known, lowers
from paceline.exporters.lowering.values import Constant, Value, factor, flat, size_of

_FEW = 8
"""Up to so many slices are put together again rather than gathered: delegates take slices."""


def picked(draft: Draft, x: Value, dim: int, indices: Sequence[int]) -> Value:
    """The elements `indices` of the dimension `dim`."""
    runs = [[indices[0], indices[0] + 1]]
    for i in indices[1:]:
        if i == runs[-1][1]:
            runs[-1][1] += 1
        else:
            runs.append([i, i + 1])
    if len(runs) <= _FEW:
        parts = [sliced(draft, x, dim, start, stop) for start, stop in runs]
        return concatenated(draft, parts, dim) if len(parts) > 1 else parts[0]
    x, axis = isolated(draft, complete(draft, x), dim)
    new = factor(len(indices))
    dims = tuple(new if d == dim % len(x.dims) else f for d, f in enumerate(x.dims))
    axes = tuple(new if i == axis else a for i, a in enumerate(x.axes))
    table = draft.constant(f"{draft.label}/indices", np.asarray(indices, np.int32))
    name = draft.emit("GATHER", [x.name, table], tuple(size_of(a) for a in axes), axis=axis, batch_dims=0)
    return Value(name, dims, axes)


@lowers("index")
def index(draft: Draft, shape: Shape, x: Value, indices: Sequence[Constant | None]) -> Value:
    x = computed(x, "input")
    tensors = {d: known(i, "index").tensor for d, i in enumerate(indices) if i is not None}
    dims = sorted(tensors)
    if dims != list(range(dims[0], dims[-1] + 1)):
        raise LoweringError("its indices lie in dimensions apart", "index one dimension after the other")
    sizes = [x.shape[d] for d in dims]
    linear = torch.zeros((), dtype=torch.int64)
    for d, size in zip(dims, sizes, strict=True):
        linear = linear * size + tensors[d] % size
    merged = reshaped(draft, x, (*x.shape[: dims[0]], int(np.prod(sizes)), *x.shape[dims[-1] + 1 :]))
    return reshaped(draft, picked(draft, merged, dims[0], linear.flatten().tolist()), shape)


@lowers("index_select")
def index_select(draft: Draft, shape: Shape, x: Value, dim: int, indices: Constant) -> Value:
    return picked(draft, computed(x, "input"), dim, known(indices, "index").tensor.flatten().tolist())


@lowers("gather")
def gather(draft: Draft, shape: Shape, x: Value, dim: int, indices: Constant, *_: Any) -> Value:
    table = known(indices, "index").tensor
    places = torch.arange(size_of(flat(x.dims))).reshape(x.shape)
    wanted = places.gather(dim, table)
    return reshaped(draft, picked(draft, reshaped(draft, x, (places.numel(),)), 0, wanted.flatten().tolist()), shape)


@lowers("flip")
def flip(draft: Draft, shape: Shape, x: Value, dims: Sequence[int]) -> Value:
    for dim in dims:
        x = picked(draft, x, dim, range(shape[dim])[::-1])
    return x


@lowers("roll")
def roll(draft: Draft, shape: Shape, x: Value, shifts: Sequence[int], dims: Sequence[int]) -> Value:
    if not dims:
        rolled = roll(draft, (size_of(flat(x.dims)),), reshaped(draft, x, (size_of(flat(x.dims)),)), shifts, [0])
        return reshaped(draft, rolled, shape)
    for shift, dim in zip(shifts, dims, strict=True):
        n = shape[dim]
        x = picked(draft, x, dim, [(i - shift) % n for i in range(n)])
    return x


def padded(draft: Draft, x: Value, borders: Mapping[int, tuple[int, int]], value: float) -> Value:
    """`x` with so many elements of `value` before and after in each of the given dimensions."""
    x = complete(draft, x)
    if len(x.dims) > MAX_RANK:
        for d, border in borders.items():
            ends = [Constant(f"{draft.label}/border", torch.full((*x.shape[:d], n, *x.shape[d + 1 :]), value)) for n in border]
            x = concatenated(draft, [part for part in (ends[0], x, ends[1]) if part.shape[d]], d)
        return x
    if value and len(borders) == 1 and 0 in next(iter(borders.values())):
        # delegates take a constant to concatenate, but no padding with other numbers than zero
        ((d, (before, after)),) = borders.items()
        end = Constant(f"{draft.label}/border", torch.full((*x.shape[:d], before + after, *x.shape[d + 1 :]), value))
        return concatenated(draft, [end, x] if before else [x, end], d)
    if all(x.dims[d] and x.dims[d] in x.axes for d in borders):
        places = {d: x.axes.index(x.dims[d]) for d in borders}
    else:
        order = dim_order(x)
        x, places = arranged(draft, x, tuple(x.dims[d] for d in order)), {d: order.index(d) for d in borders}
    axes, dims, every = list(x.axes), list(x.dims), [(0, 0)] * len(x.axes)
    for d, border in borders.items():
        every[places[d]] = border
        axes[places[d]] = dims[d] = factor(x.shape[d] + sum(border))
    shape, paddings = tuple(size_of(a) for a in axes), tuple(itertools.chain(*every))
    if value:
        name = draft.emit("PADV2", [x.name], shape, paddings=paddings, value=value)
    else:
        name = draft.emit("PAD", [x.name], shape, paddings=paddings)
    return Value(name, tuple(dims), tuple(axes))


def _bordered(draft: Draft, x: Value, dim: int, before: int, after: int, mode: str) -> Value:
    """Padding by elements of `x` itself in one dimension."""
    n = x.shape[dim]
    if mode == "circular":
        return picked(draft, x, dim, [i % n for i in range(-before, n + after)])
    if mode == "replicate":
        return picked(draft, x, dim, [min(max(i, 0), n - 1) for i in range(-before, n + after)])
    mirrored = [(n - 1) - abs((n - 1) - abs(i)) for i in range(-before, n + after)]
    return picked(draft, x, dim, mirrored)


@lowers(
    "pad", "constant_pad_nd", "reflection_pad1d", "reflection_pad2d", "replication_pad1d", "replication_pad2d", "_pad_circular"
)
def pad(draft: Draft, shape: Shape, x: Value, pads: Sequence[int], *mode_and_value: Any) -> Value:
    modes = {"reflection": "reflect", "replication": "replicate", "_pad_circular": "circular"}
    named = next((mode for word, mode in modes.items() if word in draft.label.rsplit("/")[-1]), "constant")
    mode = next((m for m in mode_and_value if isinstance(m, str)), named)
    value = next((float(v) for v in mode_and_value if isinstance(v, int | float)), 0.0)
    x = computed(x, "input")
    ends = {len(shape) - 1 - i: (before, after) for i, (before, after) in enumerate(zip(pads[::2], pads[1::2], strict=True))}
    for d, (before, after) in ends.items():  # negative padding cuts off
        x = sliced(draft, x, d, max(-before, 0), x.shape[d] - max(-after, 0))
    borders = {d: (max(before, 0), max(after, 0)) for d, (before, after) in ends.items() if before > 0 or after > 0}
    if mode == "constant":
        return padded(draft, x, borders, value) if borders else x
    for d, (before, after) in borders.items():
        x = _bordered(draft, x, d, before, after, mode)
    return x
