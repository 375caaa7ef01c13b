"""Where elements lie: brings Values into the stored order that an operator needs, with as little movement as possible."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace

import numpy as np

from paceline.exporters.draft import Draft, Shape
from paceline.exporters.lowering.rank4 import steps
from paceline.exporters.lowering.values import (
    Constant,
    Factor,
    Factors,
    Value,
    divided,
    factor,
    flat,
    joined,
    refined,
    renewed,
    reshaped_view,
    size_of,
)
from paceline.graph import Array, AttrValue

Axes = tuple[Factors, ...]
MAX_RANK = 4
"""GPU delegates take no tensors of higher rank."""
_NHWC = (0, 2, 3, 1)


def nhwc(shape: Sequence[int]) -> Shape:
    """A torch shape as the draft stores it unless there is a reason for another order: rank 4 channels last."""
    return tuple(shape[d] for d in _NHWC) if len(shape) == 4 else tuple(shape)


def usual(dims: tuple[Factors, ...]) -> Axes:
    """One axis for each dimension, channels last where there are four."""
    return tuple(dims[d] for d in _NHWC) if len(dims) == 4 else dims


def stored(name: str, shape: Shape) -> Value:
    """The draft's tensor `name`, which holds a tensor of torch's `shape` in the usual order."""
    dims = tuple(factor(n) for n in shape)
    return Value(name, dims, usual(dims))


def emitted(draft: Draft, kind: str, inputs: Sequence[str], shape: Shape, **attributes: AttrValue) -> Value:
    """Appends an operator whose result has torch's `shape` in the usual order."""
    return stored(draft.emit(kind, inputs, nhwc(shape), **attributes), shape)


def permuted(x: Value, dims: Sequence[int]) -> Value:
    """torch's x.permute(dims)."""
    return replace(x, dims=tuple(x.dims[d] for d in dims))


def reshaped(draft: Draft, x: Value, shape: Sequence[int]) -> Value:
    """torch's x.reshape(shape); `shape` without -1."""
    view = reshaped_view(x, shape)
    if view is not None:
        return view
    dims = tuple(factor(n) for n in shape)
    return Value(arranged(draft, x, (flat(x.dims),)).name, dims, (flat(dims),))


def arranged(draft: Draft, x: Value, axes: Axes) -> Value:
    """`x` stored in `axes`, by whatever RESHAPE and TRANSPOSE it takes; broadcast factors named in `axes` are repeated."""
    missing = set(flat(axes)).difference(flat(x.axes))
    if missing:
        x = _repeated(draft, x, axes, missing)
    if x.axes == axes:
        return x
    have, want = flat(x.axes), flat(axes)
    name = x.name
    if have != want:
        groups = _shuffled(x, axes)
        name = draft.emit("CHANNEL_SHUFFLE", [name], x.stored, groups=groups) if groups else _moved(draft, name, have, want)
    shape = tuple(size_of(axis) for axis in axes)
    if draft.shapes[name] != shape:
        name = draft.emit("RESHAPE", [name], shape)
    return replace(x, name=name, axes=axes)


def _shuffled(x: Value, axes: Axes) -> int:
    """The groups of the channel shuffle that takes x to `axes`, 0 where it takes more than that."""
    last = x.axes[-1] if x.axes else ()
    if len(last) < 2 or not axes or flat(x.axes[:-1]) != flat(axes[:-1]) or set(last) != set(axes[-1]):
        return 0
    turn = last.index(axes[-1][0])
    return size_of(last[:turn]) if last[turn:] + last[:turn] == axes[-1] else 0


def _moved(draft: Draft, name: str, have: Factors, want: Factors) -> str:
    """TRANSPOSEs from the order `have` to `want`, none of a rank above 4."""
    position = {f: i for i, f in enumerate(have)}
    blocks: list[list[Factor]] = []
    for f in want:
        if blocks and position[blocks[-1][-1]] + 1 == position[f]:
            blocks[-1].append(f)
        else:
            blocks.append([f])
    sizes = [size_of(b) for b in blocks]
    order = tuple(sorted(range(len(blocks)), key=lambda b: position[blocks[b][0]]))
    for groups, perm in steps(order):
        shape = tuple(int(np.prod([sizes[b] for b in group])) for group in groups)
        if draft.shapes[name] != shape:
            name = draft.emit("RESHAPE", [name], shape)
        name = draft.emit("TRANSPOSE", [name], tuple(shape[a] for a in perm), perm=perm)
    return name


