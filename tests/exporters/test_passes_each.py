"""What each pass does to the operators; that the results stay the same is tested with all of them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn

from paceline.exporters.passes import PASSES
from paceline.exporters.torch_graph import graph_of, lowered

from torch_reference import TOLERANCE, Function, conv_bn, difference, image, kinds, randomised


def _kinds(module: nn.Module | Callable[..., Any], *shape: int) -> list[str]:
    """The operators of the network, whose results are checked on the way."""
    network = module if isinstance(module, nn.Module) else Function(module)
    worst, graph = difference(randomised(network), image(*shape))
    assert worst <= TOLERANCE
    return kinds(graph)


HARD_SWISHES: list[Callable[[Tensor], Tensor]] = [
    lambda x: x * F.relu6(x + 3) / 6,
    lambda x: x * (F.relu6(x + 3) / 6),
    lambda x: x / 6 * F.relu6(x + 3),
    lambda x: F.relu6(3 + x) * x * (1 / 6),
    lambda x: x * (x + 3).clamp(0, 6) / 6,
    lambda x: F.hardsigmoid(x) * x,
]


@pytest.mark.parametrize("function", HARD_SWISHES)
def test_hard_swish_by_hand_is_one_operator(function: Callable[[Tensor], Tensor]) -> None:
    assert _kinds(lambda x: function(x.tanh() * 5), 1, 4, 5, 6)[-1] == "HARD_SWISH"


@pytest.mark.parametrize(
    "function",
    [
        lambda x: x * F.relu6(x + 2) / 6,
        lambda x: x * F.relu6(x + 3) / 5,
        lambda x: x.tanh() * F.relu6(x + 3) / 6,
        lambda x: x * F.relu(x + 3) / 6,
        lambda x: x.mean(1, keepdim=True) * F.relu6(x + 3) / 6,
    ],
)
def test_what_only_resembles_hard_swish_is_left_alone(function: Callable[[Tensor], Tensor]) -> None:
    assert "HARD_SWISH" not in _kinds(function, 1, 4, 5, 6)


def test_equal_expressions_are_computed_once() -> None:
    assert _kinds(lambda x: x.tanh().exp() * 2 + (x.tanh().exp() * 2).mean(), 1, 3, 4, 5) == ["TANH", "EXP", "MUL", "MEAN", "ADD"]


def test_equal_constants_are_stored_once_but_each_convolution_has_its_bias() -> None:
    class Two(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.one, self.two = nn.Conv2d(3, 8, 3, bias=False), nn.Conv2d(3, 8, 3, bias=False)
            self.two.load_state_dict(self.one.state_dict())

        def forward(self, x: Tensor) -> Tensor:
            return self.one(x) + self.two(x + 1)

    assert sorted(graph_of(Two().eval(), image(1, 3, 5, 5)).weights) == ["one.bias", "one.weight", "two.bias"]


def test_constants_in_a_row_are_one() -> None:
    assert _kinds(lambda x: (x + 1 - 3 + torch.arange(5)) * 2 * 3, 2, 5) == ["ADD", "MUL"]
    assert _kinds(lambda x: 1 - (2 - x), 2, 5) == ["SUB", "SUB"]


def test_arithmetic_goes_into_the_convolution_behind() -> None:
    def norm_first(x: Tensor) -> Tensor:
        return F.layer_norm(x.permute(0, 2, 3, 1), (6,), torch.arange(6.0), torch.ones(6)).permute(0, 3, 1, 2)

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(6, 4, 1)

        def forward(self, x: Tensor) -> Tensor:
            return self.conv(norm_first(x))

    assert _kinds(Net(), 1, 6, 4, 5)[-3:] == ["RSQRT", "MUL", "CONV_2D"]
    valid = nn.Sequential(nn.BatchNorm2d(6), nn.Conv2d(6, 4, 3), nn.BatchNorm2d(4), nn.Conv2d(4, 4, 3, groups=4))
    assert _kinds(valid, 1, 6, 7, 7) == ["CONV_2D", "DEPTHWISE_CONV_2D"]


def test_an_offset_stays_in_front_of_a_padded_convolution() -> None:
    padded = nn.Sequential(nn.BatchNorm2d(6), nn.Conv2d(6, 4, 3, padding=1))
    assert _kinds(padded, 1, 6, 7, 7) == ["MUL", "ADD", "CONV_2D"]


def test_attention_scale_is_in_the_projection_and_heads_are_moved_once() -> None:
    class Attention(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.qkv, self.proj = nn.Linear(8, 24), nn.Linear(8, 8)

        def forward(self, x: Tensor) -> Tensor:
            b, n, c = x.shape
            q, k, v = self.qkv(x).reshape(b, n, 3, 2, 4).permute(2, 0, 3, 1, 4).unbind(0)
            return self.proj(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(b, n, c))

    found = _kinds(Attention(), 2, 6, 8)
    core = ["SPLIT", "BATCH_MATMUL", "SOFTMAX", "BATCH_MATMUL", "TRANSPOSE", "RESHAPE", "FULLY_CONNECTED"]
    assert found == ["FULLY_CONNECTED", "RESHAPE", "TRANSPOSE", *core]


def test_a_scale_that_others_see_stays() -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.linear = nn.Linear(6, 6)

        def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
            y = self.linear(x)
            return y[:, :4] * 2, y[:, 3:].tanh()

    assert "MUL" in _kinds(Net(), 2, 6)


def test_shuffles_vanish_in_weights_before_or_behind() -> None:
    before = nn.Sequential(conv_bn(3, 12, 3), nn.Conv2d(12, 12, 3, padding=1, groups=12), nn.ChannelShuffle(3), nn.MaxPool2d(2))
    assert _kinds(before, 1, 3, 8, 8) == ["CONV_2D+RELU6", "DEPTHWISE_CONV_2D", "MAX_POOL_2D"]
    behind = nn.Sequential(nn.ChannelShuffle(3), nn.Conv2d(12, 12, 3, padding=1, groups=12), nn.PReLU(12), nn.Conv2d(12, 4, 3))
    assert _kinds(behind, 1, 12, 8, 8) == ["DEPTHWISE_CONV_2D", "PRELU", "CONV_2D"]
    grouped = nn.Sequential(nn.Conv2d(12, 12, 1, groups=3), nn.ChannelShuffle(3), nn.Conv2d(12, 12, 1, groups=3))
    assert _kinds(grouped, 1, 12, 5, 5) == ["CONV_2D", "RESHAPE", "TRANSPOSE", "RESHAPE", "CONV_2D"]


def test_block_of_convnext_is_free_of_transposes() -> None:
    class Block(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.spatial, self.norm = nn.Conv2d(6, 6, 7, padding=3, groups=6), nn.LayerNorm(6)
            self.grow, self.shrink, self.scale = nn.Linear(6, 24), nn.Linear(24, 6), nn.Parameter(torch.ones(6))

        def forward(self, x: Tensor) -> Tensor:
            y = self.norm(self.spatial(x).permute(0, 2, 3, 1))
            return x + (self.shrink(F.gelu(self.grow(y))) * self.scale).permute(0, 3, 1, 2)

    norm = ["MEAN", "SUB", "SQUARE", "MEAN", "ADD", "RSQRT", "MUL"]
    assert _kinds(Block(), 1, 6, 8, 8) == ["DEPTHWISE_CONV_2D", *norm, "CONV_2D", "GELU", "CONV_2D", "ADD"]


def test_names_of_passes_that_changed_something() -> None:
    net = conv_bn(3, 4, 3, act=nn.ReLU).eval()
    assert lowered(net, image(1, 3, 6, 6)).passes == ("fold-arithmetic", "fuse-activations", "merge-pads")
    assert lowered(nn.Tanh().eval(), image(1, 3)).passes == ()
    assert len({step.name for step in PASSES}) == len(PASSES)
    assert all(step.exact for step in PASSES)


def test_constant_operands_are_folded() -> None:
    graph = graph_of(Function(lambda x: torch.arange(24.0).reshape(2, 3, 4) @ x).eval(), image(2, 4, 5))
    assert kinds(graph) == ["BATCH_MATMUL"]
    assert np.array_equal(next(iter(graph.weights.values())).reshape(-1), np.arange(24.0))
