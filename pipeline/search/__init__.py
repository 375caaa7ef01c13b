"""Searching a space for the architectures that serve several objectives best."""

from paceline.pipeline.search.archive import Archive, Evaluated, Scale, front, hypervolume
from paceline.pipeline.search.crowding import WeightedCrowding
from paceline.pipeline.search.evaluation import Cache
from paceline.pipeline.search.evolution import RegularisedEvolution
from paceline.pipeline.search.local import LocalSearch
from paceline.pipeline.search.loop import Patience, search
from paceline.pipeline.search.mutation import (
    HierarchicalMutation,
    Mutation,
    OneChoiceMutation,
    OptionCosts,
    ResetMutation,
    RouletteMutation,
)
from paceline.pipeline.search.nsga2 import Nsga2
from paceline.pipeline.search.random_search import RandomSearch
from paceline.pipeline.search.searcher import Searcher

__all__ = [
    "Archive",
    "Cache",
    "Evaluated",
    "HierarchicalMutation",
    "LocalSearch",
    "Mutation",
    "Nsga2",
    "OneChoiceMutation",
    "OptionCosts",
    "Patience",
    "RandomSearch",
    "RegularisedEvolution",
    "ResetMutation",
    "RouletteMutation",
    "Scale",
    "Searcher",
    "WeightedCrowding",
    "front",
    "hypervolume",
    "search",
]