def _repeated(draft: Draft, x: Value, axes: Axes, missing: set[Factor]) -> Value:
    """`x` with the broadcast factors `missing` in storage: whole axes repeat, parts of an axis are copies side by side."""
    x = arranged(draft, x, tuple(tuple(f for f in axis if f not in missing) for axis in axes))
    for i, axis in enumerate(axes):
        lost = tuple(f for f in axis if f in missing)
        if lost and len(lost) < len(axis):
            grown = (*x.axes[:i], lost + x.axes[i], *x.axes[i + 1 :])
            shape = tuple(size_of(a) for a in grown)
            copies = [x.name] * size_of(lost)
            x = replace(x, name=draft.emit("CONCATENATION", copies, shape, axis=i, activation="NONE"), axes=grown)
    whole = tuple(axis or axes[i] for i, axis in enumerate(x.axes))
    if whole != x.axes:
        x = replace(x, name=draft.emit("EXPAND", [x.name], tuple(size_of(axis) for axis in whole)), axes=whole)
    return x


def complete(draft: Draft, x: Value) -> Value:
    """`x` without broadcast factors."""
    return x if len(flat(x.axes)) == len(flat(x.dims)) else arranged(draft, x, ordered_by_dims(x))


def torch_ordered(draft: Draft, x: Value) -> Value:
    """`x` stored as torch has it."""
    return arranged(draft, x, x.dims)


def image(draft: Draft, x: Value) -> Value:
    """`x` (N, C, H, W) stored as NHWC."""
    return joined(arranged(draft, x, usual(x.dims)))


def is_simple(x: Value) -> bool:
    """Whether every dimension's elements lie together in torch's order, whatever the order of the dimensions."""
    position = {f: i for i, f in enumerate(flat(x.axes))}
    return all(position.get(a, -9) + 1 == position.get(b, -9) for dim in x.dims for a, b in itertools.pairwise(dim))


def dim_order(x: Value) -> tuple[int, ...]:
    """torch's dimensions in the order in which they are stored; where they are interleaved, the order that is nearest."""
    have, dims = flat(x.axes), range(len(x.dims))
    present = set(have)
    for order in ([_NHWC] if len(x.dims) == 4 else []) + [tuple(dims)]:
        if tuple(f for d in order for f in x.dims[d] if f in present) == have:
            return order
    if have and have[-1] in x.dims[-1]:
        return tuple(dims)
    position = {f: i for i, f in enumerate(have)}
    keys: list[int] = []
    for dim in x.dims:
        places = [position[f] for f in dim if f in present]
        keys.append((min(places) if len(have) - 1 not in places else len(have)) if places else keys[-1] if keys else -1)
    return tuple(sorted(dims, key=keys.__getitem__))


def ordered_by_dims(x: Value) -> Axes:
    """One axis for each dimension, in their stored order."""
    return tuple(x.dims[d] for d in dim_order(x))


def isolated(draft: Draft, x: Value, dim: int) -> tuple[Value, int]:
    """`x` with an axis that is torch's dimension `dim` and nothing else, and which that is."""
    own = x.dims[dim]
    if not (len(own) == 1 and own in x.axes):
        order = dim_order(x)
        place = order.index(dim)
        axes = tuple(x.dims[d] for d in order)
        if len(axes) > MAX_RANK:
            axes, place = (flat(axes[:place]), own, flat(axes[place + 1 :])), 1
        x = joined(arranged(draft, x, axes))
        return x, place
    return x, x.axes.index(own)


