"""From a trained network to files that are proven: merged, exported, compared with torch, measured."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from paceline.errors import DeviceError
from paceline.exporters import export, parity
from paceline.exporters.merge import Merge
from paceline.exporters.parity import Parity
from paceline.exporters.sources import RUN_PROGRAM, save_program
from paceline.graph import Graph, OpSpec
from paceline.latency_models.collection.collect import Collector, Pace
from paceline.measurement import Artifact, Measurement, OpTime

_PARITY_INPUTS = 3


@dataclass(frozen=True)
class Deployed:
    """The exported network: its Graph, its files, what was merged, how it differs from torch and how fast it is."""

    graph: Graph
    tflite: Artifact
    onnx: Artifact
    merges: tuple[Merge, ...]
    tflite_parity: Parity
    onnx_parity: Parity
    measurement: Measurement
    profile: tuple[OpTime, ...]

    @property
    def operators(self) -> tuple[OpSpec, ...]:
        return tuple(self.graph.operators())


def deploy(
    network: nn.Module, example: Tensor, folder: Path, collector: Collector, pace: Pace, rng: np.random.Generator
) -> Deployed:
    """Merges, writes `model.tflite`, `model.onnx` and `network.pt2` into `folder`, proves the first two, measures the first.

    Raises MergeError or ParityError where a step changes what the network computes, DeviceError where it can't be measured.
    """
    inputs = [torch.from_numpy(rng.standard_normal(example.shape, np.float32)) for _ in range(_PARITY_INPUTS)]
    model = export(network, example, folder / "model.tflite", merge=True, source="a run of paceline")
    assert model.graph is not None
    assert model.merging is not None
    shipped = model.merging.module
    open_model = export(shipped, example, folder / "model.onnx", source="a run of paceline, merged")
    save_program(shipped, (example,), folder / RUN_PROGRAM)
    tflite_parity = _worst([parity.check(network, (x,), model) for x in inputs])
    onnx_parity = _worst([parity.check(network, (x,), open_model) for x in inputs])
    measurement = measured_model(model, collector, pace)
    profile = tuple(collector.device.profile(model, collector.bench))
    return Deployed(model.graph, model, open_model, model.merging.merges, tflite_parity, onnx_parity, measurement, profile)


def measured_model(model: Artifact, collector: Collector, pace: Pace) -> Measurement:
    """The exported network on a device. Raises DeviceError where it can't be measured there."""
    measurement = collector.measure([model], pace.reference)[0]
    if measurement.failure is not None:
        raise DeviceError(f"{model.path} can't be measured on {collector.device.info.name!r}: {measurement.failure.reason}")
    return measurement


def _worst(found: Sequence[Parity]) -> Parity:
    return Parity(max(p.max_abs_error for p in found), max(p.max_rel_error for p in found))
