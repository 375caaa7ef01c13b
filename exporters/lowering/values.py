"""What lowerings compute with: constants, and run-time tensors seen through a view."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

import torch

Factor = tuple[int, int]
"""A stretch of a dimension: its identity and its size (never 1)."""
Factors = tuple[Factor, ...]
_identities = itertools.count()


def factor(size: int) -> Factors:
    """A new factor; none where the size is 1."""
    return ((next(_identities), size),) if size != 1 else ()


def size_of(factors: Iterable[Factor]) -> int:
    return math.prod(size for _, size in factors)


def flat(groups: Iterable[Factors]) -> Factors:
    return tuple(f for group in groups for f in group)


@dataclass(frozen=True)
class Value:
    """A tensor computed at run time, as torch sees it (`dims`) and as the draft's tensor `name` stores it (`axes`).

    Every dimension of torch and every stored axis is a product of factors, outermost first. So permute, reshape, flatten,
    squeeze, expand and the change between NCHW and NHWC only change `dims`; elements are moved where an operator needs them in
    another order, and only then. A factor that no axis has is broadcast: its elements are all the same and stored once.
    """

    name: str
    dims: tuple[Factors, ...]
    axes: tuple[Factors, ...]

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape in torch."""
        return tuple(size_of(d) for d in self.dims)

    @property
    def stored(self) -> tuple[int, ...]:
        """The shape in the draft."""
        return tuple(size_of(a) for a in self.axes)


@dataclass(frozen=True)
class Constant:
    """A tensor known at export: a parameter, a buffer, or what was computed from such; `name` is its path."""

    name: str
    tensor: torch.Tensor

    @property
    def shape(self) -> tuple[int, ...]:
        return tuple(self.tensor.shape)


Operand = Value | Constant | float | int


def divided(value: Value, parts: Mapping[Factor, Factors]) -> Value:
    """`value` with some of its factors replaced by several that make it up."""

    def spelt(groups: tuple[Factors, ...]) -> tuple[Factors, ...]:
        return tuple(tuple(p for f in group for p in parts.get(f, (f,))) for group in groups)

    return replace(value, dims=spelt(value.dims), axes=spelt(value.axes)) if parts else value


def renewed(value: Value) -> Value:
    """`value` with factors of its own, for where it meets another view of the same tensor."""
    return divided(value, {f: factor(f[1]) for f in flat(value.dims)})


def joined(value: Value) -> Value:
    """`value` with as few factors as possible: neighbours both in a dimension and in an axis become one."""
    after = {a: b for axis in value.axes for a, b in itertools.pairwise(axis)}
    stored = set(flat(value.axes))
    whole: dict[Factor, Factor] = {}
    gone: set[Factor] = set()
    for dim in value.dims:
        head = None
        for a, b in itertools.pairwise(dim):
            head = a if head is None else head
            if after.get(a) == b or (a not in stored and b not in stored):
                whole[head] = (head[0], whole.get(head, head)[1] * b[1])
                gone.add(b)
            else:
                head = None
    if not gone:
        return value
    # sizes change, so that a joined factor needs an identity of its own
    fresh = {f: factor(size)[0] for f, (_, size) in whole.items()}

    def spelt(groups: tuple[Factors, ...]) -> tuple[Factors, ...]:
        return tuple(tuple(fresh.get(f, f) for f in group if f not in gone) for group in groups)

    return replace(value, dims=spelt(value.dims), axes=spelt(value.axes))


def refined(a: Factors, b: Factors) -> tuple[dict[Factor, Factors], dict[Factor, Factors]] | None:
    """How to divide the factors of two dimensions of one size so that theirs have equal sizes; None where that can't be."""
    left, right = list(a), list(b)
    parts: tuple[dict[Factor, list[Factor]], dict[Factor, list[Factor]]] = ({}, {})
    origin: dict[Factor, Factor] = {f: f for f in (*a, *b)}
    while left and right:
        f, g = left.pop(0), right.pop(0)
        if f[1] != g[1]:
            which, rest, large, small = (0, left, f, g) if f[1] > g[1] else (1, right, g, f)
            if large[1] % small[1]:
                return None
            first, second = factor(small[1])[0], factor(large[1] // small[1])[0]
            origin[first] = origin[second] = origin[large]
            rest.insert(0, second)
            f, g = (first, g) if which == 0 else (f, first)
        parts[0].setdefault(origin[f], []).append(f)
        parts[1].setdefault(origin[g], []).append(g)
    return tuple({f: tuple(p) for f, p in side.items() if p != [f]} for side in parts)  # type: ignore[return-value]


def reshaped_view(value: Value, shape: Sequence[int]) -> Value | None:
    """torch's value.reshape(shape) without an operator; None where a new dimension would cut a factor in no whole parts."""
    wanted = [factor(size) for size in shape]
    parts = refined(flat(value.dims), flat(wanted))
    if parts is None:
        return None
    value = divided(value, parts[0])
    rest = iter(flat(value.dims))
    counts = [sum(len(parts[1].get(f, (f,))) for f in dim) for dim in wanted]
    return joined(replace(value, dims=tuple(tuple(itertools.islice(rest, n)) for n in counts)))
