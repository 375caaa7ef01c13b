"""SCARLET-NAS: networks of different depth, because a layer may be skipped (Chu et al. 2021).

A plain skip gives the next layer other features than the operations beside it do, and disturbs the weights that all share. So
a skip is a learned 1x1 convolution while the supernet is trained. It is counted, trained alone and deployed as the identity
that it stands for. Training and search are those of FairNAS and MoGA.
"""

from __future__ import annotations

from paceline.pipeline.config import Config, Data, Retrain, Search, SpaceChoice, Supernet
from paceline.pipeline.recipes.goals import Goal
from paceline.pipeline.recipes.recipe import Paper, Recipe, recipe
from paceline.pipeline.recipes.searchers import hierarchical_nsga2
from paceline.pipeline.supernet import StrictFair


@recipe
def scarlet() -> Recipe:
    return Recipe(
        name="scarlet",
        title="Networks of any depth: skips with a learned stabiliser",
        paper=Paper(
            "SCARLET-NAS: Bridging the Gap between Stability and Scalability in Weight-sharing Neural Architecture Search",
            "ICCV 2021 workshops",
            "1908.06022",
        ),
        status="reconstruction",
        full=Config(
            data=Data(size=224),
            space=SpaceChoice(name="scarlet"),
            supernet=Supernet(epochs=150, batch=256, lr=0.045, weight_decay=4e-5, shared="sum"),
            search=Search(population=70, generations=120),
            retrain=Retrain(epochs=350, batch=256, lr=0.1, weight_decay=4e-5),
        ),
        reduced=Config(
            data=Data(size=16),
            space=SpaceChoice(name="scarlet_small"),
            supernet=Supernet(epochs=8, lr=0.2),
            search=Search(population=24, generations=10),
        ),
        policy=StrictFair(),
        goals=(Goal("accuracy", "max", 0.4), Goal("macs", "min", 0.4), Goal("params", "max", 0.2)),
        searcher=hierarchical_nsga2,
        reconstructed=(
            "Training: FairNAS's strict fairness and its schedule; supernet and search were never released.",
            "A skip is an option in the 13 of 19 layers where shapes agree.",
            "The stabiliser starts as the identity.",
            "Weights of the objectives and the direction of params are MoGA's; NSGA-II mutates naturally or by roulette.",
            "BatchNorm is recalibrated for each candidate.",
        ),
        additions=("Every network keeps a latency limit on the device; the paper has no latency at all.",),
    )
