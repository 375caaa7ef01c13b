"""Layers that a network may leave out."""

from __future__ import annotations

import copy
from typing import Literal

from torch import Tensor, nn

from paceline.errors import SpaceError
from paceline.pipeline.ops.conv import same_shape


class Skip(nn.Module):
    """Identity. Raises SpaceError where it is not legal: stride above 1 or a change of width."""

    def __init__(self, c_in: int, c_out: int, stride: int) -> None:
        super().__init__()
        if not same_shape(c_in, c_out, stride):
            raise SpaceError(f"skip can't go from {c_in} to {c_out} channels with stride {stride}; it needs equal shapes")

    def forward(self, x: Tensor) -> Tensor:
        return x


class StabilisedSkip(nn.Module):
    """A skip that learns a change of basis while it is in a supernet (SCARLET-NAS, Chu et al. 2021: equivariant stabiliser).

    It is one 1x1 convolution without bias, BatchNorm or activation. x (N, c, H, W) -> the same shape. The network that is
    deployed has an identity there: see `unstabilised`. `initialise` starts it as the identity or as any convolution
    (`start="kaiming"`); the paper does not say which. Raises SpaceError where a skip is not legal.
    """

    def __init__(self, c_in: int, c_out: int, stride: int, start: Literal["identity", "kaiming"] = "identity") -> None:
        super().__init__()
        if not same_shape(c_in, c_out, stride):
            raise SpaceError(f"skip can't go from {c_in} to {c_out} channels with stride {stride}; it needs equal shapes")
        self.start = start
        self.conv = nn.Conv2d(c_in, c_out, 1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.conv(x)
        return y


def unstabilised(net: nn.Module) -> nn.Module:
    """The network as it is counted, trained alone and deployed: each StabilisedSkip is a Skip. `net` stays as it is.

    With the supernet's weights that is another function; `paceline.exporters.fold_stabilisers` keeps the function.
    """
    stabilisers = [m for m in net.modules() if isinstance(m, StabilisedSkip)]
    if not stabilisers:
        return net
    memo: dict[int, object] = {id(m): Skip(m.conv.in_channels, m.conv.out_channels, 1) for m in stabilisers}
    plain: nn.Module = copy.deepcopy(net, memo)
    return plain
