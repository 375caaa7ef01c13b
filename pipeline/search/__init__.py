"""Searching a space for the architectures that serve several objectives best."""

from paceline.pipeline.search.archive import Archive, Evaluated, front
from paceline.pipeline.search.loop import search
from paceline.pipeline.search.nsga2 import Nsga2
from paceline.pipeline.search.searcher import Searcher

__all__ = ["Archive", "Evaluated", "Nsga2", "Searcher", "front", "search"]