def features_last(draft: Draft, x: Value, dim: int) -> tuple[Value, Array]:
    """`x` with the dimension `dim` as its last axis, in any order of its elements: torch's index of each is the second result."""
    own, have = x.dims[dim], flat(x.axes)
    if any(f not in have for f in own):
        x = complete(draft, x)
        own, have = x.dims[dim], flat(x.axes)
    tail = have[len(have) - len(own) :]
    if set(tail) != set(own):
        order = [d for d in dim_order(x) if d != dim % len(x.dims)]
        axes, tail = (*(x.dims[d] for d in order), own), own
    elif not (x.axes and x.axes[-1] == tail):
        keep = list(x.axes)
        while keep and keep[-1] and set(keep[-1]) <= set(tail):
            keep.pop()
        axes = (*(tuple(f for f in axis if f not in tail) for axis in keep), tail)
    else:
        axes = x.axes
    if len(axes) > MAX_RANK:
        axes = (flat(axes[:-1]), axes[-1])
    indices = np.arange(size_of(own)).reshape([size for _, size in own]).transpose([own.index(f) for f in tail])
    return joined(arranged(draft, x, axes)), indices.reshape(-1)


def in_runs(axes: Axes, inside: set[Factor]) -> Axes:
    """`axes` cut so that each lies wholly in `inside` or wholly outside, and joined again where they would be more than four."""
    runs: list[Factors] = []
    for axis in axes:
        runs += [tuple(group) for _, group in itertools.groupby(axis, inside.__contains__)] or [()]
    if len(runs) <= MAX_RANK:
        return tuple(runs)
    return tuple(tuple(group) for _, group in itertools.groupby(flat(runs), inside.__contains__))


def matched(draft: Draft, a: Value, b: Value, dims: Iterable[int]) -> tuple[Value, Value]:
    """Both with the same factors in each of the dimensions `dims` that is of size 1 in neither."""
    if a.dims != b.dims:
        b = renewed(b)
    for d in dims:
        if not a.dims[d] or not b.dims[d]:
            continue
        parts = refined(a.dims[d], b.dims[d])
        if parts is None:
            a, b = _whole(draft, a, d), _whole(draft, b, d)
            parts = refined(a.dims[d], b.dims[d])
            assert parts is not None
        a, b = divided(a, parts[0]), divided(b, parts[1])
        b = divided(b, {old: (new,) for old, new in zip(b.dims[d], a.dims[d], strict=True) if old != new})
    return a, b


def _whole(draft: Draft, x: Value, dim: int) -> Value:
    """`x` with the dimension `dim` as one factor."""
    return isolated(draft, complete(draft, x), dim)[0]


def constant_in(draft: Draft, x: Constant, dims: tuple[Factors, ...], axes: Axes, full: bool = False) -> str:
    """The constant `x`, which broadcasts to `dims`, stored to go with `axes`; `full` if it shall not rely on broadcasting.

    Without that it loses leading dimensions of size 1: the canonical form, and what delegates look for.
    """
    values = np.asarray(x.tensor.detach().cpu().numpy())
    if values.dtype.kind != "f":
        values = values.astype(np.float64)
    values = values.reshape((1,) * (len(dims) - values.ndim) + values.shape)
    sizes = [size if full or values.shape[d] > 1 else 1 for d, dim in enumerate(dims) for _, size in dim]
    if full:
        values = np.broadcast_to(values, [size_of(dim) for dim in dims])
    order, inside = flat(dims), flat(axes)  # what no axis has is broadcast on both sides: of size 1 here
    values = values.reshape(sizes).transpose([order.index(f) for f in (*inside, *(f for f in order if f not in inside))])
    values = values.reshape(values.shape[: len(inside)])
    shape: list[int] = []
    rest: Iterator[int] = iter(values.shape)
    spelt: list[int] = []
    for axis in axes:
        found = list(itertools.islice(rest, len(axis)))
        varies = any(n > 1 for n in found)
        spelt += [size for _, size in axis] if varies else found
        shape.append(size_of(axis) if varies else 1)
    values = np.broadcast_to(values, spelt).reshape(shape)
    while not full and values.ndim and values.shape[0] == 1:
        values = values[0]
    return draft.constant(x.name, values)
