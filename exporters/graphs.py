"""The operator graph of a network, whatever it is kept as."""

from __future__ import annotations

from pathlib import Path

from paceline.errors import ExportError
from paceline.exporters import tflite
from paceline.exporters.sources import load_source
from paceline.exporters.torch_graph import graph_of
from paceline.graph import Graph


def graph_from(source: str) -> Graph:
    """Of a `.tflite` file, or of anything that `load_source` takes: what its export would hold in fp32.

    Raises ExportError where it can't be read or has no such form.
    """
    path = Path(source)
    if path.suffix.lower() != ".tflite":
        network = load_source(source)
        return graph_of(network.module, network.example)
    if not path.is_file():
        raise ExportError(f"no file {path}; give a .tflite model, or timm:NAME")
    return tflite.read(path).graph
