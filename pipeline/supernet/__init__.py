"""Networks that hold every architecture of a space, and how they are trained: a path is one weight per option."""

from paceline.pipeline.supernet.mixed import Mixed, PartlyFrozen, Path, derive, hard, path, space_of
from paceline.pipeline.supernet.policies import Policy, StrictFair, Uniform
from paceline.pipeline.supernet.recalibrate import recalibrate
from paceline.pipeline.supernet.train import train_supernet

__all__ = [
    "Mixed",
    "PartlyFrozen",
    "Path",
    "Policy",
    "StrictFair",
    "Uniform",
    "derive",
    "hard",
    "path",
    "recalibrate",
    "space_of",
    "train_supernet",
]
