"""A convolution that trains with more branches than it ships."""

from __future__ import annotations

from torch import Tensor, nn

from paceline.pipeline.ops.conv import ConvBNAct, same_shape


class RepConv(nn.Module):
    """The training-time form of a RepVGG block (Ding et al. 2021, section 3): 3x3, 1x1 and identity, then ReLU.

    x (N, c_in, H, W) -> (N, c_out, ceil(H / stride), ceil(W / stride)); each branch has its BatchNorm, the identity exists
    where shapes agree. `paceline.exporters.merge.merged` makes one 3x3 convolution of it.
    """

    def __init__(self, c_in: int, c_out: int, stride: int = 1) -> None:
        super().__init__()
        self.dense = ConvBNAct(c_in, c_out, 3, stride, act=None)
        self.point = ConvBNAct(c_in, c_out, 1, stride, act=None)
        self.identity = nn.BatchNorm2d(c_in) if same_shape(c_in, c_out, stride) else None
        self.act = nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.dense(x) + self.point(x)
        if self.identity is not None:
            y = y + self.identity(x)
        out: Tensor = self.act(y)
        return out
