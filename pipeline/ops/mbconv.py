"""Inverted residual."""

from __future__ import annotations

from collections import OrderedDict

from torch import Tensor, nn

from paceline.pipeline.ops.conv import Activation, ConvBNAct, SqueezeExcite, same_shape


class MBConv(nn.Module):
    """Inverted residual with a linear bottleneck (MobileNetV2, section 3): 1x1 expand, depthwise, [squeeze-excite], 1x1 project.

    x (N, c_in, H, W) -> (N, c_out, ceil(H / stride), ceil(W / stride)); x is added where shapes agree. With expansion 1 there
    is no expanding convolution. Squeeze-excite stands behind the depthwise activation (MobileNetV3).
    """

    def __init__(
        self,
        c_in: int,
        c_out: int,
        kernel: int = 3,
        stride: int = 1,
        expansion: float = 6,
        squeeze: bool = False,
        act: Activation = nn.ReLU6,
    ) -> None:
        super().__init__()
        hidden = round(c_in * expansion)
        layers: OrderedDict[str, nn.Module] = OrderedDict()
        if hidden != c_in:
            layers["expand"] = ConvBNAct(c_in, hidden, act=act)
        layers["depthwise"] = ConvBNAct(hidden, hidden, kernel, stride, groups=hidden, act=act)
        if squeeze:
            layers["squeeze"] = SqueezeExcite(hidden)
        layers["project"] = ConvBNAct(hidden, c_out, act=None)
        self.body = nn.Sequential(layers)
        self.residual = same_shape(c_in, c_out, stride)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.body(x)
        return x + y if self.residual else y
