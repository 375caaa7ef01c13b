"""The spaces that come with Paceline, by name, with their sources. Listing them needs no torch."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

from paceline.errors import SpaceError
from paceline.pipeline.spaces import bsnas, published, rep
from paceline.pipeline.spaces.chain import Chain
from paceline.pipeline.spaces.mobile import MOBILE_IMAGENET, MOBILE_SMALL


@dataclass(frozen=True)
class Source:
    """The paper that a space is from."""

    system: str
    venue: str
    arxiv: str


@dataclass(frozen=True)
class Entry:
    """A space and where it is from, None for Paceline's own.

    The chain is for the images of its paper; `Chain.for_images` makes it for others.
    """

    chain: Chain
    source: Source | None
    reconstructed: tuple[str, ...] = ()
    """What the paper does not say, or says otherwise, in sentences."""

    @property
    def name(self) -> str:
        return self.chain.name


_FAIRNAS = Source("FairNAS", "ICCV 2021", "1907.01845")
_SCARLET = Source("SCARLET-NAS", "ICCV 2021 workshops", "1908.06022")
_MOGA = Source("MoGA", "ICASSP 2020", "1908.01314")
_MIXPATH = Source("MixPath", "ICCV 2023", "2001.05887")
_BSNAS = Source("BS-NAS", "preprint 2020", "2003.09821")
_REPNAS = Source("RepNAS", "preprint 2021", "2109.03508")
_BSNAS_UNKNOWN = "Only the abstract could be read: layers, operations and numbers of channels are Paceline's."
_REDUCED = "Reduced by Paceline to few narrow layers for images of 8 to 32 pixels; the operations are the paper's."

_ENTRIES = (
    Entry(MOBILE_SMALL, None),
    Entry(MOBILE_IMAGENET, None, ("The layers are FairNAS's, arXiv 1907.01845; the options are Paceline's.",)),
    Entry(published.FAIRNAS, _FAIRNAS),
    Entry(published.FAIRNAS_SMALL, _FAIRNAS, (_REDUCED,)),
    Entry(
        published.SCARLET,
        _SCARLET,
        (
            "The options are read off the published networks.",
            "A skip is an option in the 13 layers where it is legal; the paper may count it in all 19.",
            "A stabilised skip starts as the identity; the sources do not say.",
        ),
    ),
    Entry(published.SCARLET_SMALL, _SCARLET, (_REDUCED, "Kernel 7 and expansion 6 are left out.")),
    Entry(published.MOGA, _MOGA),
    Entry(published.MOGA_SMALL, _MOGA, (_REDUCED, "Kernel 7 is left out.")),
    *(Entry(published.mixpath_s1(m), _MIXPATH) for m in (1, 2, 3, 4)),
    Entry(published.MIXPATH_SMALL, _MIXPATH, (_REDUCED, "Kernel 9 is left out.")),
    Entry(bsnas.BSNAS, _BSNAS, (_BSNAS_UNKNOWN, "Ratios that round to the same number of channels are one option.")),
    Entry(bsnas.BSNAS_SMALL, _BSNAS, (_REDUCED, _BSNAS_UNKNOWN)),
    Entry(
        rep.REPNAS,
        _REPNAS,
        (
            "Layers and branches are those of the official code for RepVGG-A0.",
            "A layer has at least one branch besides the identity; in the code it may have none.",
        ),
    ),
    Entry(rep.REPNAS_SMALL, _REPNAS, (_REDUCED, "The branches are four of six, kernels of 5 and 7 are Paceline's addition.")),
)

SPACES: Mapping[str, Entry] = MappingProxyType({entry.name: entry for entry in _ENTRIES})


def find_space(name: str) -> Entry:
    """The entry of this name. Raises SpaceError where there is none."""
    if name not in SPACES:
        near = difflib.get_close_matches(name, SPACES, n=1)
        hint = f"did you mean {near[0]!r}?" if near else f"there are {', '.join(SPACES)}"
        raise SpaceError(f"no space is called {name!r}; {hint}")
    return SPACES[name]
