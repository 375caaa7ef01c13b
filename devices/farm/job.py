"""Jobs for a farm, and what comes of them. A job can be done twice: its rows are kept once."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

from paceline.measurement import Artifact, Bench, DeviceInfo, Failure, Measurement


@dataclass(frozen=True)
class Job:
    """Artifacts whose batches are interleaved on one device. Jobs of one `group` all go to the same device: comparisons."""

    artifacts: tuple[Artifact, ...]
    bench: Bench
    reference: Artifact | None = None
    group: str = ""


@dataclass(frozen=True)
class Result:
    """What came of a job: measurements on `device`, in the order of its artifacts, or why there are none."""

    job: Job
    device: str = ""
    info: DeviceInfo | None = None
    measurements: tuple[Measurement, ...] = ()
    failure: Failure | None = None


class Known(Protocol):
    """What `plan` asks of a store."""

    def find(self, artifacts: Sequence[str], device: str, bench: Bench) -> dict[str, Measurement]: ...


def plan(store: Known, jobs: Iterable[Job], fingerprints: Sequence[str], count: int = 1) -> list[Job]:
    """What the store lacks: jobs, or the part of their artifacts, that are known on fewer than `count` of the devices.

    `fingerprints` are those of the devices that may be used, one each (devices with the same one share measurements).
    """
    jobs = list(jobs)
    wanted: dict[Bench, dict[str, None]] = defaultdict(dict)
    for job in jobs:
        wanted[job.bench].update(dict.fromkeys(artifact.sha256 for artifact in job.artifacts))
    seen: dict[tuple[Bench, str], int] = defaultdict(int)
    for bench, artifacts in wanted.items():
        found = {fingerprint: store.find(list(artifacts), fingerprint, bench) for fingerprint in set(fingerprints)}
        for fingerprint in fingerprints:
            for artifact in found[fingerprint]:
                seen[bench, artifact] += 1
    lacking = [replace(job, artifacts=tuple(a for a in job.artifacts if seen[job.bench, a.sha256] < count)) for job in jobs]
    return [job for job in lacking if job.artifacts]
