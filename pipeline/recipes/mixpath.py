"""MixPath: a layer may sum several operations (Chu et al. 2023).

Each block takes an expansion rate and up to m depthwise kernels, whose outputs are added. The sum of n similar features has n
times their mean, so the projection is followed by one BatchNorm for each n (shadow BatchNorm). Paths are drawn uniformly, the
number of kernels first.
"""

from __future__ import annotations

from paceline.pipeline.config import Config, Data, Retrain, Search, SpaceChoice, Supernet
from paceline.pipeline.recipes.goals import ACCURATE, FEW_MACS, Goal
from paceline.pipeline.recipes.recipe import Paper, Recipe, recipe
from paceline.pipeline.supernet import Uniform


@recipe
def mixpath() -> Recipe:
    return Recipe(
        name="mixpath",
        title="Several kernels in a layer, a BatchNorm for each number of them",
        paper=Paper("MixPath: A Unified Approach for One-shot Neural Architecture Search", "ICCV 2023", "2001.05887"),
        status="reconstruction",
        full=Config(
            data=Data(size=32),
            space=SpaceChoice(name="mixpath_s1_m4"),
            supernet=Supernet(epochs=200, batch=96, lr=0.025, weight_decay=3e-4, shared="sum"),
            search=Search(population=40, generations=40),
            retrain=Retrain(epochs=600, batch=96, lr=0.025, weight_decay=3e-4),
        ),
        reduced=Config(
            data=Data(size=16),
            space=SpaceChoice(name="mixpath_small"),
            supernet=Supernet(epochs=24, lr=0.1),
            search=Search(population=24, generations=10),
        ),
        policy=Uniform(),
        goals=(ACCURATE, FEW_MACS, Goal("params", "max")),
        reconstructed=(
            "Settings of NSGA-II, the direction of params and the stand-alone training; the supernet's are the official code's.",
            "Up to 4 kernels a block; the paper's networks use several bounds.",
            "BatchNorm is recalibrated on training images; the official code takes those it tests on.",
        ),
        additions=("Every network keeps a latency limit on the device; the paper has no latency.",),
    )
