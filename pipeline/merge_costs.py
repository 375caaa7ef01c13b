"""What forms of a network become for a runtime, and what they take on a device: by their operators, or measured themselves."""

from __future__ import annotations

import hashlib
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Protocol

import numpy as np
from torch import Tensor, nn

from paceline.errors import DeviceError
from paceline.exporters import onnx, tflite
from paceline.exporters.onnx import operators as onnx_operators
from paceline.exporters.torch_graph import graph_of
from paceline.files import write_atomically
from paceline.graph import OpSpec
from paceline.latency_models.collection.collect import Collector, rows_of
from paceline.latency_models.model import Network, Row, single
from paceline.latency_models.network_latency import NetworkLatency
from paceline.measurement import Artifact, Measurement, Progress, silent, usual_reference
from paceline.pipeline.merge_segments import Form

Source = Literal["measured", "predicted"]


@dataclass(frozen=True)
class Cost:
    """Milliseconds and number of operators of a form. "measured" is the form itself, or every operator of it."""

    ms: float
    operators: int
    source: Source


class Deployment(Protocol):
    """What a network becomes for a runtime."""

    def write(self, module: nn.Module, example: tuple[Tensor, ...], name: str) -> Artifact:
        """Its file; the same network gives the same file. Raises ExportError."""

    def count(self, artifact: Artifact) -> int:
        """How many operators the file has."""


@dataclass(frozen=True)
class TfliteDeployment:
    """A float `.tflite` in `folder`."""

    folder: Path

    def write(self, module: nn.Module, example: tuple[Tensor, ...], name: str) -> Artifact:
        return _kept(tflite.write(tflite.model_of(graph_of(module, example))), self.folder, name)

    def count(self, artifact: Artifact) -> int:
        return len(tflite.read(artifact.path).graph.operators())


@dataclass(frozen=True)
class OnnxDeployment:
    """A float `.onnx` in `folder`."""

    folder: Path

    def write(self, module: nn.Module, example: tuple[Tensor, ...], name: str) -> Artifact:
        with tempfile.TemporaryDirectory(prefix="paceline-merge-") as folder:
            path = Path(folder) / "network.onnx"
            onnx.write(module, example, path)
            return _kept(path.read_bytes(), self.folder, name, "onnx")

    def count(self, artifact: Artifact) -> int:
        return sum(onnx_operators(artifact.path).values())


class Costs(Protocol):
    def of(self, forms: Sequence[Form], progress: Progress = silent, whole: bool = False) -> list[Cost]:
        """What each form takes, in their order. `whole`: they are networks, which cost something besides their operators."""


class NetworkCosts:
    """Forms measured as networks of their own: for runtimes of which single operators say little.

    `reference` is measured beside them.
    """

    def __init__(self, deployment: Deployment, collector: Collector, reference: Artifact) -> None:
        self._deployment, self._collector, self._reference = deployment, collector, reference

    def of(self, forms: Sequence[Form], progress: Progress = silent, whole: bool = False) -> list[Cost]:
        """Raises DeviceError for a form that can't be measured."""
        artifacts = [self._deployment.write(form.module, form.example, "a form of a segment") for form in forms]
        found = self._collector.measure(artifacts, self._reference, progress)
        usual = usual_reference(found)
        return [Cost(_ms(m, usual), self._deployment.count(a), "measured") for m, a in zip(found, artifacts, strict=True)]


class OperatorCosts:
    """The sum of a form's operators, as a latency model has them.

    `model` is fitted on `rows` and on those of operators that have none there and that `collector` measures (None: they are
    predicted). `usual_ms` is the pace of `rows`: what the collector's reference usually takes. `executed` gives what the runtime
    runs as one.
    """

    def __init__(
        self,
        model: NetworkLatency,
        rows: Sequence[Row] = (),
        collector: Collector | None = None,
        usual_ms: float | None = None,
        operators: Callable[[Form], Network] | None = None,
        executed: Callable[[Network], Sequence[OpSpec]] = tuple,
    ) -> None:
        self._model, self._rows, self._collector, self._usual_ms = model, tuple(rows), collector, usual_ms
        self._operators, self._executed = operators or operators_of, executed

    def of(self, forms: Sequence[Form], progress: Progress = silent, whole: bool = False) -> list[Cost]:
        """Raises LatencyModelError where nothing is known of any operator."""
        networks = [tuple(self._executed(self._operators(form))) for form in forms]
        specs = list(dict.fromkeys(spec for network in networks for spec in network))
        rows = [*self._rows, *self._measured(specs, progress)]
        known = {row.operators[0] for row in single(rows)}
        model = self._model.fit(rows)
        if whole:
            ms = model.predict(networks).ms
        else:
            each = dict(zip(specs, model.operator_ms(specs).tolist(), strict=True))
            ms = np.array([sum(each[spec] for spec in network) for network in networks])
        return [
            Cost(float(its), len(network), "measured" if known.issuperset(network) else "predicted")
            for its, network in zip(ms, networks, strict=True)
        ]

    def _measured(self, specs: Sequence[OpSpec], progress: Progress) -> list[Row]:
        """Rows of operators without one; one that can't be measured alone is left to the model."""
        known = {row.operators[0] for row in single(self._rows)}
        missing = [spec for spec in specs if spec not in known]
        if self._collector is None or not missing:
            return []
        found = self._collector.operators(missing, progress)
        return rows_of(found, [[spec] for spec in missing], self._usual_ms or usual_reference(found))


def operators_of(form: Form) -> Network:
    """What a `.tflite` of a form holds in float."""
    return graph_of(form.module, form.example).operators()


def _ms(m: Measurement, usual_ms: float | None) -> float:
    if m.failure is not None:
        raise DeviceError(f"{m.subject} can't be measured: {m.failure.reason}")
    return m.ms_at(usual_ms)


def _kept(content: bytes, folder: Path, name: str, suffix: Literal["tflite", "onnx"] = "tflite") -> Artifact:
    path = folder / f"{hashlib.sha256(content).hexdigest()[:16]}.{suffix}"
    if not path.exists():
        write_atomically(path, content, sync=False)
    return Artifact(path, name, suffix)
