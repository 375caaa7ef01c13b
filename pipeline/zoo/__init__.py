"""Published networks as data: built, given their authors' weights, exported and measured like any other."""

from paceline.pipeline.zoo.building import build, entry, names
from paceline.pipeline.zoo.entries import ENTRIES, Claims, Entry, fairnas_se
from paceline.pipeline.zoo.official import load_official
from paceline.pipeline.zoo.source import from_zoo

__all__ = ["ENTRIES", "Claims", "Entry", "build", "entry", "fairnas_se", "from_zoo", "load_official", "names"]
