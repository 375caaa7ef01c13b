"""Weights to start from."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn

from paceline.pipeline.ops.mbconv import MBConv

RESIDUAL_SCALE = 0.2
OUTER_SCALE = 0.1


def initialise(net: nn.Module, seed: int) -> None:
    """New weights, a function of `seed` and the network only: He-normal (fan out) convolutions, N(0, 0.01) linear layers.

    BatchNorm starts as the identity with fresh statistics, but a residual branch starts small: the scale of its last BatchNorm is
    0.2 (after Goyal et al. 2017, section 5.1, who take 0). So all options of a residual layer start as almost the same function,
    which speeds up a supernet. Every bias is zero. Works on a supernet and on a derived network.
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
                *_, last = (m for m in module.body.modules() if isinstance(m, nn.BatchNorm2d))
                nn.init.constant_(last.weight, RESIDUAL_SCALE)


@torch.no_grad()
def align(blocks: Sequence[MBConv]) -> None:
    """Lets alternative blocks start as nearly the same function, so that their supernet trains almost like one network.

    Each takes the weights of the widest block, cut to its own width, and the smallest kernel as the centre of its own, with
    little around it. Squeeze-excite keeps its weights, and so does a block without expansion. All read and write the same shapes.
    """
    parts = [dict(b.body.named_parameters()) for b in blocks if "expand" in dict(b.body.named_children())]
    if not parts:
        return
    shape = "depthwise.conv.weight"
    source = {name: p.clone() for name, p in max(parts, key=lambda p: (p[shape].shape[0], -p[shape].shape[2])).items()}
    kernel = source[shape].shape[2]
    for part in parts:
        hidden, _, size, _ = part[shape].shape
        part["expand.conv.weight"].copy_(source["expand.conv.weight"][:hidden])
        part["project.conv.weight"].copy_(source["project.conv.weight"][:, :hidden])
        ring = (size - kernel) // 2
        if ring >= 0:
            part[shape].mul_(OUTER_SCALE)
            part[shape][:, :, ring : ring + kernel, ring : ring + kernel] = source[shape][:hidden]
