"""Pooling and resizing: torch against LiteRT on both kinds of kernels."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn

from paceline.exporters.torch_graph import UnsupportedOperator, graph_of

from torch_reference import TOLERANCE, Function, difference, image, kinds

MAP = (2, 5, 11, 13)
FLAT = (2, 5, 13)

CASES: dict[str, tuple[Callable[[Tensor], Any], tuple[int, ...]]] = {
    "average with a divisor": (nn.AvgPool2d(3, 2, 1, divisor_override=5), MAP),
    "average with a divisor, rounded up": (nn.AvgPool2d(3, 2, 1, True, divisor_override=5), MAP),
    "average with gaps": (nn.AvgPool2d(2, 3, ceil_mode=True), MAP),
    "average, no batch": (nn.AvgPool2d(2), MAP[1:]),
    "largest with gaps": (nn.MaxPool2d(2, 5, 1, ceil_mode=True), MAP),
    "largest, no batch": (nn.MaxPool2d(2), MAP[1:]),
    "largest of negative": (lambda x: F.max_pool2d(x - 100, 3, 2, 1), MAP),
    "largest and where": (lambda x: F.max_pool2d(x, 2, return_indices=True)[0], MAP),
    "flat average": (nn.AvgPool1d(4, 2, 1, True), FLAT),
    "flat largest": (nn.MaxPool1d(4, 2, 1, ceil_mode=True), FLAT),
    "flat largest with dilation": (nn.MaxPool1d(3, 2, 1, 2), FLAT),
    "flat average, no batch": (nn.AvgPool1d(2), FLAT[1:]),
    "norm": (lambda x: F.lp_pool2d(x.abs(), 2, 3), MAP),
    "flat norm": (lambda x: F.lp_pool1d(x.abs(), 2, 3), FLAT),
    "behind a shuffle": (lambda x: F.max_pool2d(F.channel_shuffle(x[:, :4], 2), 2), MAP),
    "adaptive behind a view": (lambda x: F.adaptive_avg_pool2d(x.reshape(2, 5, 13, 11), (3, 4)), MAP),
}


@pytest.mark.parametrize("name", CASES)
def test_pooling(name: str) -> None:
    function, shape = CASES[name]
    assert difference(Function(function), image(*shape))[0] <= TOLERANCE


@pytest.mark.parametrize("ceil_mode", [False, True])
@pytest.mark.parametrize(("kernel", "stride", "padding"), [(2, 2, 0), (3, 2, 1), (3, 1, 1), ((3, 2), 2, 1), (1, 2, 0), (3, 3, 0)])
def test_windows(kernel: Any, stride: int, padding: int, ceil_mode: bool) -> None:
    def pools(x: Tensor) -> list[Tensor]:
        averages = [F.avg_pool2d(x, kernel, stride, padding, ceil_mode, count) for count in (False, True)]
        return [F.max_pool2d(x, kernel, stride, padding, ceil_mode=ceil_mode), *averages]

    assert difference(Function(pools), image(*MAP))[0] <= TOLERANCE


@pytest.mark.parametrize("dilation", [2, 3, (1, 2)])
@pytest.mark.parametrize("ceil_mode", [False, True])
def test_largest_with_dilation(dilation: Any, ceil_mode: bool) -> None:
    def pools(x: Tensor) -> list[Tensor]:
        return [F.max_pool2d(x, 3, stride, padding, dilation, ceil_mode) for stride in (1, 2) for padding in (0, 1)]

    assert difference(Function(pools), image(*MAP))[0] <= TOLERANCE


@pytest.mark.parametrize("size", [1, 7, (4, 5), (11, 13), (3, 1), (22, 5), (None, 3), (13, 11)])
def test_adaptive(size: Any) -> None:
    def pools(x: Tensor) -> list[Tensor]:
        return [F.adaptive_avg_pool2d(x, size), F.adaptive_max_pool2d(x, size), F.adaptive_max_pool2d(x[0], size)]

    assert difference(Function(pools), image(*MAP))[0] <= TOLERANCE


@pytest.mark.parametrize("size", [1, 3, 7, 13])
def test_flat_adaptive(size: int) -> None:
    pools = Function(lambda x: [F.adaptive_avg_pool1d(x, size), F.adaptive_max_pool1d(x, size)])
    assert difference(pools, image(*FLAT))[0] <= TOLERANCE


MODES: list[dict[str, Any]] = [
    *({"mode": mode} for mode in ("nearest", "nearest-exact", "area")),
    *({"mode": mode, "align_corners": corners} for mode in ("bilinear", "bicubic") for corners in (False, True)),
    *({"mode": mode, "antialias": True} for mode in ("bilinear", "bicubic")),
]


@pytest.mark.parametrize("options", MODES, ids=str)
def test_resizing_to_a_size(options: dict[str, Any]) -> None:
    def resized(x: Tensor) -> list[Tensor]:
        return [F.interpolate(x, size, **options) for size in ((12, 16), (7, 13), (3, 4), (1, 1), (5, 8), (18, 3))]

    assert difference(Function(resized), image(2, 3, 6, 8))[0] <= TOLERANCE


@pytest.mark.parametrize("options", MODES, ids=str)
def test_resizing_by_a_factor(options: dict[str, Any]) -> None:
    def resized(x: Tensor) -> list[Tensor]:
        return [F.interpolate(x, scale_factor=factor, **options) for factor in (2, 3, 1.5, 0.5, 0.7, 2.3, (2.0, 1.0), (1.3, 0.6))]

    assert difference(Function(resized), image(2, 3, 6, 8))[0] <= TOLERANCE


@pytest.mark.parametrize("mode", ["nearest", "nearest-exact", "linear", "area"])
def test_flat_resizing(mode: str) -> None:
    def resized(x: Tensor) -> list[Tensor]:
        sizes = [F.interpolate(x, size, mode=mode) for size in (7, 10, 20)]
        return [*sizes, *(F.interpolate(x, scale_factor=factor, mode=mode) for factor in (2, 1.7, 0.4))]

    assert difference(Function(resized), image(2, 3, 10))[0] <= TOLERANCE


def test_resizing_that_changes_nothing_is_nothing() -> None:
    def same(x: Tensor) -> Tensor:
        return F.relu(F.interpolate(F.interpolate(x, (6, 8), mode="bilinear"), (6, 8)))

    assert kinds(graph_of(Function(same), image(1, 3, 6, 8))) == ["RELU"]


def test_resizing_as_matrix_products_moves_nothing() -> None:
    graph = graph_of(Function(lambda x: F.interpolate(x, (7, 13), mode="bicubic")), image(1, 3, 6, 8))
    assert [kind for kind in kinds(graph) if kind != "RESHAPE"] == ["BATCH_MATMUL", "BATCH_MATMUL"]


@pytest.mark.parametrize("width", [1, 3])
def test_antialiasing_of_one_column(width: int) -> None:
    """torch 2.13 does not resize the height of such a map where its width stays; widened it does."""

    def resized(x: Tensor) -> Tensor:
        return F.interpolate(x, (3, width), mode="bilinear", antialias=True)

    if width > 1:
        assert difference(Function(resized), image(1, 3, 6, 1))[0] <= TOLERANCE
    else:
        with pytest.raises(UnsupportedOperator, match="one element wide"):
            graph_of(Function(resized), image(1, 3, 6, 1))


@pytest.mark.parametrize(
    ("function", "shape", "words"),
    [
        (nn.FractionalMaxPool2d(3, output_size=5), MAP, "random"),
        (lambda x: F.max_unpool2d(*F.max_pool2d(x, 2, return_indices=True), 2), (1, 2, 4, 4), "use the values only"),
        (lambda x: F.interpolate(x, scale_factor=2, mode="trilinear"), (1, 2, 3, 4, 5), "volumes"),
        (nn.AdaptiveAvgPool3d(1), (1, 2, 4, 4, 4), "volumes"),
    ],
)
def test_refusals(function: Callable[[Tensor], Tensor], shape: tuple[int, ...], words: str) -> None:
    with pytest.raises(UnsupportedOperator, match=words):
        graph_of(Function(function), image(*shape))


def test_indices_of_the_largest_are_refused_only_where_they_are_used() -> None:
    assert kinds(graph_of(Function(lambda x: F.max_pool2d(x, 2, return_indices=True)[0]), image(1, 2, 4, 4))) == ["MAX_POOL_2D"]
