"""`zoo:NAME[:weights file]` where commands take a network."""

from __future__ import annotations

import pickle
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from paceline.errors import DataError, ExportError, SpaceError
from paceline.exporters.sources import Shapes, Source, examples
from paceline.pipeline.zoo.building import build
from paceline.pipeline.zoo.official import load_official


def from_zoo(name: str, shapes: Shapes, seed: int) -> Source:
    """The source zoo:NAME[:weights file], for 224x224 RGB images unless `shapes` (NHWC) say otherwise.

    The weights are a checkpoint of the authors' code, or a state dict of the network as `build` makes it; it has as many classes
    as its weights. Raises ExportError for an unknown name and for weights that do not fit.
    """
    name, *rest = name.split(":", 1)
    example = examples(shapes or [(1, 224, 224, 3)], seed)
    state = _read(Path(rest[0])) if rest else {}
    classes = next((len(state[key]) for key in ("classifier.weight", "classifier.1.weight") if key in state), 1000)
    try:
        net = build(name, classes, example[0].shape[1], seed=seed)
        if state:
            load_official(net, state)
    except (SpaceError, DataError) as e:
        raise ExportError(f"zoo:{name}: {e}") from e
    warnings = () if state else (f"zoo:{name} has random weights; give the authors' checkpoint: zoo:{name}:weights.pth.tar",)
    text = f"zoo:{name}" + (f":{Path(rest[0]).name}" if rest else "")
    return Source(name, text, net.eval(), example, warnings=warnings)


def _read(path: Path) -> Mapping[str, Tensor]:
    if not path.is_file():
        raise ExportError(f"no file {path} with weights; give a checkpoint of the authors' code")
    try:
        found = torch.load(path, map_location="cpu", weights_only=True)
    except (RuntimeError, pickle.UnpicklingError, EOFError, OSError) as e:
        raise ExportError(f"{path} can't be read as weights: {(str(e).splitlines() or ['no message'])[0]}") from e
    state = found.get("model_state", found) if isinstance(found, dict) else found
    if not isinstance(state, dict) or not state or not all(isinstance(value, Tensor) for value in state.values()):
        raise ExportError(f"{path} holds no state dict; give what torch.save writes of one, or a checkpoint of the authors' code")
    return state
