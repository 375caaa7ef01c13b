"""A chain of searchable MobileNet layers."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import nn

from paceline.errors import SpaceError
from paceline.pipeline.ops import ConvBNAct, MBConv, RepConv, Skip, align, initialise, same_shape
from paceline.pipeline.ops.conv import multiple_of_8
from paceline.pipeline.supernet.mixed import Mixed, mixed_of


@dataclass(frozen=True)
class Stage:
    """Searchable layers of one width; `stride` is that of the first."""

    channels: int
    layers: int
    stride: int


def mobile(
    in_channels: int,
    classes: int,
    image_size: int,
    *,
    seed: int,
    stages: Sequence[Stage | tuple[int, int, int]],
    stem: int = 16,
    stem_stride: int = 2,
    separable: int | None = None,
    head: int = 128,
    dropout: float = 0.2,
    kernels: Sequence[int] = (3, 5, 7),
    expansions: Sequence[int] = (3, 6),
    squeeze: Sequence[bool] = (False, True),
    skip: bool = True,
    rep: bool = True,
    rep_stem: bool = False,
) -> nn.Module:
    """A supernet: stem convolution, one `Mixed` a layer, 1x1 head, global average, dropout, classifier.

    Images (N, in_channels, image_size, image_size) -> logits (N, classes). Options of a layer are "k3e6", "k5e3_se", …
    (MBConv with that kernel and expansion, with squeeze-excite), "rep3" (RepConv) and, where shapes agree, "skip".
    `separable` puts a fixed depthwise separable block of that width behind the stem, `rep_stem` makes the stem a RepConv.
    `seed` makes the weights; the MBConv options of a layer start aligned (`paceline.pipeline.ops.align`).

    Raises SpaceError where the image is smaller than the product of all strides, or where a layer has no option.
    """
    chain = [s if isinstance(s, Stage) else Stage(*s) for s in stages]
    shrink = stem_stride
    for stage in chain:
        shrink *= stage.stride
    if image_size < shrink:
        raise SpaceError(
            f"images of {image_size} pixels are too small for a total stride of {shrink}; lower a stride or enlarge them"
        )

    def options(c_in: int, c_out: int, stride: int) -> dict[str, nn.Module]:
        found: dict[str, nn.Module] = {
            f"k{k}e{e}{'_se' if se else ''}": MBConv(c_in, c_out, k, stride, e, se)
            for k in kernels
            for e in expansions
            for se in squeeze
        }
        if rep:
            found["rep3"] = RepConv(c_in, c_out, stride)
        if skip and same_shape(c_in, c_out, stride):
            found["skip"] = Skip(c_in, c_out, stride)
        return found

    with torch.random.fork_rng(devices=[]):  # constructors draw from the global generator; `initialise` draws the real weights
        first = RepConv(in_channels, stem, stem_stride) if rep_stem else ConvBNAct(in_channels, stem, 3, stem_stride)
        parts: OrderedDict[str, nn.Module] = OrderedDict(stem=first)
        width = stem
        if separable is not None:
            parts["separable"] = MBConv(width, separable, 3, 1, expansion=1)
            width = separable
        for number, stage in enumerate(chain, 1):
            for layer in range(stage.layers):
                name = f"stage{number}_layer{layer + 1}"
                parts[name] = Mixed(name, options(width, stage.channels, stage.stride if layer == 0 else 1))
                width = stage.channels
        parts["head"] = ConvBNAct(width, head)
        parts["pool"] = nn.AdaptiveAvgPool2d(1)
        parts["flatten"] = nn.Flatten()
        parts["dropout"] = nn.Dropout(dropout)
        parts["classifier"] = nn.Linear(head, classes)
        net = nn.Sequential(parts)
    initialise(net, seed)
    for mixed in mixed_of(net):
        align([option for option in mixed.options.values() if isinstance(option, MBConv)])
    return net


def mobile_small(in_channels: int, classes: int, image_size: int = 32, *, seed: int) -> nn.Module:
    """Seven searchable layers behind a re-parameterisable stem, for images of about 32x32: at most 9 M MACs there."""
    stages = (Stage(24, 2, 2), Stage(40, 3, 1), Stage(64, 2, 2))
    return mobile(in_channels, classes, image_size, seed=seed, stages=stages, stem=16, rep_stem=True, head=128)


def mobile_imagenet(
    in_channels: int = 3, classes: int = 1000, image_size: int = 224, *, width: float = 1.0, seed: int
) -> nn.Module:
    """The 19 searchable layers of FairNAS (Chu et al. 2021): stem 32, separable 16, 32x2-40x4-80x4-96x4-192x4-320, head 1280.

    Widths scale with `width` and are rounded to multiples of 8; the head does not shrink below 1280.
    """
    scaled = [
        Stage(multiple_of_8(c * width), layers, stride)
        for c, layers, stride in ((32, 2, 2), (40, 4, 2), (80, 4, 2), (96, 4, 1), (192, 4, 2), (320, 1, 1))
    ]
    return mobile(
        in_channels,
        classes,
        image_size,
        seed=seed,
        stages=scaled,
        stem=multiple_of_8(32 * width),
        separable=multiple_of_8(16 * width),
        head=multiple_of_8(1280 * max(1.0, width)),
    )
