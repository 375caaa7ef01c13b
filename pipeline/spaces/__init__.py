"""Search spaces as data (Chain), and the catalogue of them."""

from paceline.pipeline.spaces.catalogue import SPACES, Entry, Source, find_space
from paceline.pipeline.spaces.chain import Chain, Slot, Stage, Stem, Tail, Widths, slots_of
from paceline.pipeline.spaces.mobile import mobile, mobile_imagenet
from paceline.pipeline.spaces.options import MBConvOp, MultiKernelOp, Op, RepConvOp, Se, SkipOp, StabilisedSkipOp
from paceline.pipeline.spaces.rep import MobileOneOp, RepOp, SearchedRepOp, repnas_a0

__all__ = [
    "SPACES",
    "Chain",
    "Entry",
    "MBConvOp",
    "MobileOneOp",
    "MultiKernelOp",
    "Op",
    "RepConvOp",
    "RepOp",
    "Se",
    "SearchedRepOp",
    "SkipOp",
    "Slot",
    "Source",
    "StabilisedSkipOp",
    "Stage",
    "Stem",
    "Tail",
    "Widths",
    "find_space",
    "mobile",
    "mobile_imagenet",
    "repnas_a0",
    "slots_of",
]
