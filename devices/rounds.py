"""The measuring protocol, the same for every device: hot batches, interleaved, with a reference measured all along.

Single invokes rotated through operators read 12 to 69 % high (caches and branch predictors go cold); one long block per
operator takes the drift of the machine for a property of the operator. So: in every round each artifact gets one warmed-up
batch, and a round in which the reference ran slower than usual is measured again. The figure of a batch is its p10, the
figure of an artifact the median of its batches (`Measurement.ms`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np

from paceline.measurement import Artifact, Bench, Failure, Measurement


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


@dataclass
class Drift:
    """Remembers the reference over a whole session and says whether the device runs as usual."""

    seen: list[float] = field(default_factory=list)

    def calm(self, reference_ms: Sequence[float], tolerance: float) -> bool:
        """Whether `reference_ms` are within `tolerance` of the usual figure; they then count towards it."""
        usual = float(np.median([*self.seen, *reference_ms]))
        self.seen.extend(reference_ms)
        return max(reference_ms) <= usual * (1 + tolerance)


def measure_rounds(
    session: Session,
    artifacts: Sequence[Artifact],
    bench: Bench,
    device: str,
    reference: Artifact | None,
    drift: Drift,
    context: Mapping[str, str],
) -> list[Measurement]:
    """One Measurement per artifact. `device` is a fingerprint; `context` is kept with every measurement.

    Every artifact gets `bench.batches` batches; up to `bench.repeats` more rounds replace those that were not calm and go to
    artifacts whose batches disagree by more than `bench.tolerance`.
    """
    kept: list[list[Batch]] = [[] for _ in artifacts]
    spare: list[list[Batch]] = [[] for _ in artifacts]
    failures: dict[int, Failure] = {}
    restless = 0
    for _ in range(bench.batches + bench.repeats):
        pending = [i for i in range(len(artifacts)) if i not in failures and not _settled(kept[i], bench)]
        if not pending:
            break
        references = _reference(session, reference)
        round_batches: dict[int, Batch] = {}
        for i in pending:
            result = session.batch(artifacts[i])
            if isinstance(result, Failure):
                failures[i] = result
            else:
                round_batches[i] = result
        references += _reference(session, reference)
        calm = not references or drift.calm(references, bench.tolerance)
        restless += not calm
        for i, batch in round_batches.items():
            (kept if calm else spare)[i].append(batch)
    facts = {**context, "restless_rounds": str(restless)}
    return [
        _measurement(artifact, bench, device, failures.get(i), kept[i], spare[i], facts) for i, artifact in enumerate(artifacts)
    ]


def _settled(batches: list[Batch], bench: Bench) -> bool:
    if len(batches) < bench.batches:
        return False
    low, middle, high = np.percentile([b.p10 for b in batches], [25, 50, 75])
    return bool(high - low <= bench.tolerance * middle)


def _reference(session: Session, reference: Artifact | None) -> list[float]:
    batch = session.batch(reference) if reference is not None else None
    return [batch.p10] if isinstance(batch, Batch) else []


def _measurement(
    artifact: Artifact,
    bench: Bench,
    device: str,
    failure: Failure | None,
    kept: list[Batch],
    spare: list[Batch],
    context: Mapping[str, str],
) -> Measurement:
    """Restless batches count only where there are too few calm ones: better a wide spread, visible as such, than no row."""
    batches = [] if failure else kept + spare[: max(0, bench.batches - len(kept))]
    return Measurement(
        subject=artifact.subject,
        artifact=artifact.sha256,
        device=device,
        bench=bench.key,
        samples_ms=tuple(b.samples_ms for b in batches),
        cpu_share=tuple(b.cpu_share for b in batches),
        failure=failure,
        context=context,
    )
