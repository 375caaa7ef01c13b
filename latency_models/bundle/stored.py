"""The rows of a bundle from the store: what was measured on one device under one Bench, at the device's usual pace."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import numpy as np

from paceline.errors import ExportError
from paceline.exporters.tflite import read
from paceline.graph import OpSpec
from paceline.latency_models.bundle.rows import KINDS, SIMULATED, UNSTABLE, FailedRow, MeasuredRow, bench_of
from paceline.measurement import REFERENCE_KEY, Artifact, Bench, DeviceInfo, Measurement, usual_reference
from paceline.store import Store

_ONE = 2.0
"""Within what factor the figures of one reference lie, whatever the device's clocks do."""


def tables_in(store: Store) -> list[tuple[DeviceInfo, Bench]]:
    """Of which devices and Benches a store has measurements, as `Bundle.from_store` takes them."""
    known = store.devices()
    found = {(event.device, event.bench) for event in store.events(limit=sys.maxsize) if event.artifact and event.bench}
    pairs = [(known[device], bench_of(json.loads(bench))) for device, bench in found if device in known and bench]
    return sorted(pairs, key=lambda pair: (pair[0].name, pair[0].fingerprint, pair[1].key))


def networks_in(paths: Iterable[Path]) -> dict[str, tuple[OpSpec, ...]]:
    """The operators of .tflite files, by SHA-256, as `Bundle.from_store` takes them. Raises ExportError."""
    return {Artifact(path, path.name).sha256: tuple(read(path).graph.operators()) for path in paths}


class Paced(NamedTuple):
    """Rows at the device's usual pace, and what each reference takes there (see `reference_of`)."""

    rows: tuple[MeasuredRow, ...]
    usual_ms: dict[str, float]


def stored_rows(
    store: Store, device: DeviceInfo, bench: Bench, networks: Mapping[str, Sequence[OpSpec]]
) -> tuple[Paced, tuple[FailedRow, ...]]:
    """`networks` gives the operators of whole networks, by the name or the SHA-256 of what was measured."""
    at = {
        event.artifact: event.at
        for event in store.events(device.fingerprint, sys.maxsize)
        if event.artifact is not None and event.bench == bench.key and event.kind in ("measured", "failed")
    }
    rows, failed = [], []
    for artifact, m in store.find(list(at), device.fingerprint, bench).items():
        spec = _operator(m.subject)
        operators = (spec,) if spec else tuple(networks.get(artifact) or networks.get(m.subject) or ())
        if m.failure is not None:
            failed.append(FailedRow(m.subject, m.failure.reason, operators, artifact, at[artifact]))
        else:
            flags = _flags(m, device, bench)
            rows.append(MeasuredRow(m.subject, m.ms, operators, "operator" if spec else "network", m, at[artifact], flags))
    return paced(rows), tuple(sorted(failed, key=lambda row: (row.subject, row.artifact)))


def paced(rows: Iterable[MeasuredRow]) -> Paced:
    """The rows in their one order, each at the pace at which its reference takes its median over all of them.

    Where nobody kept which reference it was, rows of one kind are taken to have the same one, unless their references differ too
    much for that: then the figures are those of the clock.
    """
    ordered = sorted(rows, key=lambda row: (KINDS.index(row.kind), row.subject, row.artifact))
    groups: dict[str, list[Measurement]] = {}
    for row in ordered:
        if row.measurement is not None and row.measurement.reference_ms:
            groups.setdefault(reference_of(row), []).append(row.measurement)
    usual = {name: usual_reference(found) for name, found in groups.items() if name not in KINDS or _alike(found)}
    known = {name: ms for name, ms in usual.items() if ms is not None}
    return Paced(tuple(_at_pace(row, known.get(reference_of(row))) for row in ordered), known)


def reference_of(row: MeasuredRow) -> str:
    """What paced a row: the SHA-256 of the reference, the kind of row where that wasn't kept, "" where there was none."""
    if row.measurement is None or not row.measurement.reference_ms:
        return ""
    return row.measurement.context.get(REFERENCE_KEY) or row.kind


def _alike(measurements: Iterable[Measurement]) -> bool:
    levels = [float(np.median(m.reference_ms)) for m in measurements]
    return max(levels) <= _ONE * min(levels)


def _at_pace(row: MeasuredRow, usual_ms: float | None) -> MeasuredRow:
    """A row without a reference stays as it is."""
    if row.measurement is None or not row.measurement.reference_ms:
        return row
    return replace(row, ms=row.measurement.ms_at(usual_ms))


def _operator(subject: str) -> OpSpec | None:
    """The operator that a key names; None for the name of a network."""
    if " -> " not in subject:
        return None
    try:
        return OpSpec.parse(subject)
    except ExportError:
        return None


def _flags(m: Measurement, device: DeviceInfo, bench: Bench) -> tuple[str, ...]:
    return (UNSTABLE,) * m.unstable(bench.tolerance) + (SIMULATED,) * device.simulated
