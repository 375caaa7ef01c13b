"""Variants of convolution: torch against LiteRT on both kinds of kernels."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from torch import nn

from paceline.exporters.torch_graph import UnsupportedOperator, graph_of

from torch_reference import TOLERANCE, Function, difference, image, kinds, randomised

SHAPE = (2, 6, 9, 11)
FLAT = (2, 6, 13)

MODULES: dict[str, tuple[nn.Module, tuple[int, ...]]] = {
    **{f"padding {m}": (nn.Conv2d(6, 4, 3, padding=1, padding_mode=m), SHAPE) for m in ("reflect", "replicate", "circular")},
    **{f"flat padding {m}": (nn.Conv1d(6, 4, 3, padding=2, padding_mode=m), FLAT) for m in ("zeros", "reflect", "circular")},
    "same for an even kernel": (nn.Conv2d(6, 4, 4, padding="same"), SHAPE),
    "same with dilation": (nn.Conv2d(6, 4, (4, 3), padding="same", dilation=(2, 1)), SHAPE),
    "different in height and width": (nn.Conv2d(6, 4, (3, 5), (2, 1), (0, 2), (1, 2)), SHAPE),
    "groups": (nn.Conv2d(6, 9, 3, 2, 1, groups=3), SHAPE),
    "groups with dilation": (nn.Conv2d(6, 9, 3, 1, 2, 2, groups=3), SHAPE),
    "pointwise groups": (nn.Conv2d(6, 6, 1, groups=2), SHAPE),
    "pointwise with stride": (nn.Conv2d(6, 6, 1, 2), SHAPE),
    "pointwise with padding": (nn.Conv2d(6, 6, 1, 1, 1), SHAPE),
    "depthwise with a multiplier": (nn.Conv2d(6, 18, 3, padding=1, groups=6), SHAPE),
    "depthwise with dilation and stride": (nn.Conv2d(6, 6, 3, 2, 2, 2, groups=6), SHAPE),
    "dilation and stride": (nn.Conv2d(6, 6, 3, 2, 2, 2), SHAPE),
    "no batch": (nn.Conv2d(6, 4, 3), SHAPE[1:]),
    "flat": (nn.Conv1d(6, 4, 3, 2, 1, 2), FLAT),
    "flat same": (nn.Conv1d(6, 4, 4, padding="same"), FLAT),
    "flat groups": (nn.Conv1d(6, 4, 3, groups=2), FLAT),
    "flat depthwise": (nn.Conv1d(6, 12, 3, padding=1, groups=6), FLAT),
    "flat, no batch": (nn.Conv1d(6, 4, 3), FLAT[1:]),
    "transposed, groups": (nn.ConvTranspose2d(6, 12, 3, 2, 1, 1, groups=3), SHAPE),
    "transposed, depthwise": (nn.ConvTranspose2d(6, 6, 3, 2, 1, groups=6), SHAPE),
    "transposed, dilation": (nn.ConvTranspose2d(6, 4, 3, 2, 1, 1, dilation=2), SHAPE),
    "transposed, dilation and groups": (nn.ConvTranspose2d(6, 4, 3, 2, 1, 1, dilation=(1, 3), groups=2), SHAPE),
    "transposed, no bias": (nn.ConvTranspose2d(6, 4, 3, 2, bias=False), SHAPE),
    "transposed, pixels apart": (nn.ConvTranspose2d(6, 4, 1, 2), SHAPE),
    "transposed, no batch": (nn.ConvTranspose2d(6, 4, 3), SHAPE[1:]),
    "flat transposed": (nn.ConvTranspose1d(6, 4, 4, 2, 1), FLAT),
    "flat transposed, dilation and groups": (nn.ConvTranspose1d(6, 4, 4, 2, 1, 1, groups=2, dilation=2), FLAT),
    "flat transposed, no batch": (nn.ConvTranspose1d(6, 4, 3), FLAT[1:]),
}


@pytest.mark.parametrize("name", MODULES)
def test_variants(name: str) -> None:
    module, shape = MODULES[name]
    assert difference(randomised(module), image(*shape))[0] <= TOLERANCE


@pytest.mark.parametrize("stride", [1, 2, 3, (2, 1)])
@pytest.mark.parametrize("kernel", [2, 3, 4, 5])
def test_transposed_with_any_padding(kernel: int, stride: int | tuple[int, int]) -> None:
    most = min(stride) if isinstance(stride, tuple) else stride
    for padding in range(min(3, kernel)):
        for extra in range(min(2, most)):
            module = nn.ConvTranspose2d(6, 4, kernel, stride, padding, extra)
            assert difference(randomised(module), image(1, 6, 5, 4))[0] <= TOLERANCE, (padding, extra)


@pytest.mark.parametrize(
    "module",
    [nn.Conv2d(6, 4, 3), nn.Conv2d(6, 6, 3, groups=2), nn.Conv2d(6, 6, 3, groups=6), nn.ConvTranspose2d(6, 4, 3, 2)],
    ids=["dense", "groups", "depthwise", "transposed"],
)
def test_behind_a_channel_shuffle(module: nn.Module) -> None:
    assert difference(randomised(nn.Sequential(nn.ChannelShuffle(2), module)), image(*SHAPE))[0] <= TOLERANCE


@pytest.mark.parametrize("groups", [2, 6])
@pytest.mark.parametrize("stride", [1, 2, 3])
def test_transposed_in_groups_with_any_padding(stride: int, groups: int) -> None:
    for kernel in (1, 2, 4, 5):
        for padding, extra in ((0, 0), (0, stride - 1), (min(2, kernel - 1), 0)):
            module = nn.ConvTranspose2d(6, 12, kernel, stride, padding, extra, groups=groups)
            assert difference(randomised(module), image(1, 6, 5, 4))[0] <= TOLERANCE, (kernel, padding, extra)


def test_transposed_in_groups_computes_no_products_with_zeros() -> None:
    graph = graph_of(randomised(nn.ConvTranspose2d(6, 6, 4, 2, 1, groups=6)), image(1, 6, 5, 4))
    depthwise = ["DEPTHWISE_CONV_2D"] * 4
    assert kinds(graph) == ["PAD", *depthwise, "CONCATENATION", "DEPTH_TO_SPACE", "SLICE"]
    assert graph.macs() == 4 * 6 * 5 * 6 * 4  # phases, rows, columns, channels, taps
    assert "TRANSPOSE_CONV" in kinds(graph_of(randomised(nn.ConvTranspose2d(6, 6, 4, (2, 1), 1, groups=6)), image(1, 6, 5, 4)))


def test_flat_convolution_is_one_operator_between_views() -> None:
    graph = graph_of(randomised(nn.Conv1d(6, 4, 3)), image(1, 6, 13))
    assert [kind for kind in kinds(graph) if kind not in ("RESHAPE", "TRANSPOSE")] == ["CONV_2D"]


@pytest.mark.parametrize(
    ("module", "shapes", "words"),
    [
        (Function(F.conv2d), [SHAPE, (4, 6, 3, 3)], "its weight is computed at run time.*parameter or buffer"),
        (nn.Conv3d(2, 3, 3), [(1, 2, 5, 5, 5)], "three dimensions"),
        (nn.ConvTranspose3d(2, 3, 3), [(1, 2, 5, 5, 5)], "volumes.*for maps"),
        (nn.MaxPool3d(2), [(1, 2, 4, 4, 4)], "volumes"),
        (Function(lambda x: F.grid_sample(x, torch.zeros(2, 4, 4, 2), align_corners=False)), [SHAPE], "positions"),
    ],
)
def test_refusals(module: nn.Module, shapes: list[tuple[int, ...]], words: str) -> None:
    with pytest.raises(UnsupportedOperator, match=words):
        graph_of(module.eval(), tuple(image(*shape) for shape in shapes))
