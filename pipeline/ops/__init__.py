"""The operations that networks and search spaces are built of. All of them can be traced by torch.fx and torch.export."""

from paceline.pipeline.ops.conv import ConvBNAct, Skip, SqueezeExcite, same_shape
from paceline.pipeline.ops.initialise import align, initialise
from paceline.pipeline.ops.mbconv import MBConv
from paceline.pipeline.ops.repconv import RepConv

__all__ = ["ConvBNAct", "MBConv", "RepConv", "Skip", "SqueezeExcite", "align", "initialise", "same_shape"]
