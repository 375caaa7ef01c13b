"""Products of matrices of any rank, of computed and constant operands."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from paceline.exporters.torch_graph import graph_of

from torch_reference import TOLERANCE, Function, difference, image, kinds

SHAPES = [
    ((5, 7), (7, 3)),
    ((7,), (7, 3)),
    ((5, 7), (7,)),
    ((7,), (7,)),
    ((2, 5, 7), (7, 3)),
    ((5, 7), (2, 7, 3)),
    ((2, 1, 5, 7), (1, 3, 7, 4)),
    ((2, 3, 5, 7), (7,)),
    ((2, 3, 2, 5, 7), (2, 3, 2, 7, 3)),
]


@pytest.mark.parametrize(("a", "b"), SHAPES)
def test_matmul(a: tuple[int, ...], b: tuple[int, ...]) -> None:
    left, right = image(*a), image(*b, seed=1)
    assert difference(Function(torch.matmul).eval(), left, right)[0] <= TOLERANCE
    assert difference(Function(lambda x: x @ right).eval(), left)[0] <= TOLERANCE
    assert difference(Function(lambda x: left @ x).eval(), right)[0] <= TOLERANCE


def test_transposed_operands_are_read_as_they_lie() -> None:
    def products(a: Tensor, b: Tensor) -> list[Tensor]:
        return [a @ b.mT, a.mT @ b[:, :5], (b @ b.mT).mT @ b]

    worst, graph = difference(Function(products).eval(), image(2, 5, 7), image(2, 6, 7, seed=1))
    assert worst <= TOLERANCE
    assert "TRANSPOSE" not in kinds(graph)


def test_constant_matrix_is_a_fully_connected_layer() -> None:
    weight = image(7, 3)
    graph = graph_of(Function(lambda x: x @ weight).eval(), image(2, 5, 7))
    assert kinds(graph) == ["FULLY_CONNECTED"]


def test_named_products() -> None:
    matrix, vector = image(7, 3, seed=3), image(3, seed=4)

    def products(a: Tensor, b: Tensor, c: Tensor) -> list[Tensor]:
        return [
            torch.bmm(a, b),
            torch.mm(a[0], b[0]),
            torch.mv(a[0], c[0, 0, :1].expand(7)),
            torch.baddbmm(c, a, b, beta=0.5, alpha=2),
            torch.addmm(c[0], a[0], b[0]),
            torch.addmm(vector, a[0], matrix),
            F.linear(a, matrix.T, vector),
            F.linear(a[0, 0], matrix.T),
            torch.inner(a[0], a[1]),
            torch.outer(a[0, 0], b[0, 0]),
            torch.tensordot(a, b, dims=([2], [1])),
        ]

    inputs = image(2, 5, 7), image(2, 7, 3, seed=1), image(2, 5, 3, seed=2)
    assert difference(Function(products).eval(), *inputs)[0] <= TOLERANCE


EQUATIONS = {
    "bhid,bhjd->bhij": ((1, 2, 5, 7), (1, 2, 4, 7)),
    "bhqk,bkhd->bqhd": ((1, 2, 5, 4), (1, 4, 2, 6)),
    "nchw,kc->nkhw": ((1, 7, 3, 4), (5, 7)),
    "bhwc,hkc->bhwk": ((1, 3, 4, 5), (3, 6, 5)),
    "bhwc,wkc->bhwk": ((1, 3, 4, 5), (4, 6, 5)),
    "bij,j->bi": ((2, 3, 4), (4,)),
    "bij,bij->b": ((2, 3, 4), (2, 3, 4)),
    "i,j->ij": ((5,), (4,)),
    "abc,ad->abcd": ((2, 3, 4), (2, 5)),
}


@pytest.mark.parametrize("equation", EQUATIONS)
def test_einsum(equation: str) -> None:
    a, b = (image(*shape, seed=i) for i, shape in enumerate(EQUATIONS[equation]))
    assert difference(Function(lambda x, y: torch.einsum(equation, x, y)).eval(), a, b)[0] <= TOLERANCE
    assert difference(Function(lambda x: torch.einsum(equation, x, b)).eval(), a)[0] <= TOLERANCE


@st.composite
def operands(draw: st.DrawFn) -> tuple[Tensor, Tensor, bool, bool]:
    """Two stacks of matrices that can be multiplied once the flagged ones are transposed."""
    m, k, n = (draw(st.integers(1, 5)) for _ in range(3))
    lead = draw(st.lists(st.integers(1, 3), max_size=2))
    turned = draw(st.booleans()), draw(st.booleans())
    other = [draw(st.sampled_from([1, size])) for size in lead]
    a, b = ((k, m) if turned[0] else (m, k)), ((n, k) if turned[1] else (k, n))
    return image(*lead, *a), image(*other, *b, seed=1), *turned


@settings(max_examples=25, deadline=None)
@given(operands())
def test_any_product(case: tuple[Tensor, Tensor, bool, bool]) -> None:
    a, b, first, second = case
    product = Function(lambda x, y: (x.mT if first else x) @ (y.mT if second else y))
    assert difference(product.eval(), a, b)[0] <= TOLERANCE
