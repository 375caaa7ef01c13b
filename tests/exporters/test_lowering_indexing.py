"""Elements by constant index, parts of unequal size, and borders of every mode, against torch on random cases."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from paceline.exporters.torch_graph import UnsupportedOperator, graph_of

from torch_reference import TOLERANCE, Function, difference, image, kinds

SHAPE = (2, 6, 4, 8)
Step = tuple[str, Any]


@st.composite
def selections(draw: st.DrawFn) -> list[Step]:
    """Up to four operators that pick elements; sizes stay what they are, or are drawn from what is left."""
    shape, steps = list(SHAPE), []
    for _ in range(draw(st.integers(1, 4))):
        dim = draw(st.integers(0, 3))
        size = shape[dim]
        kind = draw(st.sampled_from(["index", "flip", "roll", "split", "stride", "chunk", "gather"]))
        if kind in ("index", "gather"):
            picked = draw(st.lists(st.integers(-size if kind == "index" else 0, size - 1), min_size=1, max_size=12))
            steps.append((kind, (dim, picked)))
            shape[dim] = len(picked)
        elif kind == "roll":
            steps.append((kind, (dim, draw(st.integers(-9, 9)))))
        elif kind == "split":
            first = draw(st.integers(0, size - 1))
            steps.append((kind, (dim, first)))
            shape[dim] = size - first
        elif kind == "stride":
            start, step = draw(st.integers(0, size - 1)), draw(st.integers(1, 3))
            steps.append((kind, (dim, start, step)))
            shape[dim] = len(range(start, size, step))
        elif kind == "chunk":
            parts = draw(st.integers(1, size))
            steps.append((kind, (dim, parts)))
            shape[dim] = torch.empty(size).tensor_split(parts)[-1].numel()
        else:
            steps.append((kind, (dim,)))
    return steps


def selected(steps: list[Step]) -> Callable[[Tensor], Tensor]:
    indices = {id(a): torch.tensor(a[1]) for kind, a in steps if kind in ("index", "gather")}

    def function(x: Tensor) -> Tensor:
        for kind, a in steps:
            dim = a[0]
            if kind == "index":
                x = x[(slice(None),) * dim + (indices[id(a)],)]
            elif kind == "gather":
                shape = [1] * x.ndim
                shape[dim] = -1
                where = [*x.shape[:dim], len(a[1]), *x.shape[dim + 1 :]]
                x = x.gather(dim, indices[id(a)].reshape(shape).expand(where))
            elif kind == "flip":
                x = x.flip(dim)
            elif kind == "roll":
                x = x.roll(a[1], dim)
            elif kind == "split":
                x = x.split([a[1], x.shape[dim] - a[1]], dim)[1] if a[1] else x
            elif kind == "stride":
                x = x[(slice(None),) * dim + (slice(a[1], None, a[2]),)]
            else:
                x = x.tensor_split(a[1], dim)[-1]
        return x * 2

    return function


@settings(max_examples=40, deadline=None)
@given(selections())
def test_any_selection(steps: list[Step]) -> None:
    assert difference(Function(selected(steps)).eval(), image(*SHAPE))[0] == 0


@settings(max_examples=40, deadline=None)
@given(st.lists(st.integers(-2, 3), min_size=4, max_size=4), st.sampled_from(["constant", "reflect", "replicate", "circular"]))
def test_any_border(pads: list[int], mode: str) -> None:
    borders = Function(lambda x: F.pad(x, pads, mode=mode) if mode != "constant" else F.pad(x, pads, value=1.5))
    assert difference(borders.eval(), image(1, 3, 6, 7))[0] == 0


def test_several_index_tensors_are_one_gather() -> None:
    places = torch.randperm(192, generator=torch.Generator().manual_seed(0))[:64].reshape(4, 16)
    both = Function(lambda x: x.flatten(1)[torch.arange(2)[:, None], places.flatten()[None]])
    worst, graph = difference(both.eval(), image(*SHAPE))
    assert worst == 0
    assert kinds(graph).count("GATHER") == 1


def test_few_runs_are_slices_which_delegates_take() -> None:
    graph = graph_of(Function(lambda x: x.roll((3, -1), (2, 3))).eval(), image(*SHAPE))
    assert set(kinds(graph)) <= {"SLICE", "SPLIT", "CONCATENATION"}


@pytest.mark.parametrize(("kernel", "stride", "padding", "dilation"), [(3, 1, 1, 1), (2, 2, 0, 1), (3, 2, 1, 2), (1, 1, 0, 1)])
def test_windows_and_back(kernel: int, stride: int, padding: int, dilation: int) -> None:
    unfold = nn.Unfold(kernel, dilation, padding, stride)
    fold = nn.Fold((9, 8), kernel, dilation, padding, stride)
    worst, _ = difference(Function(lambda x: (unfold(x), fold(unfold(x) * 2))).eval(), image(2, 3, 9, 8))
    assert worst <= TOLERANCE


def test_a_mask_that_is_a_parameter_chooses() -> None:
    mask = torch.arange(8) > 3
    masked = Function(
        lambda x: [x.masked_fill(mask, 0.5), torch.where(mask, x, x * 2), x.masked_fill(mask, -torch.inf).softmax(-1)]
    )
    assert difference(masked.eval(), image(*SHAPE))[0] <= TOLERANCE


def test_how_many_a_mask_picks_is_not_known_at_export() -> None:
    mask = torch.arange(4) > 1
    with pytest.raises(UnsupportedOperator, match="use indices, not masks"):
        graph_of(Function(lambda x: x[:, :, mask]).eval(), image(*SHAPE))
