"""The published networks as data: the architectures of the authors' code, and what the papers claim about them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType

from paceline.arch import Arch
from paceline.pipeline.spaces import published
from paceline.pipeline.spaces.chain import Chain, Stem, Tail
from paceline.pipeline.spaces.options import MBConvOp, Se


@dataclass(frozen=True)
class Claims:
    """What the authors say: millions of parameters and of multiply-adds, ImageNet top-1 in %. None: they do not say it."""

    params_m: float | None
    macs_m: float | None
    top1: float
    where: str


@dataclass(frozen=True)
class Entry:
    """One published network. `params` and `macs` are exact counts, for 1000 classes and 3x224x224.

    Parameters are those of convolutions, BatchNorm and the classifier; multiply-accumulates those of convolutions, those of
    squeeze-and-excitation included, and of the classifier.
    """

    name: str
    title: str
    paper: str
    space: Chain
    """That it was found in; for the SE variants of FairNAS, which were not searched, `fairnas_se`."""
    picks: str
    """What it takes in every slot, as `Chain.arch` reads it."""
    params: int
    macs: int
    claims: Claims

    @property
    def arch(self) -> Arch:
        """What the network takes in every slot of its space."""
        return self.space.arch(self.picks)


def fairnas_se(ratio: float) -> Chain:
    """The slots and option names of the space `fairnas` with the blocks of the SE networks.

    Every block has squeeze-and-excitation whose inner width is `ratio` x the block's input channels, and swish; stem, separable
    block and head have ReLU. Source: models/timm_models.py of the authors' code, on timm's defaults.
    """
    se = Se(ratio, base="input", act="swish", gate="sigmoid")
    plain = published.FAIRNAS
    slots = [
        replace(slot, options={k: replace(op, se=se, act="swish") for k, op in slot.options.items() if isinstance(op, MBConvOp)})
        for slot in plain.slots
    ]
    stem, tail = Stem(32, act="relu", separable=16), Tail(1280, act="relu")
    return replace(plain, name=f"fairnas_se_{ratio:g}", stem=stem, slots=tuple(slots), tail=tail)


_FAIRNAS = "Chu, Zhang, Xu: FairNAS: Rethinking Evaluation Fairness of Weight Sharing NAS, ICCV 2021, arXiv 1907.01845"
_SCARLET = "Chu et al.: SCARLET-NAS: Bridging the Gap between Stability and Scalability in Weight-sharing NAS, arXiv 1908.06022"
_MOGA = "Chu, Zhang, Xu: MoGA: Searching Beyond MobileNetV3, ICASSP 2020, arXiv 1908.01314"

_SE = {1.0: fairnas_se(1.0), 0.5: fairnas_se(0.5)}

_FAIRNAS_PICKS = {
    "a": "k7e3 k3e3 k7e3 k3e6 k7e6 k3e3 k3e3 k7e6 k7e6 k5e3 k3e6 k5e3 k5e3 k3e6 k3e6 k7e6 k3e6 k7e6 k5e6",
    "b": "k5e3 k3e3 k5e3 k3e3 k3e6 k5e3 k7e3 k3e3 k3e6 k5e3 k3e3 k3e6 k7e3 k3e3 k7e6 k5e6 k7e6 k3e6 k5e6",
    "c": "k5e3 k3e3 k7e3 k3e3 k3e3 k3e3 k3e3 k3e3 k3e3 k3e6 k3e3 k3e3 k3e3 k3e3 k7e6 k7e6 k3e6 k3e6 k5e6",
}


def _fairnas(letter: str, params: int, macs: int, claimed: tuple[float, float, float]) -> Entry:
    return Entry(
        name=f"fairnas_{letter}",
        title=f"FairNAS-{letter.upper()}",
        paper=_FAIRNAS,
        space=published.FAIRNAS,
        picks=_FAIRNAS_PICKS[letter],
        params=params,
        macs=macs,
        claims=Claims(*claimed, "images/result.png of the authors' code"),
    )


def _fairnas_se(letter: str, ratio: float, params: int, macs: int, top1: float) -> Entry:
    """The authors' table of parameters and multiply-adds mixes the two ratios (docs/zoo.md), so it claims nothing here."""
    return Entry(
        name=f"fairnas_{letter}_se" + ("" if ratio == 1 else "_050"),
        title=f"FairNAS-{letter.upper()}-SE" + ("" if ratio == 1 else "-0.5"),
        paper=_FAIRNAS,
        space=_SE[ratio],
        picks=_FAIRNAS_PICKS[letter],
        params=params,
        macs=macs,
        claims=Claims(None, None, top1, "README of the authors' code"),
    )


