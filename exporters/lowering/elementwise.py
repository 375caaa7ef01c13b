"""How elementwise operators are emitted: broadcasting between Values that are stored in different orders."""

from __future__ import annotations

import itertools
from dataclasses import replace

import numpy as np

from paceline.exporters.draft import Draft
from paceline.exporters.lowering.layout import MAX_RANK, Axes, arranged, constant_in, dim_order, in_runs, matched, usual
from paceline.exporters.lowering.values import Constant, Factor, Factors, Operand, Value, factor, flat, size_of

_ACTIVATED = {"ADD", "SUB", "MUL", "DIV"}


def unary(draft: Draft, kind: str, x: Value, **attributes: float | bool) -> Value:
    """An operator on each element for itself: the order of storage does not matter."""
    return replace(x, name=draft.emit(kind, [x.name], x.stored, **attributes))


def binary(draft: Draft, kind: str, a: Operand, b: Operand) -> Value:
    """An elementwise operator on two operands, at least one of them computed, with broadcasting."""
    attributes = {"activation": "NONE"} if kind in _ACTIVATED else {}
    if not isinstance(a, Value):
        assert isinstance(b, Value)
        name, x = _with_constant(draft, b, a)
        return replace(x, name=draft.emit(kind, [name, x.name], x.stored, **attributes))
    if not isinstance(b, Value):
        name, x = _with_constant(draft, a, b)
        return replace(x, name=draft.emit(kind, [x.name, name], x.stored, **attributes))
    left, right, both = _together(draft, a, b)
    return replace(both, name=draft.emit(kind, [left, right], both.stored, **attributes))


def _padded(x: Value, rank: int) -> Value:
    return replace(x, dims=((),) * (rank - len(x.dims)) + x.dims)


def _together(draft: Draft, a: Value, b: Value) -> tuple[str, str, Value]:
    """Both operands' names in compatible orders, and the result, still nameless."""
    rank = max(len(a.dims), len(b.dims))
    a, b = matched(draft, _padded(a, rank), _padded(b, rank), range(rank))
    dims = tuple(one or other for one, other in zip(a.dims, b.dims, strict=True))
    leads = _leads(a, b)
    first, second = (a, b) if leads else (b, a)
    has = set(flat(second.axes))
    if has <= set(flat(first.axes)):
        # channels that repeat among the other's channels are repeated in storage: cheaper than cutting the larger operand's axis
        channels = first.axes[-1] if first.axes else ()
        if has & set(channels):
            has |= set(channels) & set(flat(second.dims))
        axes = in_runs(first.axes, has) if has else first.axes
    else:
        axes = _merged_axes(first, dims, flat(second.axes))
    first, second = arranged(draft, first, _only(axes, set(flat(first.axes)))), arranged(draft, second, _only(axes, has))
    left, right = (first, second) if leads else (second, first)
    return left.name, right.name, Value("", dims, axes)


def _only(axes: Axes, present: set[Factor]) -> Axes:
    return tuple(tuple(f for f in axis if f in present) for axis in axes)


def _leads(a: Value, b: Value) -> bool:
    """Whether b is brought into a's order, not a into b's: the larger stays; of equals that in the more usual order."""
    sizes = [size_of(flat(x.axes)) for x in (a, b)]
    if sizes[0] != sizes[1]:
        return sizes[0] > sizes[1]

    def oddness(x: Value) -> tuple[bool, bool, bool]:
        channels = x.dims[1] if len(x.dims) == 4 else x.dims[-1] if x.dims else ()
        have = flat(x.axes)
        return have[len(have) - len(channels) :] != channels, x.axes != usual(x.dims), len(x.axes) != len(x.dims)

    return oddness(a) <= oddness(b)


def _merged_axes(first: Value, dims: tuple[Factors, ...], other: Factors) -> Axes:
    """Axes for all factors of both operands: in the first one's order, each further one behind what precedes it in the second."""
    order = list(flat(first.axes))
    for i, f in enumerate(other):
        if f not in order:
            after = next((order.index(g) + 1 for g in reversed(other[:i]) if g in order), None)
            before = next((order.index(g) for g in other[i + 1 :] if g in order), len(order))
            order.insert(before if after is None else after, f)

    def owners(f: Factor) -> tuple[bool, bool]:
        return f in flat(first.axes), f in other

    axes = tuple(dims[d] for d in dim_order(Value("", dims, (tuple(order),))))
    if len(axes) <= MAX_RANK and flat(axes) == tuple(order) and all(len({owners(f) for f in axis}) < 2 for axis in axes):
        return axes
    return tuple(tuple(group) for _, group in itertools.groupby(order, owners))


def _with_constant(draft: Draft, x: Value, constant: Constant | float) -> tuple[str, Value]:
    """The constant as it goes with x, and the result, still with x's name and, if the constant is larger, with more axes."""
    if not isinstance(constant, Constant):
        return draft.constant(f"{draft.label}/scalar", np.asarray(constant, np.float64)), x
    rank = max(len(x.dims), constant.tensor.ndim)
    x = _padded(x, rank)
    tensor = constant.tensor.reshape((1,) * (rank - constant.tensor.ndim) + constant.shape)
    dims = tuple(dim or factor(n) for dim, n in zip(x.dims, tensor.shape, strict=True))
    varying = tuple(f for d in dim_order(Value("", dims, usual(dims))) if tensor.shape[d] > 1 for f in dims[d])
    axes = x.axes
    if not set(varying) <= set(flat(axes)):
        axes = _merged_axes(x, dims, varying)
        x = arranged(draft, x, _only(axes, set(flat(x.axes))))
    name = constant_in(draft, Constant(constant.name, tensor), dims, axes)
    return name, Value(x.name, dims, axes)
