"""torch against LiteRT, on XNNPACK and on the built-in kernels: every operator and every block, borders included."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from torch_reference import (
    TOLERANCE,
    ChannelShuffleByHand,
    Function,
    InvertedResidual,
    MixedKernels,
    RepVGG,
    SqueezeExcite,
    SqueezeExciteLinear,
    SuperResolution,
    conv_bn,
    difference,
    image,
    randomised,
)


def _head(channels: int) -> list[nn.Module]:
    return [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Dropout(), nn.Linear(channels, 10)]


NETWORKS = {
    "mobilenet v2": (
        nn.Sequential(conv_bn(3, 16, 3, 2), InvertedResidual(16, 16), InvertedResidual(16, 24, 2), *_head(24)),
        3,
        32,
        32,
    ),
    "se hard-swish": (
        nn.Sequential(conv_bn(3, 16, 3, 2, act=nn.Hardswish), SqueezeExcite(16), conv_bn(16, 8, 5, 2, act=nn.SiLU)),
        3,
        31,
        30,
    ),
    "se linear": (nn.Sequential(conv_bn(3, 16, 3, 2, act=nn.Hardswish), SqueezeExciteLinear(16)), 3, 15, 15),
    "repvgg": (nn.Sequential(RepVGG(8), RepVGG(8)), 8, 9, 9),
    "mixed kernels": (MixedKernels((4, 4, 4)), 12, 9, 9),
    "uneven mixed kernels": (MixedKernels((6, 4, 2)), 12, 9, 9),
    "grouped": (conv_bn(12, 24, 3, 2, 3), 12, 9, 8),
    "dilated": (nn.Sequential(nn.Conv2d(12, 6, 3, padding=2, dilation=2), nn.Conv2d(6, 6, 3, 2, 2, 2, groups=6)), 12, 13, 12),
    "channel multiplier": (conv_bn(12, 36, 5, 2, 12), 12, 9, 8),
    "stride 2 even": (conv_bn(12, 24, 3, 2), 12, 8, 8),
    "stride 2 odd": (conv_bn(12, 24, 3, 2, 12), 12, 9, 9),
    "1xk": (nn.Sequential(nn.Conv2d(12, 4, (1, 7), padding=(0, 3)), nn.Conv2d(4, 4, (3, 1), padding="same")), 12, 9, 9),
    "even same": (nn.Conv2d(12, 4, (2, 4), padding="same", dilation=(1, 2)), 12, 9, 9),
    "zero pad": (nn.Sequential(nn.ZeroPad2d((0, 1, 0, 1)), nn.Conv2d(12, 4, 3, 2)), 12, 8, 8),
    "transposed 2x2": (nn.Sequential(nn.ConvTranspose2d(12, 5, 2, 2), nn.BatchNorm2d(5), nn.ReLU()), 12, 5, 6),
    "transposed 3x3": (nn.Sequential(nn.ConvTranspose2d(12, 5, 3, 2, 1, 1, bias=False), nn.BatchNorm2d(5), nn.ReLU6()), 12, 5, 6),
    "transposed 4x4": (nn.ConvTranspose2d(12, 5, 4, 2, 1), 12, 5, 6),
    "transposed 5x5 stride 3": (nn.ConvTranspose2d(12, 5, 5, 3, 1, 2), 12, 5, 6),
    "transposed output padding": (nn.ConvTranspose2d(12, 5, 2, 3, 0, 2), 12, 5, 6),
    "transposed stride 1": (nn.ConvTranspose2d(12, 5, 3, 1, 1), 12, 5, 6),
    "pixel shuffle": (nn.PixelShuffle(2), 12, 5, 6),
    "conv pixel shuffle": (nn.Sequential(conv_bn(3, 12, 3), nn.PReLU(12), nn.PixelShuffle(2)), 3, 5, 6),
    "super-resolution x2": (SuperResolution(2), 3, 5, 6),
    "super-resolution x3": (SuperResolution(3), 3, 5, 6),
    "prelu": (nn.Sequential(nn.PReLU(12), nn.PReLU()), 12, 5, 6),
    "shuffle by hand": (nn.Sequential(nn.Conv2d(12, 12, 1, groups=3), ChannelShuffleByHand(3), nn.ReLU()), 12, 5, 6),
    "channel shuffle": (nn.Sequential(nn.Conv2d(12, 12, 1, groups=2), nn.ChannelShuffle(2)), 12, 5, 6),
    "flatten, linear": (
        nn.Sequential(
            nn.Conv2d(3, 8, 3), nn.Flatten(), nn.Dropout(), nn.Linear(96, 7), nn.BatchNorm1d(7), nn.ReLU(), nn.Softmax(1)
        ),
        *(3, 5, 6),
    ),
}


@pytest.mark.parametrize("name", NETWORKS)
def test_network(name: str) -> None:
    network, *shape = NETWORKS[name]
    worst, _ = difference(randomised(network), image(1, *shape))
    assert worst <= TOLERANCE


def _mean(x: Tensor) -> Tensor:
    return x.mean((2, 3))


FUNCTIONS = {
    "interpolate": lambda x: [
        F.interpolate(x, scale_factor=2, mode="bilinear"),
        F.interpolate(x, size=(17, 5), mode="bilinear"),
        F.interpolate(x, size=(17, 5), mode="bilinear", align_corners=True),
        F.interpolate(x, scale_factor=1.3, mode="bilinear", align_corners=True),
        F.interpolate(x, scale_factor=2),
        F.interpolate(x, size=(20, 7)),
        F.interpolate(x, size=(20, 7), mode="nearest-exact"),
    ],
    "max pool": lambda x: [
        F.max_pool2d(x, 3, 2, 1),
        F.max_pool2d(x.relu(), (2, 3), 2, (0, 1)),
        F.max_pool2d(x, 2, 2, ceil_mode=True),
        F.max_pool2d(x, (3, 5), (1, 3), (1, 2), ceil_mode=True),
        F.adaptive_max_pool2d(x, 1),
        F.adaptive_max_pool2d(x, (3, 10)),
    ],
    "average pool": lambda x: [
        F.avg_pool2d(x, 2),
        F.avg_pool2d(x, 3, 2, 1),
        F.avg_pool2d(x, 3, 2, 1, count_include_pad=False),
        F.avg_pool2d(x, 2, 2, ceil_mode=True),
        F.avg_pool2d(x, 3, 2, 1, ceil_mode=True),
        F.avg_pool2d(x, 3, 2, 1, divisor_override=4),
        F.adaptive_avg_pool2d(x, (3, 1)),
    ],
    "reductions": lambda x: [
        *(x.mean(d) for d in (1, 2, 3, -1)),
        x.mean((1, 3), keepdim=True),
        x.mean(),
        x.amax((2, 3), keepdim=True),
        x.sum(1),
        x.max(1)[0],
        x.max(dim=2, keepdim=True).values,
    ],
    "pad": lambda x: [F.pad(x, (1, 2, 3, 4)), F.pad(x, (1, 2, 3, 4, 1, 0), value=2.5), F.pad(_mean(x), (1, 1))],
    "permute": lambda x: [
        x.permute(0, 2, 3, 1),
        x.transpose(2, 3),
        x.flatten(2).transpose(1, 2),
        x.permute(0, 2, 3, 1).reshape(1, -1, 12),
        x.permute(0, 3, 1, 2) + 1,
        x.flatten(1),
        x.reshape(1, 6, 2, 9, 10).sum(2),
        _mean(x).t(),
        x.unsqueeze(1).squeeze(1) * 2,
    ],
    "arithmetic": lambda x: [
        x + x.mean(),
        1 - x,
        2 / (x * x + 1),
        x / 3,
        x / torch.arange(1.0, 11.0),
        -x,
        x + torch.arange(12.0).view(12, 1, 1),
        x * _mean(x)[..., None, None],
        x * x.mean(1),
        _mean(x) + _mean(x).mean(1, keepdim=True),
        torch.maximum(x, x * 0.5) - torch.minimum(x, x.square()),
        torch.add(x, x * 2, alpha=0.5),
        torch.rsub(x, x * 3, alpha=2),
        x + torch.zeros_like(x) + x.new_ones(1),
    ],
    "activations": lambda x: [
        *(
            f(x)
            for f in (F.relu, F.relu6, F.hardtanh, F.hardsigmoid, F.hardswish, F.silu, F.leaky_relu, torch.sigmoid, torch.tanh)
        ),
        x.clamp(-1, 0.5),
        x.clamp(min=0),
        x.clamp(0, 6),
        x.clamp_max(0.5),
        x.softmax(1),
        x.softmax(2),
        x.mean(1).softmax(1),
        _mean(x).softmax(1),
    ],
    "slices": lambda x: [
        x[:, 1:5, 2:],
        x[:, :, ::2, 1::3],
        x[:, 0],
        x[:, :, 1],
        x[0],
        x.unbind(3)[2],
        x[..., -2:],
        x.narrow(1, -3, 2),
        *x.chunk(5, 1)[1:3],
        *x.split(3, 1),
    ],
    "concatenation": lambda x: [
        torch.cat([x, x * 2], -1),
        torch.stack([x.mean(1), x.mean(1)], 1),
        torch.cat([_mean(x), _mean(x)], 1),
        torch.cat([x, torch.ones(1, 1, 9, 10)], 1),
        torch.stack([_mean(x), _mean(x)]),
        x.repeat(1, 2, 1, 2),
        x.mean((2, 3), keepdim=True).expand(1, 12, 4, 5),
        x.mean(1, keepdim=True).expand_as(x) + x,
    ],
}


@pytest.mark.parametrize("name", FUNCTIONS)
def test_operators(name: str) -> None:
    worst, _ = difference(Function(FUNCTIONS[name]).eval(), image(1, 12, 9, 10))
    assert worst <= TOLERANCE


@pytest.mark.parametrize(
    ("kernel", "stride", "padding", "ceil", "include"),
    [(3, 2, 1, True, False), (3, 2, 1, False, True), (2, 2, 0, True, True), (5, 3, 2, True, True)],
)
@pytest.mark.parametrize("size", [8, 9, 11])
def test_pooling_borders(kernel: int, stride: int, padding: int, ceil: bool, include: bool, size: int) -> None:
    pools = nn.MaxPool2d(kernel, stride, padding, ceil_mode=ceil), nn.AvgPool2d(kernel, stride, padding, ceil, include)
    both = Function(lambda x: [pool(x) for pool in pools])
    worst, _ = difference(both.eval(), image(1, 4, size, size + 1))
    assert worst <= TOLERANCE


def test_two_inputs_and_batches() -> None:
    join = Function(lambda a, b: torch.cat([a, F.interpolate(b, scale_factor=2)], 1))
    assert difference(join.eval(), image(1, 3, 6, 6), image(1, 5, 3, 3))[0] <= TOLERANCE
    flat = nn.Sequential(nn.Conv2d(3, 8, 3), nn.Flatten(), nn.Linear(96, 7))
    assert difference(randomised(flat), image(2, 3, 5, 6))[0] <= TOLERANCE
    tokens = nn.Sequential(nn.Linear(12, 7), nn.ReLU(), nn.Linear(7, 3))
    assert difference(randomised(tokens), image(2, 5, 12))[0] <= TOLERANCE


def test_linear_on_channels_last_needs_no_transposes() -> None:
    class OnChannels(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.linear = nn.Linear(6, 4)

        def forward(self, x: Tensor) -> Tensor:
            return self.linear(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)

    worst, graph = difference(randomised(OnChannels()), image(1, 6, 3, 5))
    assert worst <= TOLERANCE
    assert [op.kind for op in graph.ops] == ["CONV_2D"]


KINDS = ["conv", "depthwise", "grouped", "transposed", "max", "average", "repvgg", "inverted", "squeeze", "shuffle"]


@st.composite
def _networks(draw: st.DrawFn) -> tuple[nn.Module, Tensor]:
    channels = draw(st.integers(1, 6))
    height, width = draw(st.integers(4, 12)), draw(st.integers(4, 12))
    x = image(1, channels, height, width, seed=draw(st.integers(0, 1000)))
    layers: list[nn.Module] = []
    for _ in range(draw(st.integers(1, 4))):
        kind = draw(st.sampled_from(KINDS))
        kernel = (draw(st.integers(1, min(height, 5))), draw(st.integers(1, min(width, 5))))
        stride = (draw(st.integers(1, 3)), draw(st.integers(1, 3)))
        if kind in ("conv", "depthwise", "grouped"):
            groups = {"conv": 1, "depthwise": channels, "grouped": 2 if channels % 2 == 0 else 1}[kind]
            outputs = groups * draw(st.integers(1, 3))
            dilation = draw(st.integers(1, 2))
            padding = tuple(draw(st.integers(0, dilation * (k - 1))) for k in kernel)
            if any(n + 2 * p < dilation * (k - 1) + 1 for n, p, k in zip((height, width), padding, kernel, strict=True)):
                padding = tuple(dilation * (k - 1) for k in kernel)
            layers.append(nn.Conv2d(channels, outputs, kernel, stride, padding, dilation, groups, bias=draw(st.booleans())))
            channels = outputs
        elif kind == "transposed":
            outputs = draw(st.integers(1, 4))
            padding = tuple(draw(st.integers(0, (k - 1) // 2)) for k in kernel)
            extra = tuple(draw(st.integers(0, s - 1)) for s in stride)
            layers.append(nn.ConvTranspose2d(channels, outputs, kernel, stride, padding, extra))
            channels = outputs
        elif kind == "repvgg":
            layers.append(RepVGG(channels))
        elif kind == "inverted":
            layers.append(InvertedResidual(channels, channels, stride[0], 2, draw(st.sampled_from([3, 5, 7]))))
        elif kind == "squeeze" and channels % 4 == 0:
            layers.append(SqueezeExcite(channels))
        elif kind == "shuffle" and channels % 4 == 0:
            layers.append(nn.PixelShuffle(2))
            channels //= 4
        else:
            padding = tuple(draw(st.integers(0, k // 2)) for k in kernel)
            ceil = draw(st.booleans())
            average = nn.AvgPool2d(kernel, stride, padding, ceil, draw(st.booleans()))
            layers.append(average if kind == "average" else nn.MaxPool2d(kernel, stride, padding, ceil_mode=ceil))
        if draw(st.booleans()):
            layers.append(nn.BatchNorm2d(channels))
        activation = draw(st.sampled_from([None, nn.ReLU, nn.ReLU6, nn.Hardswish, nn.SiLU, nn.Hardsigmoid, nn.PReLU]))
        layers += [activation()] if activation else []
        with torch.no_grad():
            height, width = nn.Sequential(*layers).eval()(x).shape[2:]
    if draw(st.booleans()):
        layers += [nn.Flatten(), nn.Linear(channels * height * width, 3)]
    return randomised(nn.Sequential(*layers), seed=draw(st.integers(0, 1000))), x


@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(_networks())
def test_random_networks(case: tuple[nn.Module, Tensor]) -> None:
    network, x = case
    worst, _ = difference(network, x)
    assert worst <= TOLERANCE
