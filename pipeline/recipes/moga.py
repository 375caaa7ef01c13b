"""MoGA: a search for the processor that will run the network, here the device of the run (Chu et al. 2020).

Latency comes from a table of the device, and the search wants accurate and fast networks that have many parameters, because a
small network underfits and parameters need not cost time. Preferences enter the crowding distance of NSGA-II: the front is
kept more evenly spread along what weighs more. The supernet is trained as FairNAS does.
"""

from __future__ import annotations

from paceline.pipeline.config import Config, Data, Retrain, Search, SpaceChoice, Supernet
from paceline.pipeline.recipes.goals import Goal
from paceline.pipeline.recipes.recipe import Paper, Recipe, recipe
from paceline.pipeline.recipes.searchers import hierarchical_nsga2
from paceline.pipeline.supernet import StrictFair


@recipe
def moga() -> Recipe:
    return Recipe(
        name="moga",
        title="Accuracy, the device's latency and many parameters, weighted",
        paper=Paper("MoGA: Searching Beyond MobileNetV3", "ICASSP 2020", "1908.01314"),
        status="reconstruction",
        full=Config(
            data=Data(size=224),
            space=SpaceChoice(name="moga"),
            supernet=Supernet(epochs=150, batch=256, lr=0.045, weight_decay=4e-5, shared="sum"),
            search=Search(population=70, generations=120),
            retrain=Retrain(epochs=350, batch=256, lr=0.1, weight_decay=1e-5),
        ),
        reduced=Config(
            data=Data(size=16),
            space=SpaceChoice(name="moga_small"),
            supernet=Supernet(epochs=8, lr=0.2),
            search=Search(population=24, generations=10),
        ),
        policy=StrictFair(),
        goals=(Goal("accuracy", "max", 0.4), Goal("latency", "min", 0.4), Goal("params", "max", 0.2)),
        searcher=hierarchical_nsga2,
        reconstructed=(
            "Schedules of supernet, search and stand-alone training, and the weights 0.4, 0.4, 0.2 of the objectives.",
            "The formula of the weighted crowding distance, after Friedrich, Kroeger and Neumann.",
            "NSGA-II mutates naturally or by roulette; the paper's mutators are not described.",
            "BatchNorm is recalibrated for each candidate.",
        ),
        additions=(
            "Networks keep a latency limit; the paper minimises latency without one.",
            "Latency is what a model of the run's device says, interval included; the paper sums a table of a phone's GPU.",
        ),
    )
