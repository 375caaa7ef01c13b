"""Chains of searchable MobileNet layers of one's own make, and the project's default space."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from paceline.pipeline.spaces.chain import (
    Chain,
    MBConvOp,
    Op,
    RepConvOp,
    Se,
    SkipOp,
    Stage,
    Stem,
    Tail,
    slots_of,
)
from paceline.pipeline.spaces.options import multiple_of_8

_SE = Se(rounding="multiple_of_8")


def mobile(
    in_channels: int,
    classes: int,
    image_size: int,
    *,
    stages: Sequence[Stage | tuple[int, int, int]],
    name: str = "mobile",
    stem: int = 16,
    stem_stride: int = 2,
    separable: int | None = None,
    head: int = 128,
    dropout: float = 0.2,
    kernels: Sequence[int] = (3, 5, 7),
    expansions: Sequence[float] = (3, 6),
    squeeze: Sequence[bool] = (False, True),
    skip: bool = True,
    rep: bool = True,
    rep_stem: bool = False,
) -> Chain:
    """Stem convolution, one choice a layer, 1x1 head, global average, dropout, classifier.

    Options of a layer are "k3e6", "k5e3_se", … (MBConv with that kernel and expansion, with squeeze-excite), "rep3" (RepConv)
    and, where shapes agree, "skip". `separable` puts a fixed depthwise separable block of that width behind the stem, `rep_stem`
    makes the stem a RepConv. Raises SpaceError as Chain does.
    """
    options: dict[str, Op] = {
        f"k{k}e{e}{'_se' if se else ''}": MBConvOp(k, e, _SE if se else None)
        for k in kernels
        for e in expansions
        for se in squeeze
    }
    if rep:
        options["rep3"] = RepConvOp()
    if skip:
        options["skip"] = SkipOp()

    def of(stage: Stage) -> Mapping[str, Op]:
        return options

    start = Stem(stem, stem_stride, separable=separable, rep=rep_stem)
    slots = slots_of(start.width, [s if isinstance(s, Stage) else Stage(*s) for s in stages], of)
    return Chain(name, start, slots, Tail(head, dropout=dropout), in_channels, classes, image_size)


def mobile_imagenet(width: float = 1.0) -> Chain:
    """The layers of FairNAS (Chu et al. 2021) with more options: stem 32, separable 16, 32x2-40x4-80x4-96x4-192x4-320, head 1280.

    Widths scale with `width` and are rounded to multiples of 8; the head does not shrink below 1280.
    """
    table = ((32, 2, 2), (40, 4, 2), (80, 4, 2), (96, 4, 1), (192, 4, 2), (320, 1, 1))
    return mobile(
        *(3, 1000, 224),
        name="mobile_imagenet",
        stages=[Stage(multiple_of_8(c * width), layers, stride) for c, layers, stride in table],
        stem=multiple_of_8(32 * width),
        separable=multiple_of_8(16 * width),
        head=multiple_of_8(1280 * max(1.0, width)),
    )


MOBILE_IMAGENET = mobile_imagenet()
MOBILE_SMALL = mobile(1, 10, 32, name="mobile_small", stages=((24, 2, 2), (40, 3, 1), (64, 2, 2)), rep_stem=True)
"""Seven searchable layers behind a re-parameterisable stem, for images of about 32x32: at most 9 M MACs there."""
