"""Paceline: a network that must run in so many milliseconds on these phones, exported, and proven on the device."""

from paceline.arch import Arch, Choice, Space
from paceline.errors import PacelineError
from paceline.graph import Graph, Op, OpSpec, TensorSpec
from paceline.measurement import Artifact, Bench, DeviceInfo, Failure, Measurement
from paceline.seeds import Seeds

__version__ = "0.1.0"
__all__ = [
    "Arch",
    "Artifact",
    "Bench",
    "Choice",
    "DeviceInfo",
    "Failure",
    "Graph",
    "Measurement",
    "Op",
    "OpSpec",
    "PacelineError",
    "Seeds",
    "Space",
    "TensorSpec",
]
