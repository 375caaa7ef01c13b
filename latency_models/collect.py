"""Rows for latency models: what was not measured yet is measured, stored at once, and never measured twice."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from paceline.devices.device import Device
from paceline.errors import LatencyModelError
from paceline.exporters.operator_models import write_operator
from paceline.graph import OpSpec, TensorSpec, attrs
from paceline.latency_models.model import Row
from paceline.measurement import Artifact, Bench, Measurement, Progress, silent
from paceline.store import Store

GROUP = 16
"""How many artifacts are measured interleaved; after each group the store has them."""

REFERENCE = OpSpec(
    "CONV_2D",
    (TensorSpec((1, 28, 28, 32)), TensorSpec((64, 1, 1, 32)), TensorSpec((64,))),
    (TensorSpec((1, 28, 28, 64)),),
    attrs(stride=(1, 1), dilation=(1, 1), padding="SAME", activation="NONE"),
    (1, 2),
)
"""The operator that is measured all along, to see the device drift."""


@dataclass(frozen=True)
class Collector:
    """Measures on one device under one Bench into a store; `folder` takes the single-operator models."""

    device: Device
    bench: Bench
    store: Store
    folder: Path

    def measure(self, artifacts: Sequence[Artifact], progress: Progress = silent) -> list[Measurement]:
        """A Measurement for each artifact, from the store where it is known. Failures are among them."""
        known = self.store.find([a.sha256 for a in artifacts], self.device.info.fingerprint, self.bench)
        todo = list({a.sha256: a for a in artifacts if a.sha256 not in known}.values())
        done = len(artifacts) - len(todo)
        progress(done, len(artifacts), "from the store" if not todo else "")
        if todo:
            self.store.add_device(self.device.info)
        reference = write_operator(REFERENCE, self._made_folder())
        for at in range(0, len(todo), GROUP):
            found = self.device.measure(todo[at : at + GROUP], self.bench, reference)
            self.store.add(found)
            known |= {m.artifact: m for m in found}
            progress(min(done + at + GROUP, len(artifacts)), len(artifacts))
        return [known[a.sha256] for a in artifacts]

    def operators(self, specs: Sequence[OpSpec], progress: Progress = silent) -> list[Measurement]:
        """A Measurement for each operator, as a model of its own."""
        folder = self._made_folder()
        return self.measure([write_operator(spec, folder) for spec in specs], progress)

    def _made_folder(self) -> Path:
        self.folder.mkdir(parents=True, exist_ok=True)
        return self.folder


def rows_of(measurements: Sequence[Measurement], operators: Sequence[Sequence[OpSpec]], usual_ms: float | None) -> list[Row]:
    """Rows for `LatencyModel.fit`, one per successful measurement, at the pace at which the reference takes `usual_ms`.

    Raises LatencyModelError where no measurement succeeded.
    """
    pairs = zip(measurements, operators, strict=True)
    rows = [Row(tuple(specs), m.ms_at(usual_ms)) for m, specs in pairs if m.failure is None]
    if not rows:
        reason = measurements[0].failure.reason if measurements and measurements[0].failure else "there was nothing to measure"
        raise LatencyModelError(f"not one of {len(measurements)} measurements succeeded; the first: {reason}")
    return rows
