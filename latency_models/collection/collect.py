"""Rows for latency models: what was not measured yet is measured, stored at once, and never measured twice."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from paceline.devices.device import Device
from paceline.errors import LatencyModelError, TransientDeviceError
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

DEVICE_S, PURPOSE = "device_s", "measured_for"
"""In a measurement's context: its share of the seconds that the device was busy, and what it was measured for."""

SECOND = "second_session"
"""In the context of a measurement that holds the batches of two sessions, or why the second one failed."""

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
    """Measures on one device under one Bench into a store; `folder` takes the single-operator models.

    `purpose` is kept with every measurement, so that what was spent on it can be told (see `spent_s`).
    """

    device: Device
    bench: Bench
    store: Store
    folder: Path
    purpose: str = ""

    def measure(
        self, artifacts: Sequence[Artifact], reference: Artifact, progress: Progress = silent, again: bool = False
    ) -> list[Measurement]:
        """A Measurement for each artifact, from the store where it is known. Failures are among them.

        With `again` all are measured, and replace what the store has.
        """
        known = {} if again else self.known(artifacts)
        todo = list({a.sha256: a for a in artifacts if a.sha256 not in known}.values())
        done = len(artifacts) - len(todo)
        progress(done, len(artifacts), "from the store" if not todo else "")
        if todo:
            self.store.add_device(self.device.info)
        for at in range(0, len(todo), GROUP):
            found = self._measured(todo[at : at + GROUP], reference)
            known |= found
            progress(min(done + at + GROUP, len(artifacts)), len(artifacts))
        return [known[a.sha256] for a in artifacts]

    def known(self, artifacts: Sequence[Artifact]) -> dict[str, Measurement]:
        """What the store has of `artifacts` on this device under this Bench, by sha256."""
        return self.store.find([a.sha256 for a in artifacts], self.device.info.fingerprint, self.bench)

    def _measured(self, artifacts: Sequence[Artifact], reference: Artifact) -> dict[str, Measurement]:
        """By artifact. What failed only this time is tried again; every attempt is stored at once."""
        found: dict[str, Measurement] = {}
        for _ in range(TRIES):
            todo = [a for a in artifacts if a.sha256 not in found or isinstance(found[a.sha256].failure, TransientFailure)]
            if not todo:
                break
            new = measure_timed(self.device, todo, self.bench, reference)
            if self.purpose:
                new = [replace(m, context={**m.context, PURPOSE: self.purpose}) for m in new]
            self.store.add(new)
            found |= {m.artifact: m for m in new}
        return found

    def once_more(self, artifacts: Sequence[Artifact], reference: Artifact) -> list[Measurement]:
        """Another session of artifacts that the store has; its batches join theirs, in the store too, when it is over.

        A session that fails is noted in the context. Raises TransientDeviceError where all do, because the device is lost.
        """
        known = self.known(artifacts)
        new = measure_timed(self.device, artifacts, self.bench, reference)
        lost = [m.failure.reason for m in new if isinstance(m.failure, TransientFailure)]
        if len(lost) == len(new):
            raise TransientDeviceError(
                f"nothing can be measured now, the last reason: {lost[-1]}; try the same command again later"
            )
        notes = [{PURPOSE: self.purpose, SECOND: m.failure.reason if m.failure else "joined"} for m in new]
        joined = [replace(known[m.artifact].joined(m), context={**m.context, **note}) for m, note in zip(new, notes, strict=True)]
        self.store.add(joined)
        return joined

    def operators(self, specs: Sequence[OpSpec], progress: Progress = silent) -> list[Measurement]:
        """A Measurement for each operator, as a model of its own."""
        models = [write_operator(spec, self.folder) for spec in specs]
        return self.measure(models, write_operator(REFERENCE, self.folder), progress)

    def spent_s(self) -> float:
        """The seconds that the device was busy for `purpose` until now, attempts that failed included, in every process."""
        events = self.store.events(self.device.info.fingerprint, limit=2**31 - 1)
        mine = [e.context for e in events if e.bench == self.bench.key and e.context.get(PURPOSE) == self.purpose]
        return sum(float(context.get(DEVICE_S, 0.0)) for context in mine)


def measure_timed(device: Device, artifacts: Sequence[Artifact], bench: Bench, reference: Artifact | None) -> list[Measurement]:
    """`Device.measure`, with every measurement's share of the time in its context: all that passed meanwhile on the device's
    own clock (`clock`, where it has one, as simulated phones do), loading, waiting for it to cool and retries included.

    A device that tells by itself, because it is elsewhere and calls wait for it, is believed.
    """
    clock = getattr(device, "clock", time)
    start = clock.monotonic()
    found = device.measure(artifacts, bench, reference)
    share = f"{(clock.monotonic() - start) / max(len(found), 1):.6f}"
    return [replace(m, context={DEVICE_S: share, **m.context}) for m in found]


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
