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
from paceline.measurement import Artifact, Bench, Measurement, Progress, TransientFailure, silent
from paceline.store import Store

GROUP = 32
"""How many artifacts are measured interleaved; after each group the store has them.

Many, so that the batches of one artifact lie seconds apart and a disturbance of a second does not hit all of them.
"""

TRIES = 3
"""How often an artifact is measured whose failure was transient, a crashed worker for example."""

REFERENCE = OpSpec(
    "CONV_2D",
    (TensorSpec((1, 28, 28, 32)), TensorSpec((64, 1, 1, 32)), TensorSpec((64,))),
    (TensorSpec((1, 28, 28, 64)),),
    attrs(stride=(1, 1), dilation=(1, 1), padding="SAME", activation="NONE"),
    (1, 2),
)
"""The operator that is measured all along with other operators, to see the device drift."""


@dataclass(frozen=True)
class Pace:
    """What tells how fast the device runs at the moment: `reference`, which usually takes `usual_ms` (None: not known).

    Networks need one that is a network: what slows a memory bus down does not slow a small operator.
    """

    reference: Artifact
    usual_ms: float | None


@dataclass(frozen=True)
class Collector:
    """Measures on one device under one Bench into a store; `folder` takes the single-operator models."""

    device: Device
    bench: Bench
    store: Store
    folder: Path

    def measure(self, artifacts: Sequence[Artifact], reference: Artifact, progress: Progress = silent) -> list[Measurement]:
        """A Measurement for each artifact, from the store where it is known. Failures are among them."""
        known = self.store.find([a.sha256 for a in artifacts], self.device.info.fingerprint, self.bench)
        todo = list({a.sha256: a for a in artifacts if a.sha256 not in known}.values())
        done = len(artifacts) - len(todo)
        progress(done, len(artifacts), "from the store" if not todo else "")
        if todo:
            self.store.add_device(self.device.info)
        for at in range(0, len(todo), GROUP):
            found = self._measured(todo[at : at + GROUP], reference)
            self.store.add(list(found.values()))
            known |= found
            progress(min(done + at + GROUP, len(artifacts)), len(artifacts))
        return [known[a.sha256] for a in artifacts]

    def _measured(self, artifacts: Sequence[Artifact], reference: Artifact) -> dict[str, Measurement]:
        """By artifact. What failed only this time is tried again."""
        found: dict[str, Measurement] = {}
        for _ in range(TRIES):
            todo = [a for a in artifacts if a.sha256 not in found or isinstance(found[a.sha256].failure, TransientFailure)]
            if not todo:
                break
            found |= {m.artifact: m for m in self.device.measure(todo, self.bench, reference)}
        return found

    def operators(self, specs: Sequence[OpSpec], progress: Progress = silent) -> list[Measurement]:
        """A Measurement for each operator, as a model of its own."""
        models = [write_operator(spec, self.folder) for spec in specs]
        return self.measure(models, write_operator(REFERENCE, self.folder), progress)


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
