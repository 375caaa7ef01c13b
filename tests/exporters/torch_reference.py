"""What the exporter tests share: random BatchNorm statistics, blocks, and the worst difference between torch and LiteRT."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from paceline.exporters import tflite
from paceline.exporters.run_tflite import run
from paceline.exporters.torch_graph import graph_of
from paceline.graph import Graph

TOLERANCE = 1e-5


def randomised(module: nn.Module, seed: int = 0) -> nn.Module:
    """`module` in eval mode with all weights, statistics and affine parameters drawn anew."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in module.parameters():
            fan_in = max(parameter[0].numel(), 1) if parameter.ndim > 1 else 1
            parameter.normal_(0, fan_in**-0.5, generator=generator)
        for part in module.modules():
            if isinstance(part, _BatchNorm):
                part.running_mean.normal_(0, 0.5, generator=generator)
                part.running_var.uniform_(0.3, 2, generator=generator)
    return module.eval()


def image(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


class Function(nn.Module):
    def __init__(self, function: Callable[..., Any]) -> None:
        super().__init__()
        self.function = function

    def forward(self, *inputs: Tensor) -> Any:
        return self.function(*inputs)


def difference(module: nn.Module, *inputs: Tensor) -> tuple[float, Graph]:
    """The worst difference over outputs and both kinds of kernels, relative to the output's range; and the graph.

    Float rounding grows with magnitude, so an output that hardly varies counts as if its range were a tenth of its magnitude.
    """
    graph = graph_of(module, inputs)
    model = tflite.write(graph)
    with torch.no_grad():
        result = module(*(x.clone() for x in inputs))
    expected = [t.numpy() for t in ([result] if isinstance(result, Tensor) else result)]
    arrays = [(x.permute(0, 2, 3, 1) if x.ndim == 4 else x).numpy() for x in inputs]
    worst = 0.0
    for kernels in ("xnnpack", "builtin"):
        for a, b in zip(expected, run(model, arrays, kernels), strict=True):
            b = b.transpose(0, 3, 1, 2) if b.ndim == 4 else b
            assert a.shape == b.shape
            assert np.isfinite(b).all()
            scale = max(float(a.max() - a.min()), float(abs(a).max()) / 10) or 1.0
            worst = max(worst, float(abs(a - b).max()) / scale)
    return worst, graph


def kinds(graph: Graph) -> list[str]:
    """The operators in order, with their fused activation: CONV_2D+RELU6."""
    fused = [str(op.attr("activation", "NONE")) for op in graph.ops]
    return [op.kind if a == "NONE" else f"{op.kind}+{a}" for op, a in zip(graph.ops, fused, strict=True)]


def conv_bn(
    inputs: int, outputs: int, kernel: int, stride: int = 1, groups: int = 1, act: Callable[[], nn.Module] | None = nn.ReLU6
) -> nn.Sequential:
    conv = nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, groups=groups, bias=False)
    return nn.Sequential(conv, nn.BatchNorm2d(outputs), *([act()] if act else []))


class InvertedResidual(nn.Module):
    """MobileNetV2's block."""

    def __init__(self, inputs: int, outputs: int, stride: int = 1, expansion: int = 6, kernel: int = 3) -> None:
        super().__init__()
        hidden = inputs * expansion
        self.expand = conv_bn(inputs, hidden, 1)
        self.depthwise = conv_bn(hidden, hidden, kernel, stride, hidden)
        self.project = conv_bn(hidden, outputs, 1, act=None)
        self.residual = stride == 1 and inputs == outputs

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.project(self.depthwise(self.expand(x)))
        return x + y if self.residual else y


class SqueezeExcite(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.reduce, self.expand = nn.Conv2d(channels, channels // 4, 1), nn.Conv2d(channels // 4, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        pooled = nn.functional.adaptive_avg_pool2d(x, 1)
        return x * nn.functional.hardsigmoid(self.expand(nn.functional.relu(self.reduce(pooled))))


class SqueezeExciteLinear(nn.Module):
    """As in the SENet paper's code: linear layers, view and expand_as."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.reduce, self.expand = nn.Linear(channels, channels // 4), nn.Linear(channels // 4, channels)

    def forward(self, x: Tensor) -> Tensor:
        n, c, _, _ = x.shape
        y = nn.functional.adaptive_avg_pool2d(x, 1).view(n, c)
        y = torch.sigmoid(self.expand(torch.relu(self.reduce(y)))).view(n, c, 1, 1)
        return x * y.expand_as(x)


class RepVGG(nn.Module):
    """The training-time block: 3x3, 1x1 and identity branches, each with a BatchNorm."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.dense = conv_bn(channels, channels, 3, act=None)
        self.point = conv_bn(channels, channels, 1, act=None)
        self.skip = nn.BatchNorm2d(channels)

    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(self.dense(x) + self.point(x) + self.skip(x))


class MixedKernels(nn.Module):
    def __init__(self, sizes: tuple[int, ...]) -> None:
        super().__init__()
        self.sizes = sizes
        self.convs = nn.ModuleList(nn.Conv2d(n, n, k, padding=k // 2, groups=n) for n, k in zip(sizes, (3, 5, 7), strict=False))

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([conv(part) for conv, part in zip(self.convs, x.split(self.sizes, 1), strict=True)], 1)


class ChannelShuffleByHand(nn.Module):
    """ShuffleNet's view, transpose, view."""

    def __init__(self, groups: int) -> None:
        super().__init__()
        self.groups = groups

    def forward(self, x: Tensor) -> Tensor:
        n, c, h, w = x.shape
        return x.view(n, self.groups, c // self.groups, h, w).transpose(1, 2).contiguous().view(n, c, h, w)


class SuperResolution(nn.Module):
    """Anchor-based: the repeated input is added before the pixel shuffle."""

    def __init__(self, factor: int) -> None:
        super().__init__()
        self.conv, self.factor = nn.Conv2d(3, 3 * factor**2, 3, padding=1), factor

    def forward(self, x: Tensor) -> Tensor:
        return nn.functional.pixel_shuffle(self.conv(x) + x.repeat_interleave(self.factor**2, dim=1), self.factor)
