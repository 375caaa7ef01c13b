"""Weights to start from."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from paceline.pipeline.ops.mbconv import MBConv
from paceline.pipeline.ops.rep import PointFirst
from paceline.pipeline.ops.skip import StabilisedSkip

RESIDUAL_SCALE = 0.2
OUTER_SCALE = 0.1


def initialise(net: nn.Module, seed: int) -> None:
    """New weights, a function of `seed` and the network only: He-normal (fan out) convolutions, N(0, 0.01) linear layers.

    BatchNorm starts as the identity with fresh statistics, but a residual branch starts small: the scale of its last BatchNorm is
    0.2 (after Goyal et al. 2017, section 5.1, who take 0). So all options of a residual layer start as almost the same function,
    which speeds up a supernet. A stabilised skip starts as it says. Every bias is zero. Works on a supernet and on a derived
    network.
    """
    rng = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for module in net.modules():
            if isinstance(module, nn.Conv2d):
                per_group = module.out_channels // module.groups  # the fan that one input channel reaches
                fan_out = per_group * module.kernel_size[0] * module.kernel_size[1]
                module.weight.normal_(0.0, (2.0 / fan_out) ** 0.5, generator=rng)
            elif isinstance(module, nn.Linear):
                module.weight.normal_(0.0, 0.01, generator=rng)
            elif isinstance(module, nn.BatchNorm2d):
                module.reset_parameters()
            if isinstance(module, nn.Conv2d | nn.Linear) and module.bias is not None:
                module.bias.zero_()
        for module in net.modules():
            if isinstance(module, MBConv) and module.residual:
                for last in module.body.get_submodule("project").modules():
                    if isinstance(last, nn.BatchNorm2d):
                        nn.init.constant_(last.weight, RESIDUAL_SCALE)
            elif isinstance(module, StabilisedSkip) and module.start == "identity":
                nn.init.dirac_(module.conv.weight)
            elif isinstance(module, PointFirst) and module.starts_as_identity:
                point = module.get_submodule("point")
                assert isinstance(point, nn.Conv2d)
                nn.init.dirac_(point.weight, point.groups)


@torch.no_grad()
def align(blocks: Sequence[MBConv]) -> None:
    """Lets alternative blocks start as nearly the same function, so that their supernet trains almost like one network.

    Each takes the weights of the widest block, cut to its own width, and the smallest kernel as the centre of its own, with
    little around it. Where a block has several depthwise kernels, each takes those of the same one. Squeeze-excite keeps its
    weights, and so does a block without expansion. All read and write the same shapes.
    """
    parts = [_convolutions(b) for b in blocks if "expand" in dict(b.body.named_children())]
    if not parts:
        return
    widest = max(parts, key=lambda p: (len(p["expand.conv.weight"]), -_size(p)))
    source = {name: weight.clone() for name, weight in widest.items()}
    for part in parts:
        for name in part.keys() & source.keys():
            _align(part[name], source[name])


def _convolutions(block: MBConv) -> dict[str, Tensor]:
    """Convolution weights by name, without squeeze-excite."""
    weights = dict(block.body.named_parameters())
    return {name: weights[name] for name in weights if weights[name].ndim == 4 and not name.startswith("squeeze.")}


def _size(part: dict[str, Tensor]) -> int:
    return max(weight.shape[-1] for weight in part.values())


def _align(weight: Tensor, source: Tensor) -> None:
    cut = source[: weight.shape[0], : weight.shape[1]]
    kernel = source.shape[-1]
    ring = (weight.shape[-1] - kernel) // 2
    if ring >= 0:
        if ring:
            weight.mul_(OUTER_SCALE)
        weight[:, :, ring : ring + kernel, ring : ring + kernel] = cut
