"""Every family of operators: torch against LiteRT, on XNNPACK and on the built-in kernels."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn

from torch_reference import TOLERANCE, Function, difference, image, kinds, randomised


def _attend(x: Tensor, **options: Any) -> Tensor:
    q, k, v = x.flatten(2).transpose(1, 2).reshape(1, -1, 3, 2, 2).permute(2, 0, 3, 1, 4).unbind(0)
    return F.scaled_dot_product_attention(q, k, v, **options)


def _written(x: Tensor) -> Tensor:
    y = x + 1
    y[:, :2].mul_(2)
    y[:, :, 3] = 0.5
    y[:, 1:4] = x[:, :3]
    return y + 1


def _constant_written(x: Tensor) -> Tensor:
    table = torch.zeros(10, 10)
    table[2:5, 1] = 3
    return x @ table


MASK = torch.arange(90).reshape(9, 10) % 3 == 0

FUNCTIONS: dict[str, Callable[[Tensor], Any]] = {
    "activations": lambda x: [
        F.gelu(x * 3),
        F.gelu(x * 3, approximate="tanh"),
        F.mish(x * 4),
        F.softplus(x * 4),
        F.softplus(x, beta=2.0),
        F.elu(x),
        F.elu(x, 0.5),
        F.selu(x),
        F.celu(x, 2.0),
        F.logsigmoid(x),
        F.softsign(x),
        F.glu(x, 1),
        F.glu(x, 3),
        F.hardtanh(x, -2, 2),
        F.rrelu(x),
        F.prelu(x, torch.arange(12.0) / 10),
        F.prelu(x.permute(0, 2, 3, 1), torch.arange(9.0) / 10),
    ],
    "elementwise": lambda x: [
        x.exp(),
        x.abs().log(),
        (x.abs() + 0.5).sqrt(),
        (x.abs() + 0.5).rsqrt(),
        x.square(),
        x**3,
        (x.abs() + 1) ** -2,
        (x.abs() + 0.1) ** 0.5,
        (x.abs() + 0.1) ** 1.7,
        2.0**x,
        x.sin() + x.cos(),
        x.floor() + x.ceil(),
        (x.abs() + 1).log2(),
        x.abs().log1p(),
        x.expm1(),
        torch.addcmul(x, x, x, value=0.5),
        torch.addcdiv(x, x, x.abs() + 1),
        torch.lerp(x, x * 2, 0.3),
        torch.div(x * 10, 3, rounding_mode="floor"),
        x.clamp(-1, 1),
    ],
    "masks": lambda x: [
        x.masked_fill(MASK, 2.0),
        x.masked_fill(MASK, -torch.inf).softmax(-1),
        torch.where(MASK, x, 0.0),
        torch.where(MASK, x, x * 2),
        torch.where(MASK, torch.ones(()), x),
    ],
    "reductions": lambda x: [
        x.var(1),
        x.var((2, 3), correction=0, keepdim=True),
        x.std(2),
        *torch.var_mean(x, 3, correction=0),
        x.std(),
        x.prod(2),
        x.amin((1, 2)),
        x.min(2)[0],
        x.norm(dim=1),
        x.norm(p=1, dim=(2, 3), keepdim=True),
        x.norm(p=torch.inf, dim=3),
        F.normalize(x, dim=1),
        x.logsumexp(1),
        x.log_softmax(1),
        x.sum((0, 2)),
        x.reshape(1, 3, 4, 9, 10).mean((2, 4)),
    ],
    "normalisation": lambda x: [
        F.layer_norm(x, x.shape[2:]),
        F.layer_norm(x.permute(0, 2, 3, 1), (12,), torch.arange(12.0), torch.ones(12)),
        F.rms_norm(x.permute(0, 2, 3, 1), (12,), torch.arange(12.0)),
        F.group_norm(x, 1),
        F.group_norm(x, 4, torch.arange(12.0), torch.ones(12)),
        F.instance_norm(x, weight=torch.arange(12.0), bias=torch.ones(12)),
        F.group_norm(x.flatten(2), 3),
    ],
    "products": lambda x: [
        x @ x.transpose(2, 3),
        x.transpose(2, 3) @ x,
        x @ torch.arange(30.0).reshape(10, 3),
        torch.arange(27.0).reshape(3, 9) @ x,
        torch.arange(324.0).reshape(12, 3, 9) @ x / 100,
        x.flatten(2) @ x.flatten(2).transpose(1, 2),
        torch.bmm(x[0], x[0].transpose(1, 2)),
        x[:, :, 0, 0] @ torch.arange(12.0),
        torch.addmm(torch.ones(5), x[0, :, 0], torch.arange(50.0).reshape(10, 5), beta=2, alpha=0.5),
        torch.baddbmm(x[0], x[0], torch.ones(12, 10, 10), alpha=0.1),
        torch.einsum("nchw,ncvw->nhvc", x, x),
        torch.einsum("nchw,cd->ndhw", x, torch.arange(60.0).reshape(12, 5)),
        torch.einsum("nchw,nkhw->nck", x, x),
        x[0, :, 0, 0][:, None] * x[0, 0, 0][None],
    ],
    "attention": lambda x: [
        _attend(x),
        _attend(x, scale=0.3),
        _attend(x, is_causal=True),
        _attend(x, attn_mask=torch.arange(90.0).reshape(1, 90) / 90),
        _attend(x, attn_mask=torch.arange(90)[None] % 3 != 0),
        F.scaled_dot_product_attention(x[:, :4], x[:, 4:6], x[:, 6:8], enable_gqa=True),
    ],
    "indices": lambda x: [
        x[:, [0, 3, 1]],
        x[:, :, torch.tensor([8, 0, 8, 2, 4, 6, 1, 7, 3, 5, 0])],
        x[:, :, [[0, 1], [2, 3]]],
        x[:, torch.tensor([1, 2]), torch.tensor([3, 4])],
        x.index_select(3, torch.tensor([9, 1])),
        x.gather(3, torch.zeros(1, 12, 9, 2, dtype=torch.long) + 3),
        x.flip(1),
        x.flip((2, 3)),
        x.roll((1, -2), (2, 3)),
        x.roll(5),
        x.unfold(2, 3, 2),
        F.unfold(x, 3, padding=1, stride=2),
        F.fold(F.unfold(x, (3, 2), padding=1, dilation=2, stride=2), (9, 10), (3, 2), padding=1, dilation=2, stride=2),
    ],
    "padding": lambda x: [
        F.pad(x, (1, 2, 3, 0), mode="reflect"),
        F.pad(x, (5, 4, 3, 4), mode="reflect"),
        F.pad(x, (1, 2, 3, 0), mode="replicate"),
        F.pad(x, (1, 2, 3, 0), mode="circular"),
        F.pad(x, (-1, 2, 0, -3)),
        F.pad(x, (0, 1), value=1.0),
        F.pad(x.mean(3), (1, 0, 0, 1), value=2.0),
        F.pad(x.reshape(1, 3, 4, 9, 10), (0, 1, 1, 0, 0, 2)),
    ],
    "resizing": lambda x: [
        F.interpolate(x, scale_factor=1.3),
        F.interpolate(x, scale_factor=(0.7, 1.6), mode="nearest-exact"),
        F.interpolate(x, scale_factor=1.3, mode="bilinear"),
        F.interpolate(x, size=(7, 13), mode="bicubic"),
        F.interpolate(x, scale_factor=1.7, mode="bicubic", align_corners=True),
        F.interpolate(x, size=(4, 5), mode="bilinear", antialias=True),
        F.interpolate(x, size=(4, 21), mode="bicubic", antialias=True),
        F.interpolate(x, size=(4, 7), mode="area"),
        F.interpolate(x.mean(3), size=14, mode="linear"),
        F.interpolate(x.mean(3), scale_factor=2),
    ],
    "pooling": lambda x: [
        F.max_pool2d(x, 2, dilation=2),
        F.max_pool2d(x, 3, 2, 1, dilation=(2, 1)),
        F.max_pool2d(x, 1, 2),
        F.avg_pool2d(x, 1, (2, 3)),
        F.adaptive_avg_pool2d(x, 4),
        F.adaptive_avg_pool2d(x, (9, 3)),
        F.adaptive_max_pool2d(x, 4),
        F.avg_pool1d(x.mean(3), 3, 2, 1),
        F.max_pool1d(x.mean(3), 3, 2, 1),
        F.adaptive_avg_pool1d(x.mean(3), 4),
        F.max_pool2d(x[0], 2),
        F.avg_pool2d(x[0], 2),
        F.adaptive_avg_pool2d(x[0], 2),
    ],
    "views": lambda x: [
        x.reshape(1, 3, 4, 9, 10).transpose(1, 2).reshape(1, 12, 9, 10) + x,
        x.reshape(1, 12, 3, 3, 2, 5).permute(0, 2, 4, 3, 5, 1).reshape(6, 15, 12).softmax(-1),
        x.reshape(90, 12) * 2,
        x.permute(0, 2, 3, 1).reshape(9, 120).mean(0),
        x.reshape(8, 135)[3:5],
        x.repeat(2, 1, 3, 1),
        x.repeat_interleave(2, 3),
        x.repeat_interleave(3, 1) - 1,
        x.mean(1, keepdim=True).expand(2, 5, 9, 10).reshape(10, 90),
        x.movedim(1, 3) + 0,
        x.mean((0, 2))[..., None].expand(12, 10, 4).sum((1, 2)),
        F.pixel_unshuffle(x[:, :, :8], 2),
        torch.cat([x.permute(0, 1, 3, 2).reshape(1, 12, 10, 9), x.transpose(2, 3), torch.ones(1, 12, 1, 9)], 2),
        torch.stack([x.mean(3), torch.ones(1, 12, 9)], 2),
        x[..., None].expand(-1, -1, -1, -1, 2).flatten(3),
    ],
    "in place": lambda x: [_written(x), _constant_written(x)],
}


@pytest.mark.parametrize("name", FUNCTIONS)
def test_functions(name: str) -> None:
    worst, graph = difference(Function(FUNCTIONS[name]).eval(), image(1, 12, 9, 10))
    assert worst <= TOLERANCE
    assert max(len(graph.tensors[t].shape) for op in graph.ops for t in op.outputs if t not in graph.outputs) <= 4


MODULES: dict[str, tuple[nn.Module, tuple[int, ...]]] = {
    "conv1d": (nn.Sequential(nn.Conv1d(6, 4, 3, 2, 1), nn.BatchNorm1d(4), nn.ReLU(), nn.Conv1d(4, 4, 3, groups=4)), (1, 6, 15)),
    "conv1d same": (nn.Conv1d(6, 4, 4, padding="same", dilation=2), (2, 6, 15)),
    "conv of three dimensions": (nn.Conv3d(4, 6, (3, 3, 1), padding=(1, 1, 0)), (1, 4, 5, 6, 3)),
    "unbatched": (nn.Conv2d(4, 6, 3), (4, 7, 6)),
    "grouped transposed": (nn.ConvTranspose2d(12, 6, 4, 2, 1, groups=3), (1, 12, 5, 6)),
    "depthwise transposed": (nn.ConvTranspose2d(6, 6, 3, 2, 1, 1, groups=6, bias=False), (1, 6, 5, 6)),
    "dilated transposed": (nn.ConvTranspose2d(4, 6, 3, 2, 1, dilation=2), (1, 4, 5, 6)),
    "transposed 1d": (nn.ConvTranspose1d(4, 6, 4, 2, 1), (1, 4, 5)),
    "batch norm of tokens": (nn.Sequential(nn.Linear(6, 8), nn.LayerNorm(8), nn.Linear(8, 4)), (3, 5, 6)),
    "layer norm of channels last": (nn.LayerNorm((5, 6)), (2, 4, 5, 6)),
    "multi-head attention": (nn.TransformerEncoderLayer(8, 2, 16, batch_first=True, norm_first=True), (2, 5, 8)),
    "shuffle in front": (nn.Sequential(nn.ChannelShuffle(3), nn.ReLU(), nn.BatchNorm2d(12), nn.Conv2d(12, 4, 3)), (1, 12, 5, 6)),
    "unshuffle and convolution": (nn.Sequential(nn.PixelUnshuffle(2), nn.Conv2d(12, 4, 3)), (1, 3, 8, 8)),
    "flattened batch": (nn.Sequential(nn.Conv2d(3, 4, 3), nn.Flatten(2), nn.Linear(12, 5)), (2, 3, 5, 6)),
    "rank 5": (nn.Sequential(nn.Softmax(2), nn.LayerNorm(5)), (1, 2, 3, 4, 5)),
}


@pytest.mark.parametrize("name", MODULES)
def test_modules(name: str) -> None:
    module, shape = MODULES[name]
    assert difference(randomised(module), image(*shape))[0] <= TOLERANCE


def test_results_that_are_inputs_or_constants() -> None:
    table = torch.arange(24.0).reshape(1, 2, 3, 4)
    worst, graph = difference(Function(lambda x: (x, table, x + 1)).eval(), image(1, 3, 4, 5))
    assert worst == 0
    assert kinds(graph) == ["ADD"]
    assert graph.tensors[graph.outputs[1]].shape == (1, 3, 4, 2)


def test_double_precision_and_integer_constants_are_cast() -> None:
    wide = Function(lambda x: x * torch.arange(5) + torch.ones(5, dtype=torch.float64).float() + torch.ones(5).half().float())
    assert difference(wide.eval(), image(2, 5))[0] <= TOLERANCE


def test_reflected_borders_are_slices_that_delegates_take() -> None:
    graph = difference(Function(lambda x: F.pad(x, (1, 1, 1, 1), mode="reflect")).eval(), image(1, 3, 6, 6))[1]
    assert set(kinds(graph)) == {"SLICE", "CONCATENATION"}


def test_every_other_pixel_is_a_convolution() -> None:
    graph = difference(Function(lambda x: x[:, :, ::2, ::2]).eval(), image(1, 3, 7, 6))[1]
    assert kinds(graph) == ["DEPTHWISE_CONV_2D"]
