"""Measurements, devices and events as rows, and back."""

from __future__ import annotations

import json
import time
import zlib
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np

from paceline.measurement import Delegation, DeviceInfo, Failure, Measurement, Summary, TransientFailure


@dataclass(frozen=True)
class Event:
    """One line of a device's log: what happened `at` (seconds since 1970), and who says so.

    `device` is a fingerprint, or an address where that isn't known. Of a measurement (kind "measured", "failed" or "transient",
    the failure that may not come again) the figures and the context are kept too, also when a later one replaces it.
    """

    at: float
    by: str
    device: str
    kind: str
    text: str
    artifact: str | None = None
    bench: str | None = None
    ms: float | None = None
    spread: float | None = None
    context: Mapping[str, str] = field(default_factory=dict)


def measurement_row(m: Measurement) -> dict[str, Any]:
    samples = np.asarray([ms for batch in m.samples_ms for ms in batch], np.float64)
    return {
        "artifact": m.artifact,
        "device": m.device,
        "bench": m.bench,
        "subject": clean(m.subject),
        "ms": m.ms if m.batch_ms else None,
        "spread": m.spread if m.batch_ms else None,
        "samples": zlib.compress(samples.tobytes(), 1),
        "batches": json.dumps([len(batch) for batch in m.samples_ms]),
        "cpu_share": json.dumps(m.cpu_share),
        "reference": json.dumps(m.reference_ms),
        "failure": clean(m.failure.reason) if m.failure else None,
        "transient": isinstance(m.failure, TransientFailure),
        "context": json.dumps(dict(m.context)),
        "measured_at": time.time(),
        "summaries": json.dumps([asdict(s) for s in m.summaries]),
        "delegation": json.dumps(asdict(m.delegation)) if m.delegation else None,
    }


def measurement_of(row: Any) -> Measurement:
    samples = np.frombuffer(zlib.decompress(row.samples), np.float64)
    ends = np.cumsum(json.loads(row.batches), dtype=int)
    failure = TransientFailure if row.transient else Failure
    return Measurement(
        subject=row.subject,
        artifact=row.artifact,
        device=row.device,
        bench=row.bench,
        samples_ms=tuple(tuple(batch.tolist()) for batch in np.split(samples, ends)[:-1]),
        cpu_share=tuple(json.loads(row.cpu_share)),
        reference_ms=tuple(json.loads(row.reference)),
        failure=failure(row.failure) if row.failure is not None else None,
        context=json.loads(row.context),
        summaries=tuple(Summary(**s) for s in json.loads(row.summaries)),
        delegation=_delegation(row.delegation),
    )


def _delegation(text: str | None) -> Delegation | None:
    if text is None:
        return None
    found = json.loads(text)
    left = found["left"]
    return Delegation(found["delegate"], found["partitions"], found["delegated"], None if left is None else tuple(left))


def device_row(info: DeviceInfo) -> dict[str, Any]:
    return {
        "fingerprint": info.fingerprint,
        "name": clean(info.name),
        "kind": info.kind,
        "simulated": info.simulated,
        "facts": json.dumps(dict(info.facts)),
        "delegates": json.dumps(info.delegates),
    }


def device_of(row: Any) -> DeviceInfo:
    return DeviceInfo(row.name, row.kind, json.loads(row.facts), row.simulated, tuple(json.loads(row.delegates)))


def attempt_of(measured: Mapping[str, Any], by: str) -> Event:
    """What the log keeps of a measurement's row."""
    failure, ms, spread = measured["failure"], measured["ms"], measured["spread"]
    kind = "measured" if failure is None else "transient" if measured["transient"] else "failed"
    said = failure if failure is not None else "no figure" if ms is None else f"{ms:.5g} ms, spread {spread:.1%}"
    return Event(
        at=measured["measured_at"],
        by=by,
        device=measured["device"],
        kind=kind,
        text=f"{measured['subject']}: {said}",
        artifact=measured["artifact"],
        bench=measured["bench"],
        ms=ms,
        spread=spread,
        context=json.loads(measured["context"]),
    )


def event_row(event: Event) -> dict[str, Any]:
    texts = {name: clean(getattr(event, name)) for name in ("by", "device", "kind", "text")}
    return {**asdict(event), **texts, "context": json.dumps(dict(event.context))}


def event_of(row: Any) -> Event:
    values = {name: row[name] for name in Event.__dataclass_fields__}
    return Event(**{**values, "context": json.loads(row["context"] or "{}")})


def clean(text: str) -> str:
    """Text that every database takes. What a device prints may hold NULs and pieces of characters."""
    return text.encode("utf-8", "replace").decode().replace("\0", "\N{REPLACEMENT CHARACTER}")