def _scarlet(letter: str, picks: str, params: int, macs: int, claimed: tuple[float, float, float]) -> Entry:
    return Entry(
        name=f"scarlet_{letter}",
        title=f"SCARLET-{letter.upper()}",
        paper=_SCARLET,
        space=published.SCARLET,
        picks=picks,
        params=params,
        macs=macs,
        claims=Claims(*claimed, "images/benchmark.png of the authors' code"),
    )


def _moga(letter: str, picks: str, params: int, macs: int, claimed: tuple[float, float, float]) -> Entry:
    return Entry(
        name=f"moga_{letter}",
        title=f"MoGA-{letter.upper()}",
        paper=_MOGA,
        space=published.MOGA,
        picks=picks,
        params=params,
        macs=macs,
        claims=Claims(*claimed, "images/specs.png of the authors' code"),
    )


_ALL = (
    _fairnas("a", 4_651_352, 388_122_848, (4.6, 388, 75.3)),
    _fairnas("b", 4_506_272, 345_297_632, (4.5, 345, 75.1)),
    _fairnas("c", 4_397_864, 321_024_992, (4.4, 321, 74.7)),
    _fairnas_se("a", 1.0, 7_103_512, 390_564_320, 77.548),
    _fairnas_se("b", 1.0, 6_871_432, 347_652_704, 77.190),
    _fairnas_se("c", 1.0, 6_697_720, 323_315_168, 76.670),
    _fairnas_se("a", 0.5, 5_881_920, 389_343_584, 77.396),
    _fairnas_se("b", 0.5, 5_693_040, 346_475_168, 77.106),
    _fairnas_se("c", 0.5, 5_551_776, 322_170_080, 76.760),
    _scarlet(
        "a",
        "k7e3 k5e6 k5e3 k7e3_se k3e6_se k5e3_se k3e6_se k3e3 k7e3_se k7e3 k5e3 k7e3_se k3e3 k7e3_se "
        "k3e6_se k5e6_se k3e3_se k3e6_se k7e6_se",
        6_707_720,
        365_307_392,
        (6.7, 365, 76.9),
    ),
    _scarlet(
        "b",
        "k3e3_se k5e3_se k3e3_se k7e6_se k3e3 k5e3 k7e6_se k3e3_se skip k5e3 k3e3_se k3e3_se k7e6_se k3e3_se "
        "k5e6_se k5e6_se skip k7e6_se k5e6_se",
        6_531_556,
        326_853_440,
        (6.5, 329, 76.3),
    ),
    _scarlet(
        "c",
        "k5e3_se k3e3_se k5e3_se skip skip k3e3 k7e6_se k3e3_se k3e3_se k5e3 k7e3_se k7e3 k3e3_se k7e3_se "
        "k3e3_se skip k3e6_se k7e6_se k5e6_se",
        6_073_684,
        280_082_912,
        (6.0, 280, 75.6),
    ),
    _moga(
        "a",
        "k5e6 k7e6 k3e6 k3e6_se k3e3_se k3e6_se k3e6 k7e6 k7e3_se k7e6 k3e6 k3e6 k5e6_se k5e6_se",
        5_159_802,
        304_042_176,
        (5.1, 304, 75.9),
    ),
    _moga(
        "b",
        "k3e3 k3e3 k7e6 k3e3 k5e6 k3e6_se k5e6_se k3e3 k7e6_se k7e6 k5e3 k7e6_se k7e6_se k3e6_se",
        5_506_236,
        248_634_720,
        (5.5, 248, 75.5),
    ),
    _moga(
        "c",
        "k5e3 k3e3 k5e3 k3e3 k5e3 k5e3 k5e6_se k5e3 k5e3 k3e6 k3e6_se k3e6_se k3e6_se k3e6_se",
        5_488_200,
        221_089_920,
        (5.4, 221, 75.3),
    ),
)

ENTRIES: Mapping[str, Entry] = MappingProxyType({entry.name: entry for entry in _ALL})
"""All published networks by name."""
