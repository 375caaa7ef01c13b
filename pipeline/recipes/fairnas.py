"""FairNAS: every option of every layer is trained equally often, at every moment (Chu et al. 2021).

A step of training adds the gradients of m single paths that share no option, m the number of options of a layer, and updates
once. The trained supernet ranks networks; NSGA-II looks for accurate ones with few multiply-adds and, as in MoGA, many
parameters, which a network that underfits can use.
"""

from __future__ import annotations

from paceline.pipeline.config import Config, Data, Retrain, Search, SpaceChoice, Supernet
from paceline.pipeline.recipes.goals import ACCURATE, FEW_MACS, Goal
from paceline.pipeline.recipes.recipe import Paper, Recipe, recipe
from paceline.pipeline.recipes.searchers import hierarchical_nsga2
from paceline.pipeline.supernet import StrictFair


@recipe
def fairnas() -> Recipe:
    return Recipe(
        name="fairnas",
        title="Strict fairness: every option gets one gradient a step",
        paper=Paper(
            "FairNAS: Rethinking Evaluation Fairness of Weight Sharing Neural Architecture Search", "ICCV 2021", "1907.01845"
        ),
        status="reconstruction",
        full=Config(
            data=Data(size=224),
            space=SpaceChoice(name="fairnas"),
            supernet=Supernet(epochs=150, batch=256, lr=0.045, weight_decay=4e-5, shared="sum"),
            search=Search(population=70, generations=200),
            retrain=Retrain(epochs=350, batch=256, lr=0.1, weight_decay=4e-5),
        ),
        reduced=Config(
            data=Data(size=16),
            space=SpaceChoice(name="fairnas_small"),
            supernet=Supernet(epochs=8, lr=0.3, shared="mean"),
            search=Search(population=24, generations=10),
        ),
        policy=StrictFair(),
        goals=(ACCURATE, FEW_MACS, Goal("params", "max")),
        searcher=hierarchical_nsga2,
        reconstructed=(
            "Schedules of supernet, search and stand-alone training: the official repository has the networks alone.",
            "Many parameters as the third goal, as in MoGA.",
            "NSGA-II's mutation: natural or by roulette; the first version of the paper has a reinforced one, too.",
            "BatchNorm is recalibrated for each candidate; the sources do not say.",
        ),
        additions=("Every network keeps a latency limit on the device; the paper measures latency afterwards.",),
    )
