"""Inverted residual."""

from __future__ import annotations

from collections import OrderedDict

from torch import Tensor, nn

from paceline.pipeline.ops.conv import Activation, ConvBNAct, same_shape


def hidden_width(c_in: int, expansion: float) -> int:
    """The channels between the expanding and the projecting convolution of an inverted residual."""
    return round(c_in * expansion)


class MBConv(nn.Module):
    """Inverted residual with a linear bottleneck (MobileNetV2, section 3): 1x1 expand, depthwise, [squeeze-excite], 1x1 project.

    x (N, c_in, H, W) -> (N, c_out, ceil(H / stride), ceil(W / stride)); x is added where shapes agree, unless `shortcut` is
    False. With expansion 1 there is no expanding convolution. `squeeze` stands behind the depthwise activation (MobileNetV3).
    `depthwise` stands in the place of the one depthwise convolution (MixPath: a choice of several), `norm` in that of the last
    BatchNorm.
    """

    def __init__(
        self,
        c_in: int,
        c_out: int,
        kernel: int = 3,
        stride: int = 1,
        expansion: float = 6,
        squeeze: nn.Module | None = None,
        act: Activation = nn.ReLU6,
        *,
        shortcut: bool = True,
        depthwise: nn.Module | None = None,
        norm: nn.Module | None = None,
    ) -> None:
        super().__init__()
        hidden = hidden_width(c_in, expansion)
        layers: OrderedDict[str, nn.Module] = OrderedDict()
        if hidden != c_in:
            layers["expand"] = ConvBNAct(c_in, hidden, act=act)
        layers["depthwise"] = depthwise or ConvBNAct(hidden, hidden, kernel, stride, groups=hidden, act=act)
        if squeeze is not None:
            layers["squeeze"] = squeeze
        layers["project"] = ConvBNAct(hidden, c_out, act=None, norm=norm)
        self.body = nn.Sequential(layers)
        self.residual = shortcut and same_shape(c_in, c_out, stride)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.body(x)
        return x + y if self.residual else y
