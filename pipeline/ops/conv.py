"""Convolution with BatchNorm, squeeze-and-excitation."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Mapping

from torch import Tensor, nn

from paceline.errors import SpaceError

Activation = Callable[[], nn.Module]

ACTIVATIONS: Mapping[str, Activation] = {"relu": nn.ReLU, "relu6": nn.ReLU6, "hswish": nn.Hardswish, "swish": nn.SiLU}
GATES: Mapping[str, Activation] = {"hsigmoid": nn.Hardsigmoid, "sigmoid": nn.Sigmoid}


def same_shape(c_in: int, c_out: int, stride: int) -> bool:
    """Whether an operation gives back the shape it reads, so that an identity may stand beside it or in its place."""
    return stride == 1 and c_in == c_out


class ConvBNAct(nn.Sequential):
    """Convolution without bias, BatchNorm, activation. Padding keeps H and W at stride 1.

    x (N, c_in, H, W) -> (N, c_out, ceil(H / stride), ceil(W / stride)). `act=None` leaves the result linear, `norm` stands in
    the place of the BatchNorm. Raises SpaceError for an even kernel, which has no centred padding.
    """

    def __init__(
        self,
        c_in: int,
        c_out: int,
        kernel: int = 1,
        stride: int = 1,
        groups: int = 1,
        act: Activation | None = nn.ReLU6,
        norm: nn.Module | None = None,
    ) -> None:
        if kernel % 2 == 0:
            raise SpaceError(f"a kernel of {kernel} has no centred padding; take an odd one")
        layers: OrderedDict[str, nn.Module] = OrderedDict(
            conv=nn.Conv2d(c_in, c_out, kernel, stride, kernel // 2, groups=groups, bias=False),
            bn=nn.BatchNorm2d(c_out) if norm is None else norm,
        )
        if act is not None:
            layers["act"] = act()
        super().__init__(layers)


class SqueezeExcite(nn.Module):
    """Channel attention (Hu et al. 2018): global average, 1x1 convolution to `inner` channels, `act`, 1x1 back, `gate`.

    x (N, channels, H, W) -> the same shape. The default gate is that of MobileNetV3.
    """

    def __init__(self, channels: int, inner: int, act: Activation = nn.ReLU, gate: Activation = nn.Hardsigmoid) -> None:
        super().__init__()
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.reduce = nn.Conv2d(channels, inner, 1)
        self.act = act()
        self.expand = nn.Conv2d(inner, channels, 1)
        self.gate = gate()

    def forward(self, x: Tensor) -> Tensor:
        gate: Tensor = self.gate(self.expand(self.act(self.reduce(self.pool(x)))))
        return x * gate
