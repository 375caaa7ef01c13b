"""Views: random chains of what moves elements and of what computes with them, torch against LiteRT; no tensor above rank 4."""

from __future__ import annotations

import itertools
import math

import numpy as np
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor

from paceline.exporters.lowering.rank4 import steps
from paceline.exporters.lowering.values import Value, factor, flat, reshaped_view

from torch_reference import TOLERANCE, Function, difference, image

KINDS = ["view", "permute", "expand", "slice", "reduce", "unary", "self", "constant", "cat", "softmax"]
_LIMIT = 600


def _factorised(draw: st.DrawFn, size: int) -> list[int]:
    """A shape of so many elements."""
    shape = []
    while size > 1 and len(shape) < 4:
        shape.append(draw(st.sampled_from([d for d in range(1, size + 1) if size % d == 0])))
        size //= shape[-1]
    return [*shape, size]


@st.composite
def _programs(draw: st.DrawFn) -> tuple[list[int], list[tuple[str, object]]]:
    """An input's shape and operators with their arguments."""
    start = draw(st.lists(st.integers(1, 4), min_size=2, max_size=5))
    shape, program = list(start), list[tuple[str, object]]()
    for _ in range(draw(st.integers(1, 7))):
        kind = draw(st.sampled_from(KINDS))
        rank = len(shape)
        argument: object = None
        if kind == "view":
            argument = shape = _factorised(draw, math.prod(shape))
        elif kind == "permute":
            order = draw(st.permutations(range(rank)))
            argument, shape = order, [shape[d] for d in order]
        elif kind == "expand":
            sizes = [draw(st.integers(1, 3)) if n == 1 else n for n in shape]
            if math.prod(sizes) > _LIMIT:
                continue
            argument = shape = sizes
        elif kind in ("slice", "cat", "reduce", "softmax"):
            dim = draw(st.integers(0, rank - 1))
            if kind == "slice":
                first = draw(st.integers(0, shape[dim] - 1))
                last = draw(st.integers(first + 1, shape[dim]))
                argument = (dim, first, last)
                shape = [*shape[:dim], last - first, *shape[dim + 1 :]]
            else:
                argument = dim
                if kind == "cat":
                    shape = [*shape[:dim], shape[dim] * 2, *shape[dim + 1 :]]
                if kind == "reduce":
                    shape = [*shape[:dim], 1, *shape[dim + 1 :]]
        elif kind == "constant":
            argument = [n if draw(st.booleans()) else 1 for n in shape[draw(st.integers(0, rank - 1)) :]]
        program.append((kind, argument))
    return start, program


def _run(x: Tensor, program: list[tuple[str, object]]) -> Tensor:
    for kind, a in program:
        if kind == "view":
            x = x.reshape(a)  # type: ignore[arg-type]
        elif kind == "permute":
            x = x.permute(a)  # type: ignore[arg-type]
        elif kind == "expand":
            x = x.expand(a)  # type: ignore[arg-type]
        elif kind == "slice":
            x = x.narrow(a[0], a[1], a[2] - a[1])  # type: ignore[index]
        elif kind == "cat":
            x = torch.cat([x, x.flip(a)], a)  # type: ignore[arg-type]
        elif kind == "reduce":
            x = x.mean(a, keepdim=True) if math.prod(x.shape) % 2 else x.amax(a, keepdim=True)  # type: ignore[arg-type, call-overload]
        elif kind == "unary":
            x = torch.tanh(x)
        elif kind == "self":
            turned = x.transpose(0, x.ndim - 1)
            x = x + (turned if turned.shape == x.shape else x.mean(0, keepdim=True))
        elif kind == "constant":
            x = x * (torch.arange(math.prod(a)).reshape(a) % 5 + 0.5)  # type: ignore[arg-type]
        else:
            x = x.softmax(a)  # type: ignore[arg-type]
    return x


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(_programs())
def test_random_programs(case: tuple[list[int], list[tuple[str, object]]]) -> None:
    shape, program = case
    worst, graph = difference(Function(lambda x: (_run(x, program), x + 1)).eval(), image(*shape))
    assert worst <= TOLERANCE
    inner = {t for op in graph.ops for t in op.outputs} - set(graph.outputs)
    if all(len(graph.tensors[t].shape) < 5 for t in (*graph.inputs, *graph.outputs)):
        assert all(len(graph.tensors[t].shape) <= 4 for t in inner)


@given(st.permutations(range(7)), st.integers(2, 7))
def test_steps_sort_in_rank_four(order: list[int], count: int) -> None:
    state = tuple(n for n in order if n < count)
    for groups, perm in steps(state):
        assert len(groups) <= 4
        assert tuple(itertools.chain(*groups)) == state
        state = tuple(b for g in perm for b in groups[g])
    assert state == tuple(range(count))


@given(st.data())
def test_reshaped_views_hold_the_same_elements(data: st.DataObject) -> None:
    sizes = data.draw(st.lists(st.integers(1, 6), min_size=1, max_size=4))
    dims = tuple(factor(n) for n in sizes)
    order = data.draw(st.permutations(range(len(dims))))
    stored = Value("x", dims, tuple(dims[d] for d in order))
    view = reshaped_view(stored, _factorised(data.draw, math.prod(sizes)))
    if view is not None:
        assert _elements(view) == _elements(stored)


def _elements(x: Value) -> list[int]:
    """Where torch's elements lie in storage, in torch's order."""
    inside, outside = flat(x.axes), flat(x.dims)
    places = np.arange(math.prod(x.stored)).reshape([n for _, n in inside])
    return places.transpose([inside.index(f) for f in outside]).reshape(-1).tolist()
