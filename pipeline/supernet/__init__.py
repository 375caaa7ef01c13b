"""Networks that hold every architecture of a space, and how they are trained: a path is one weight per option."""

from paceline.pipeline.supernet.elastic import elastic
from paceline.pipeline.supernet.evaluate import OneShot, Quality
from paceline.pipeline.supernet.gates import BranchGates, BranchSearch
from paceline.pipeline.supernet.mixed import Mixed, OnPath, PartlyFrozen, Path, derive, hard, path, space_of
from paceline.pipeline.supernet.norms import ShadowBatchNorm
from paceline.pipeline.supernet.policies import ChangingPolicy, LearningPolicy, Policy, StrictFair, Uniform
from paceline.pipeline.supernet.recalibrate import recalibrate
from paceline.pipeline.supernet.shrinking import Shrinker, Shrinking, restricted
from paceline.pipeline.supernet.train import train_supernet
from paceline.pipeline.supernet.widths import Width

__all__ = [
    "BranchGates",
    "BranchSearch",
    "ChangingPolicy",
    "LearningPolicy",
    "Mixed",
    "OnPath",
    "OneShot",
    "PartlyFrozen",
    "Path",
    "Policy",
    "Quality",
    "ShadowBatchNorm",
    "Shrinker",
    "Shrinking",
    "StrictFair",
    "Uniform",
    "Width",
    "derive",
    "elastic",
    "hard",
    "path",
    "recalibrate",
    "restricted",
    "space_of",
    "train_supernet",
]
