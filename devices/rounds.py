"""The measuring protocol, the same for every device: hot batches, interleaved, with a reference measured all along.

Single invokes rotated through operators read 12 to 69 % high (caches and branch predictors go cold); one long block per
operator takes the drift of the machine for a property of the operator. So in every round each artifact gets one warmed-up
batch, between two batches of a reference. The reference tells the pace of the device at that moment (`Measurement.ms_at`
makes use of it). A round in which it changed too much, or in which the device got into trouble, is measured again.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from paceline.devices.gate import Watch
from paceline.devices.runners.runner import Batch, Session
from paceline.errors import DeviceError, TransientDeviceError
from paceline.measurement import REFERENCE_KEY, Artifact, Bench, Failure, Measurement, TransientFailure

_FEWEST = 3
"""Batches, where they agree to within `Bench.agreement`."""


@dataclass(frozen=True)
class _Paced:
    """A batch, and what the reference took when it ran (None without a reference)."""

    batch: Batch
    reference_ms: float | None

    @property
    def relative(self) -> float:
        return self.batch.low / (self.reference_ms or 1.0)


@dataclass
class _Subject:
    """An artifact and what is known of it so far. `spare` batches are of rounds that don't count."""

    artifact: Artifact
    kept: list[_Paced] = field(default_factory=list)
    spare: list[_Paced] = field(default_factory=list)
    failure: Failure | None = None

    def settled(self, bench: Bench) -> bool:
        figures = [b.relative for b in self.kept]
        if self.failure or (len(figures) >= _FEWEST and max(figures) - min(figures) <= bench.agreement * min(figures)):
            return True
        if len(figures) < bench.batches:
            return False
        low, middle, high = np.percentile(figures, [25, 50, 75])
        return bool(high - low <= bench.tolerance * middle)


def measure_rounds(
    session: Session,
    artifacts: Sequence[Artifact],
    bench: Bench,
    device: str,
    reference: Artifact | None,
    context: Mapping[str, str],
    watch: Watch | None = None,
) -> list[Measurement]:
    """One Measurement per artifact. `device` is a fingerprint; `context` and which reference it was are kept with each.

    Every artifact gets `bench.batches` batches, three where they agree; up to `bench.repeats` more rounds replace those that
    don't count, and go to artifacts whose batches disagree by more than `bench.tolerance`. When the device is lost, what wasn't
    settled by then is a TransientFailure.
    """
    subjects = [_Subject(artifact) for artifact in artifacts]
    restless = 0
    for _ in range(bench.batches + bench.repeats):
        pending = [s for s in subjects if not s.settled(bench)]
        if not pending:
            break
        try:
            restless += not _round(session, pending, bench, reference, watch)
        except TransientDeviceError as e:
            for subject in pending:
                subject.failure = subject.failure or TransientFailure(str(e))
            break
    facts = {**context, "restless_rounds": str(restless)} | ({REFERENCE_KEY: reference.sha256} if reference else {})
    return [_measurement(subject, bench, device, facts) for subject in subjects]


def _round(session: Session, pending: list[_Subject], bench: Bench, reference: Artifact | None, watch: Watch | None) -> bool:
    """One batch of every pending artifact. Says whether the round counts."""
    if watch is not None:
        watch.settle()
    before = _reference(session, reference)
    batches: list[tuple[_Subject, Batch]] = []
    for subject in pending:
        result = session.batch(subject.artifact)
        if isinstance(result, Failure):
            subject.failure = result
        else:
            batches.append((subject, result))
    after = _reference(session, reference)
    calm = reference is None
    if before is not None and after is not None:
        calm = abs(after - before) <= bench.tolerance * min(before, after)
    counts = calm and not (watch is not None and watch.disturbance())
    for at, (subject, batch) in enumerate(batches):
        moment = (at + 0.5) / len(batches)
        pace = None if before is None or after is None else before + moment * (after - before)
        (subject.kept if counts else subject.spare).append(_Paced(batch, pace))
    return counts


def _reference(session: Session, reference: Artifact | None) -> float | None:
    batch = session.batch(reference) if reference is not None else None
    if isinstance(batch, Failure) and not isinstance(batch, TransientFailure):
        raise DeviceError(f"the reference operator can't be measured: {batch.reason}")
    return batch.low if isinstance(batch, Batch) else None


def _measurement(subject: _Subject, bench: Bench, device: str, context: Mapping[str, str]) -> Measurement:
    """Restless batches count only where there are too few calm ones: better a wide spread, visible as such, than no row."""
    found = [] if subject.failure else subject.kept + subject.spare[: max(0, bench.batches - len(subject.kept))]
    paces = [b.reference_ms for b in found if b.reference_ms is not None]
    return Measurement(
        subject=subject.artifact.subject,
        artifact=subject.artifact.sha256,
        device=device,
        bench=bench.key,
        samples_ms=tuple(b.batch.samples_ms for b in found if b.batch.summary is None),
        cpu_share=tuple(b.batch.cpu_share for b in found if b.batch.cpu_share is not None),
        reference_ms=tuple(paces) if len(paces) == len(found) else (),
        failure=subject.failure,
        context=context,
        summaries=tuple(b.batch.summary for b in found if b.batch.summary is not None),
    )
