"""The one place that knows where torch's NCHW order and the graph's NHWC order differ: rank 4, nowhere else."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from paceline.exporters.draft import Draft, Shape
from paceline.exporters.lowering.registry import Constant, Operand, Value

_TO_NHWC = (0, 2, 3, 1)
_TO_NCHW = (0, 3, 1, 2)


def nhwc(shape: Sequence[int]) -> Shape:
    """A torch shape as the graph's."""
    return tuple(shape[d] for d in _TO_NHWC) if len(shape) == 4 else tuple(shape)


def axis(dim: int, rank: int) -> int:
    """Where torch's dimension `dim` (negative ones count from the end) lies in the graph."""
    dim %= max(rank, 1)
    return _TO_NCHW[dim] if rank == 4 else dim


def by_axis(values: Sequence[int]) -> tuple[int, ...]:
    """One number for each torch dimension, in the graph's order."""
    return nhwc(values)


def transposed(draft: Draft, name: str, perm: Sequence[int]) -> str:
    """The draft's tensor `name` with its axes reordered; passes remove what turns out to be the identity."""
    shape = draft.shapes[name]
    return draft.emit("TRANSPOSE", [name], tuple(shape[a] for a in perm), perm=tuple(perm))


def permuted(draft: Draft, x: Value, dims: Sequence[int]) -> Value:
    """torch's x.permute(dims)."""
    rank = len(x.shape)
    shape = tuple(x.shape[d % rank] for d in dims)
    order = _TO_NHWC if rank == 4 else range(rank)
    return Value(transposed(draft, x.name, [axis(dims[t], rank) for t in order]), shape)


def torch_ordered(draft: Draft, x: Value) -> str:
    """The draft's tensor of `x` with its elements in torch's order."""
    return transposed(draft, x.name, _TO_NCHW) if len(x.shape) == 4 else x.name


def graph_ordered(draft: Draft, name: str) -> Value:
    """A draft's tensor in torch's order as a Value: rank 4 becomes NHWC."""
    shape = draft.shapes[name]
    return Value(transposed(draft, name, _TO_NHWC) if len(shape) == 4 else name, shape)


def reshaped(draft: Draft, x: Value, shape: Sequence[int]) -> Value:
    """torch's x.reshape(shape); `shape` without -1."""
    if tuple(shape) == x.shape:
        return x
    return graph_ordered(draft, draft.emit("RESHAPE", [torch_ordered(draft, x)], tuple(shape)))


def broadcastable(draft: Draft, x: Operand, other: Operand, shape: Shape) -> str:
    """The operand `x` of an elementwise operator with the result `shape` (torch's order): a name in the draft.

    Constants lose leading dimensions of size 1 (scalars, (C,)): the canonical form, and what delegates look for.
    """
    if isinstance(x, Value):
        return reshaped(draft, x, (1,) * (len(shape) - len(x.shape)) + x.shape).name
    if not isinstance(x, Constant):
        return draft.constant(f"{draft.label}/scalar", np.asarray(x, np.float64))
    values = x.tensor.detach().cpu().numpy()
    values = values.reshape((1,) * (len(shape) - values.ndim) + values.shape)
    if len(shape) == 4:
        values = values.transpose(_TO_NHWC)
    if isinstance(other, Value) and len(other.shape) == len(shape):
        while values.ndim and values.shape[0] == 1:
            values = values[0]
    return draft.constant(x.name, values)
