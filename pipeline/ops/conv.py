"""Convolution with BatchNorm, squeeze-and-excitation, skip."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable

from torch import Tensor, nn

from paceline.errors import SpaceError

Activation = Callable[[], nn.Module]


def same_shape(c_in: int, c_out: int, stride: int) -> bool:
    """Whether an operation gives back the shape it reads, so that an identity may stand beside it or in its place."""
    return stride == 1 and c_in == c_out


def multiple_of_8(channels: float) -> int:
    """The nearest multiple of 8, at least 8, and never more than 10 % below `channels` (the MobileNet rule)."""
    nearest = max(8, int(channels + 4) // 8 * 8)
    return nearest if nearest >= 0.9 * channels else nearest + 8


class ConvBNAct(nn.Sequential):
    """Convolution without bias, BatchNorm, activation. Padding keeps H and W at stride 1.

    x (N, c_in, H, W) -> (N, c_out, ceil(H / stride), ceil(W / stride)). `act=None` leaves the result linear.
    Raises SpaceError for an even kernel, which has no centred padding.
    """

    def __init__(
        self, c_in: int, c_out: int, kernel: int = 1, stride: int = 1, groups: int = 1, act: Activation | None = nn.ReLU6
    ) -> None:
        if kernel % 2 == 0:
            raise SpaceError(f"a kernel of {kernel} has no centred padding; take an odd one")
        layers: OrderedDict[str, nn.Module] = OrderedDict(
            conv=nn.Conv2d(c_in, c_out, kernel, stride, kernel // 2, groups=groups, bias=False), bn=nn.BatchNorm2d(c_out)
        )
        if act is not None:
            layers["act"] = act()
        super().__init__(layers)


class SqueezeExcite(nn.Module):
    """Channel attention with a hard-sigmoid gate (Hu et al. 2018; the gate of MobileNetV3).

    x (N, channels, H, W) -> the same shape. The inner width is channels / 4, rounded to a multiple of 8.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        inner = multiple_of_8(channels / 4)
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.reduce = nn.Conv2d(channels, inner, 1)
        self.act = nn.ReLU()
        self.expand = nn.Conv2d(inner, channels, 1)
        self.gate = nn.Hardsigmoid()

    def forward(self, x: Tensor) -> Tensor:
        gate: Tensor = self.gate(self.expand(self.act(self.reduce(self.pool(x)))))
        return x * gate


class Skip(nn.Module):
    """Identity. Raises SpaceError where it is not legal: stride above 1 or a change of width."""

    def __init__(self, c_in: int, c_out: int, stride: int) -> None:
        super().__init__()
        if not same_shape(c_in, c_out, stride):
            raise SpaceError(f"skip can't go from {c_in} to {c_out} channels with stride {stride}; it needs equal shapes")

    def forward(self, x: Tensor) -> Tensor:
        return x
