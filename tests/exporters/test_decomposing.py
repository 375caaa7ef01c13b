"""Operators without a lowering that torch makes up of others; what is refused stays refused, with the operator's own name."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn

from paceline.errors import ExportError
from paceline.exporters.lowering.registry import LOWERINGS
from paceline.exporters.torch_graph import UnsupportedOperator, graph_of

from torch_reference import TOLERANCE, Function, difference, image, kinds

FUNCTIONS: dict[str, Callable[[Tensor], Any]] = {
    "fliplr": torch.fliplr,
    "rot90": lambda x: torch.rot90(x, 1, (2, 3)),
    "hstack": lambda x: torch.hstack([x, x * 2]),
    "dstack": lambda x: torch.dstack([x, x * 2]),
    "column_stack": lambda x: torch.column_stack([x, x * 2]),
    "hsplit": lambda x: torch.hsplit(x, 2)[1],
    "vsplit": lambda x: torch.vsplit(x, 2)[1],
    "atleast_3d": lambda x: torch.atleast_3d(x[0, 0]),
    "ravel": torch.ravel,
    "broadcast_to": lambda x: x[:, :1].broadcast_to(2, 6, 4, 8) * 2,
    "broadcast_tensors": lambda x: torch.broadcast_tensors(x, torch.arange(8.0))[1] * x,
    "movedim.intlist": lambda x: x.movedim((1, 2), (2, 1)),
    "adjoint": lambda x: x.adjoint(),
    "meshgrid.indexing": lambda x: torch.meshgrid(x[0, 0, 0], x[0, 0, :, 0], indexing="ij")[0] * 2,
    "take": lambda x: torch.take(x, torch.tensor([3, 100, 7])),
    "take_along_dim": lambda x: torch.take_along_dim(x, torch.tensor([1, 0, 5]).view(1, 3, 1, 1), 1),
    "triu": lambda x: x.triu(1),
    "tril": lambda x: x.tril(),
    "kron": lambda x: torch.kron(x[0, 0], torch.eye(2)),
    "linalg_multi_dot": lambda x: torch.linalg.multi_dot([x[0, 0], x[0, 1].T, x[0, 2]]),
    "addmv": lambda x: torch.addmv(x[0, 0, :, 0], x[0, 0], x[0, 1, 0]),
    "cosine_similarity": lambda x: F.cosine_similarity(x, x.flip(1), 1),
    "pairwise_distance": lambda x: F.pairwise_distance(x[0, 0], x[0, 1]),
    "diff": lambda x: torch.diff(x, dim=2),
    "mse_loss": lambda x: F.mse_loss(x, x * x),
}


@pytest.mark.parametrize("name", FUNCTIONS)
def test_parts(name: str) -> None:
    worst, graph = difference(Function(FUNCTIONS[name]).eval(), image(2, 6, 4, 8))
    assert worst <= TOLERANCE
    assert graph.ops


def test_most_of_these_have_no_lowering_of_their_own() -> None:
    """Else the tests above say nothing about decomposition."""
    assert sum(name not in LOWERINGS and name.split(".")[0] not in LOWERINGS for name in FUNCTIONS) > len(FUNCTIONS) / 2


def test_parts_carry_the_module_and_its_path() -> None:
    net = nn.Sequential(nn.Conv2d(3, 4, 1), Function(lambda x: torch.hstack([x, x])))
    graph = graph_of(net.eval(), image(1, 3, 4, 4))
    assert kinds(graph) == ["CONV_2D", "CONCATENATION"]
    assert [op.source for op in graph.ops] == ["0", "1"]


def _adds_random(x: Tensor) -> Tensor:
    return x + torch.bernoulli(x.sigmoid())


@pytest.mark.parametrize(
    ("function", "words"),
    [
        (torch.erfinv, ["aten.erfinv", "no lowering"]),
        (lambda x: torch.cdist(x, x * 2), ["aten.cdist", "no lowering"]),
        (lambda x: x.sort(1)[0], ["aten.sort", "no lowering"]),
        (_adds_random, ["aten.bernoulli", "no lowering"]),
        (lambda x: F.alpha_dropout(x, 0.5, training=True), ["aten.alpha_dropout", "training mode"]),
        (lambda x: F.feature_alpha_dropout(x, 0.5, training=True), ["aten.feature_alpha_dropout", "training mode"]),
    ],
)
def test_refused_by_their_own_name(function: Any, words: list[str]) -> None:
    with pytest.raises(UnsupportedOperator) as caught:
        graph_of(nn.Sequential(Function(function)).eval(), image(1, 3, 6, 6))
    for word in [*words, "module '0'", ".py:", "Remedy"]:
        assert word in str(caught.value)


def test_a_lowering_with_a_result_of_another_shape_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(LOWERINGS, "relu", lambda draft, shape, x: LOWERINGS["sum.dim_IntList"](draft, shape, x, [1]))
    with pytest.raises(UnsupportedOperator, match=r"\(1, 6, 6\) instead of \(1, 3, 6, 6\)"):
        graph_of(nn.ReLU().eval(), image(1, 3, 6, 6))


@pytest.mark.parametrize("extra", [None, 3])
def test_results_that_are_no_tensors_are_refused(extra: object) -> None:
    with pytest.raises(ExportError, match=f"output 1 of Function is {extra}, no tensor; return tensors only"):
        graph_of(Function(lambda x: (x + 1, extra)).eval(), image(1, 3, 6, 6))


def test_a_generator_in_forward_is_refused() -> None:
    def noisy(x: Tensor) -> Tensor:
        return x + torch.rand(6, generator=torch.Generator().manual_seed(0))

    with pytest.raises(ExportError, match=r"Generator; use tensors"):
        graph_of(Function(noisy).eval(), image(1, 3, 6, 6))
