"""Attention: scaled dot products with masks and shared heads, and torch's own layers that are made of them."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn

from paceline.exporters.torch_graph import UnsupportedOperator, graph_of

from torch_reference import TOLERANCE, Function, difference, image, kinds, randomised

Attention = Callable[[Tensor, Tensor, Tensor], Tensor]
BIAS, ALLOWED = image(6, 5, seed=7), image(6, 5, seed=7) > -0.5


def qkv(*lead: int, heads: int = 2) -> tuple[Tensor, Tensor, Tensor]:
    """Queries of 6 tokens, keys and values of 5."""
    return image(*lead, heads, 6, 8), image(*lead, 2, 5, 8, seed=1), image(*lead, 2, 5, 8, seed=2)


def attention(mask: Tensor | None = None, causal: bool = False, scale: float | None = None) -> Attention:
    return lambda q, k, v: F.scaled_dot_product_attention(q, k, v, mask, is_causal=causal, scale=scale)


@pytest.mark.parametrize(
    "function",
    [attention(), attention(scale=0.3), attention(BIAS), attention(ALLOWED), attention(BIAS[None]), attention(causal=True)],
    ids=["plain", "scale", "bias", "boolean mask", "bias of rank 3", "causal"],
)
def test_options(function: Attention) -> None:
    worst, graph = difference(Function(function).eval(), *qkv())
    assert worst <= TOLERANCE
    assert kinds(graph).count("BATCH_MATMUL") == 2
    assert "TRANSPOSE" not in kinds(graph)


def test_keys_are_read_transposed_and_the_query_is_scaled() -> None:
    graph = graph_of(Function(attention()).eval(), qkv())
    assert kinds(graph) == ["MUL", "BATCH_MATMUL", "SOFTMAX", "BATCH_MATMUL"]
    assert [(op.attr("adj_x"), op.attr("adj_y")) for op in graph.ops if op.kind == "BATCH_MATMUL"] == [
        (False, True),
        (False, False),
    ]


@pytest.mark.parametrize("lead", [(1,), (2,), (2, 3)])
def test_batches(lead: tuple[int, ...]) -> None:
    assert difference(Function(attention(BIAS)).eval(), *qkv(*lead))[0] <= TOLERANCE


def test_mask_computed_at_run_time() -> None:
    masked = Function(lambda q, k, v, mask: F.scaled_dot_product_attention(q, k, v, mask))
    assert difference(masked.eval(), *qkv(1), BIAS)[0] <= TOLERANCE


def test_heads_that_share_keys() -> None:
    grouped = Function(lambda q, k, v: F.scaled_dot_product_attention(q, k, v, enable_gqa=True))
    assert difference(grouped.eval(), *qkv(1, heads=4))[0] <= TOLERANCE


def test_constant_queries_or_keys() -> None:
    q, k, v = qkv(1)
    assert difference(Function(lambda q: F.scaled_dot_product_attention(q, k, v)).eval(), q)[0] <= TOLERANCE
    assert difference(Function(lambda k: F.scaled_dot_product_attention(q, k, k * 2)).eval(), k)[0] <= TOLERANCE


def test_dropout_in_attention_is_refused() -> None:
    dropping = Function(lambda q, k, v: F.scaled_dot_product_attention(q, k, v, dropout_p=0.5))
    with pytest.raises(UnsupportedOperator, match="random"):
        graph_of(dropping.eval(), qkv(1))


class SelfAttention(nn.Module):
    """nn.MultiheadAttention of a sequence with itself, and the mean attention of its heads."""

    def __init__(self, batch_first: bool) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(16, 4, batch_first=batch_first)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return self.attention(x, x, x)  # type: ignore[no-any-return]


@pytest.mark.parametrize("batch_first", [True, False])
def test_multihead_attention(batch_first: bool) -> None:
    assert difference(randomised(SelfAttention(batch_first)), image(2, 6, 16))[0] <= TOLERANCE


def test_transformer_layers() -> None:
    encoder = nn.TransformerEncoderLayer(16, 4, 32, batch_first=True)
    assert difference(randomised(encoder), image(2, 6, 16))[0] <= TOLERANCE
    decoder = nn.TransformerDecoderLayer(16, 4, 32, batch_first=True)
    assert difference(randomised(decoder), image(2, 6, 16), image(2, 5, 16, seed=1))[0] <= TOLERANCE


class MapAttention(nn.Module):
    """Attention between the pixels of a map, as hybrid networks write it: one 1x1 convolution makes queries, keys and values."""

    def __init__(self, channels: int, heads: int) -> None:
        super().__init__()
        self.qkv, self.project, self.heads = nn.Conv2d(channels, 3 * channels, 1), nn.Conv2d(channels, channels, 1), heads

    def forward(self, x: Tensor) -> Tensor:
        n, c, h, w = x.shape
        q, k, v = self.qkv(x).reshape(n, 3, self.heads, c // self.heads, h * w).unbind(1)
        scores = (q.transpose(-2, -1) @ k * (c // self.heads) ** -0.5).softmax(-1)
        return x + self.project((v @ scores.transpose(-2, -1)).reshape(n, c, h, w))  # type: ignore[no-any-return]


def test_attention_between_pixels() -> None:
    worst, graph = difference(randomised(MapAttention(16, 2)), image(1, 16, 4, 5))
    assert worst <= TOLERANCE
    assert max(len(spec.shape) for spec in graph.tensors.values()) == 4
    # the heads lie between the pixels: queries, keys and values are moved once, and the result once
    assert kinds(graph).count("TRANSPOSE") <= 4


def test_autocast_that_is_switched_off() -> None:
    def precise(x: Tensor) -> Tensor:
        with torch.amp.autocast("cpu", enabled=False), torch.no_grad():
            y = x.float() @ x.float().transpose(-1, -2)
        return y.relu()

    worst, graph = difference(Function(precise).eval(), image(2, 5, 7))
    assert worst <= TOLERANCE
    assert kinds(graph) == ["BATCH_MATMUL", "RELU"]


def test_autocast_to_less_than_float32_is_refused() -> None:
    def rough(x: Tensor) -> Tensor:
        with torch.amp.autocast("cpu", dtype=torch.bfloat16):
            return (x @ x.transpose(-1, -2)).float()

    with pytest.raises(UnsupportedOperator, match=r"bfloat16.*float32"):
        graph_of(Function(rough).eval(), image(2, 5, 7))
