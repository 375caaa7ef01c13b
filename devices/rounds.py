"""The measuring protocol, the same for every device: hot batches, interleaved, with a reference measured all along.

Single invokes rotated through operators read 12 to 69 % high (caches and branch predictors go cold); one long block per
operator takes the drift of the machine for a property of the operator. So in every round each artifact gets one warmed-up
batch, between two batches of a reference. The reference tells the pace of the device at that moment (`Measurement.ms_at`
makes use of it), and a round in which it changed too much is measured again.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from paceline.measurement import Artifact, Bench, Failure, Measurement

_FEWEST = 3
"""Batches, where they agree to within `Bench.agreement`."""


@dataclass(frozen=True)
class Batch:
    """Some back-to-back invokes after a warm-up: milliseconds of each, and thread CPU time over wall time of the whole."""

    samples_ms: tuple[float, ...]
    cpu_share: float

    @property
    def p10(self) -> float:
        return float(np.percentile(self.samples_ms, 10))


class Session(Protocol):
    """One device, ready to run batches under one Bench. Keeps what was loaded until it is closed."""

    def batch(self, artifact: Artifact) -> Batch | Failure: ...


@dataclass(frozen=True)
class _Paced:
    """A batch, and what the reference took when it ran (None without a reference)."""

    batch: Batch
    reference_ms: float | None

    @property
    def relative(self) -> float:
        return self.batch.p10 / (self.reference_ms or 1.0)


def measure_rounds(
    session: Session,
    artifacts: Sequence[Artifact],
    bench: Bench,
    device: str,
    reference: Artifact | None,
    context: Mapping[str, str],
) -> list[Measurement]:
    """One Measurement per artifact. `device` is a fingerprint; `context` is kept with every measurement.

    Every artifact gets `bench.batches` batches, three where they agree; up to `bench.repeats` more rounds replace those in
    which the reference changed by more than `bench.tolerance`, and go to artifacts whose batches disagree by more than that.
    """
    kept: list[list[_Paced]] = [[] for _ in artifacts]
    spare: list[list[_Paced]] = [[] for _ in artifacts]
    failures: dict[int, Failure] = {}
    restless = 0
    for _ in range(bench.batches + bench.repeats):
        pending = [i for i in range(len(artifacts)) if i not in failures and not _settled(kept[i], bench)]
        if not pending:
            break
        before = _reference(session, reference)
        batches: dict[int, Batch] = {}
        for i in pending:
            result = session.batch(artifacts[i])
            if isinstance(result, Failure):
                failures[i] = result
            else:
                batches[i] = result
        after = _reference(session, reference)
        calm = before is None or after is None or abs(after - before) <= bench.tolerance * min(before, after)
        restless += not calm
        for at, (i, batch) in enumerate(batches.items()):
            moment = (at + 0.5) / len(batches)
            pace = None if before is None or after is None else before + moment * (after - before)
            (kept if calm else spare)[i].append(_Paced(batch, pace))
    facts = {**context, "restless_rounds": str(restless)}
    return [
        _measurement(artifact, bench, device, failures.get(i), kept[i], spare[i], facts) for i, artifact in enumerate(artifacts)
    ]


def _settled(batches: list[_Paced], bench: Bench) -> bool:
    figures = [b.relative for b in batches]
    if len(figures) >= _FEWEST and max(figures) - min(figures) <= bench.agreement * min(figures):
        return True
    if len(figures) < bench.batches:
        return False
    low, middle, high = np.percentile(figures, [25, 50, 75])
    return bool(high - low <= bench.tolerance * middle)


def _reference(session: Session, reference: Artifact | None) -> float | None:
    batch = session.batch(reference) if reference is not None else None
    return batch.p10 if isinstance(batch, Batch) else None


def _measurement(
    artifact: Artifact,
    bench: Bench,
    device: str,
    failure: Failure | None,
    kept: list[_Paced],
    spare: list[_Paced],
    context: Mapping[str, str],
) -> Measurement:
    """Restless batches count only where there are too few calm ones: better a wide spread, visible as such, than no row."""
    found = [] if failure else kept + spare[: max(0, bench.batches - len(kept))]
    return Measurement(
        subject=artifact.subject,
        artifact=artifact.sha256,
        device=device,
        bench=bench.key,
        samples_ms=tuple(b.batch.samples_ms for b in found),
        cpu_share=tuple(b.batch.cpu_share for b in found),
        reference_ms=tuple(b.reference_ms for b in found if b.reference_ms is not None),
        failure=failure,
        context=context,
    )
