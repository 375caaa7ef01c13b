"""The operations that networks and search spaces are built of. All of them can be traced by torch.fx and torch.export."""

from paceline.pipeline.ops.conv import ACTIVATIONS, GATES, ConvBNAct, SqueezeExcite, same_shape
from paceline.pipeline.ops.initialise import align, initialise
from paceline.pipeline.ops.mbconv import MBConv
from paceline.pipeline.ops.rep import (
    ACNET,
    BRANCHES,
    DBB,
    ODBB,
    REPVGG,
    BranchType,
    Place,
    RepBlock,
    branch_type,
    fitting,
    mobileone,
    rep_block,
)
from paceline.pipeline.ops.repconv import RepConv
from paceline.pipeline.ops.skip import Skip, StabilisedSkip, unstabilised

__all__ = [
    "ACNET",
    "ACTIVATIONS",
    "BRANCHES",
    "DBB",
    "GATES",
    "ODBB",
    "REPVGG",
    "BranchType",
    "ConvBNAct",
    "MBConv",
    "Place",
    "RepBlock",
    "RepConv",
    "Skip",
    "SqueezeExcite",
    "StabilisedSkip",
    "align",
    "branch_type",
    "fitting",
    "initialise",
    "mobileone",
    "rep_block",
    "same_shape",
    "unstabilised",
]
