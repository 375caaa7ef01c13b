"""What a bundle holds of one thing that was measured, and its form as JSON."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np

from paceline.errors import DataError
from paceline.graph import OpSpec
from paceline.latency_models.model import Floats
from paceline.measurement import Bench, Delegation, Measurement, Summary

Kind = Literal["operator", "network", "block"]
KINDS: tuple[Kind, ...] = ("operator", "network", "block")
UNSTABLE, IMPORTED, SIMULATED, OUTLIER, PROFILED = "unstable", "imported", "simulated", "outlier", "profiled"
"""The flags a row may have: its batches disagree; it comes from a foreign file; no real device; far from what others suggest;
timed by a runtime's profiler inside a network, whose overhead it contains."""


@dataclass(frozen=True)
class MeasuredRow:
    """The latency of an operator, of a whole network, or of a block of one, as some tables have them.

    `ms` is the figure at the device's usual pace; `subject` is an operator's key, or what the source calls it. `operators` is
    what the device executes, one or more; () where that isn't known: the figure can be shown, but no model learns from it.
    `measurement` holds the raw samples; it is None where a foreign table gives just a figure, perhaps over `count` invokes with
    the standard deviation `std_ms`. `measured_at` is in seconds since 1970. Raises DataError for a figure that is no latency.
    """

    subject: str
    ms: float
    operators: tuple[OpSpec, ...] = ()
    kind: Kind = "operator"
    measurement: Measurement | None = None
    measured_at: float | None = None
    flags: tuple[str, ...] = ()
    count: int | None = None
    std_ms: float | None = None

    def __post_init__(self) -> None:
        if not (math.isfinite(self.ms) and self.ms > 0):
            raise DataError(f"{self.subject}: {self.ms} ms is no latency. Leave the row out, or measure it again.")

    @property
    def spread(self) -> float | None:
        """How far its batches or invokes disagree, relative; None where nobody knows."""
        if self.measurement is not None and len(self.measurement.batch_ms) > 1:
            return self.measurement.spread
        return None if self.std_ms is None else self.std_ms / self.ms

    @property
    def artifact(self) -> str:
        """SHA-256 of the file that was measured; "" where there is none."""
        return self.measurement.artifact if self.measurement is not None else ""


@dataclass(frozen=True)
class FailedRow:
    """What could not be measured, and why; measuring again would fail again."""

    subject: str
    reason: str
    operators: tuple[OpSpec, ...] = ()
    artifact: str = ""
    measured_at: float | None = None


def row_json(row: MeasuredRow, numbers: Mapping[OpSpec, int]) -> dict[str, Any]:
    """Without its samples. `numbers` tells the place of each operator in the bundle's list of them."""
    values = {name: getattr(row, name) for name in ("subject", "ms", "kind", "measured_at", "count", "std_ms")}
    m = row.measurement
    if m is not None:
        values["measurement"] = {
            "artifact": m.artifact,
            "batches": [len(batch) for batch in m.samples_ms],
            "cpu_share": m.cpu_share,
            "reference_ms": m.reference_ms,
            "context": dict(m.context),
            "summaries": [asdict(summary) for summary in m.summaries],
            "delegation": asdict(m.delegation) if m.delegation else None,
        }
    return values | {"operators": [numbers[spec] for spec in row.operators], "flags": row.flags}


def row_of(values: Mapping[str, Any], operators: list[OpSpec], samples: Floats, device: str, bench: str) -> MeasuredRow:
    """The row of `row_json`; `samples` are its samples, all batches after one another."""
    held = dict(values)
    specs, flags = tuple(operators[i] for i in held.pop("operators")), tuple(map(str, held.pop("flags")))
    m = held.pop("measurement", None)
    if held["kind"] not in KINDS:
        raise ValueError(f"a row is of the unknown kind {held['kind']!r}")
    measurement = m and Measurement(
        subject=held["subject"],
        artifact=m["artifact"],
        device=device,
        bench=bench,
        samples_ms=_batches(samples, m["batches"]),
        cpu_share=tuple(m["cpu_share"]),
        reference_ms=tuple(m["reference_ms"]),
        context=m["context"],
        summaries=tuple(Summary(**summary) for summary in m["summaries"]),
        delegation=_delegation(m["delegation"]),
    )
    return MeasuredRow(**held, operators=specs, flags=flags, measurement=measurement)


def samples_in(values: Mapping[str, Any]) -> int:
    """How many samples the row of this JSON has."""
    return sum((values.get("measurement") or {}).get("batches", ()))


def failure_json(row: FailedRow, numbers: Mapping[OpSpec, int]) -> dict[str, Any]:
    values = {name: getattr(row, name) for name in ("subject", "reason", "artifact", "measured_at")}
    return values | {"operators": [numbers[spec] for spec in row.operators]}


def failure_of(values: Mapping[str, Any], operators: list[OpSpec]) -> FailedRow:
    held = dict(values)
    return FailedRow(operators=tuple(operators[i] for i in held.pop("operators")), **held)


def bench_of(values: Mapping[str, Any]) -> Bench:
    """The Bench that was written as JSON, its key for example."""
    options = tuple((str(name), str(value)) for name, value in values["options"])
    return Bench(**{**values, "affinity": tuple(values["affinity"]), "options": options})


def _batches(samples: Floats, lengths: list[int]) -> tuple[tuple[float, ...], ...]:
    if min(lengths, default=0) < 0 or sum(lengths) != len(samples):
        raise ValueError(f"a row with {len(samples)} samples has batches of {lengths[:5]}")
    return tuple(tuple(batch.tolist()) for batch in np.split(samples, np.cumsum(lengths, dtype=int))[:-1])


def _delegation(held: Mapping[str, Any] | None) -> Delegation | None:
    if held is None:
        return None
    left = held["left"]
    return Delegation(held["delegate"], held["partitions"], held["delegated"], None if left is None else tuple(left))
