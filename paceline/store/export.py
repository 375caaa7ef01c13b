"""Measurements as a flat file for other tools: CSV, or Parquet with every invoke."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Literal

import sqlalchemy as sa

from paceline.errors import StoreError
from paceline.files import write_atomically
from paceline.measurement import Bench, DeviceInfo, Measurement
from paceline.store.rows import device_of, measurement_of
from paceline.store.tables import devices, measurements

_CHUNK = 500
"""Rows at a time in memory, and in a row group of Parquet."""


_Kind = Literal["text", "int", "float", "bool", "floats", "batches"]


@dataclass(frozen=True)
class _Record:
    row: Any
    measurement: Measurement
    bench: Mapping[str, Any]
    device: DeviceInfo | None


@dataclass(frozen=True)
class _Column:
    name: str
    kind: _Kind
    of: Callable[[_Record], Any]


def write(db: sa.Connection, path: Path, samples: bool | None) -> int:
    """Every measurement, by device, Bench and subject, to `path`; returns how many. Raises StoreError."""
    suffix = path.suffix.lower()
    if suffix not in _WRITERS:
        raise StoreError(f"can't export to {path}: the suffix says the format, and it is one of {', '.join(_WRITERS)}")
    known = {row.fingerprint: device_of(row) for row in db.execute(sa.select(devices))}
    columns = _columns(known, suffix == ".parquet" if samples is None else samples)
    written = 0

    def chunks() -> Iterator[list[_Record]]:
        nonlocal written
        query = sa.select(measurements).order_by("device", "bench", "subject", "artifact").execution_options(yield_per=_CHUNK)
        for part in db.execute(query).partitions():
            written += len(part)
            yield [_Record(row, measurement_of(row), json.loads(row.bench), known.get(row.device)) for row in part]

    write_atomically(path, _WRITERS[suffix](columns, chunks(), path))
    return written


def _columns(known: Mapping[str, DeviceInfo], samples: bool) -> list[_Column]:
    """The same for every row; what isn't known of one is empty there."""
    found = [
        _Column("subject", "text", lambda r: r.row.subject),
        _Column("ms", "float", lambda r: r.row.ms),
        _Column("median_ms", "float", lambda r: r.measurement.median_ms if r.measurement.batch_ms else None),
        _Column("spread", "float", lambda r: r.row.spread),
        _Column("failure", "text", lambda r: r.row.failure),
        _Column("transient", "bool", lambda r: r.row.transient),
        _Column("measured_at", "float", lambda r: r.row.measured_at),
        _Column("artifact", "text", lambda r: r.row.artifact),
        _Column("device", "text", lambda r: r.row.device),
        _Column("device_name", "text", lambda r: r.device and r.device.name),
        _Column("device_kind", "text", lambda r: r.device and r.device.kind),
        _Column("simulated", "bool", lambda r: r.device and r.device.simulated),
        *(_fact(name) for name in sorted({name for info in known.values() for name in info.facts})),
        *(_setting(f.name, f.default) for f in fields(Bench)),
        _Column("delegation", "text", lambda r: r.measurement.delegation and r.measurement.delegation.state),
        _Column("partitions", "int", lambda r: r.measurement.delegation and r.measurement.delegation.partitions),
        _Column("delegated", "int", lambda r: r.measurement.delegation and r.measurement.delegation.delegated),
        _Column("left", "text", _left),
        _Column("context", "text", lambda r: r.row.context),
    ]
    if samples:
        found += [
            _Column("samples_ms", "batches", lambda r: r.measurement.samples_ms),
            _Column("summaries", "text", lambda r: r.row.summaries),
            _Column("cpu_share", "floats", lambda r: r.measurement.cpu_share),
            _Column("reference_ms", "floats", lambda r: r.measurement.reference_ms),
        ]
    return found


def _fact(name: str) -> _Column:
    return _Column(f"fact_{name}", "text", lambda r: r.device and r.device.facts.get(name))


def _setting(name: str, default: object) -> _Column:
    """A field of the Bench, where it is more than one value as JSON."""
    kinds: tuple[tuple[_Kind, type], ...] = (("text", str), ("int", int), ("float", float))
    for kind, its in kinds:
        if isinstance(default, its):
            return _Column(f"bench_{name}", kind, lambda r: r.bench.get(name))
    return _Column(f"bench_{name}", "text", lambda r: json.dumps(r.bench.get(name)))


def _left(record: _Record) -> str | None:
    delegation = record.measurement.delegation
    return None if delegation is None or delegation.left is None else ", ".join(delegation.left)


def _csv(columns: Sequence[_Column], chunks: Iterator[list[_Record]], path: Path) -> bytes:
    text = io.StringIO()
    lines = csv.writer(text, lineterminator="\n")
    lines.writerow(column.name for column in columns)
    for records in chunks:
        for record in records:
            values = [column.of(record) for column in columns]
            lines.writerow(json.dumps(value) if isinstance(value, tuple) else value for value in values)
    return text.getvalue().encode()


def _parquet(columns: Sequence[_Column], chunks: Iterator[list[_Record]], path: Path) -> bytes:
    try:
        import pyarrow as pa
        import pyarrow.parquet as pq
    except ImportError as e:
        raise StoreError(f"can't export to {path}: Parquet needs pyarrow: pip install 'paceline[parquet]'") from e
    floats = pa.list_(pa.float64())
    types = {
        "text": pa.string(),
        "int": pa.int64(),
        "float": pa.float64(),
        "bool": pa.bool_(),
        "floats": floats,
        "batches": pa.list_(floats),
    }
    schema = pa.schema([(column.name, types[column.kind]) for column in columns])
    content = io.BytesIO()
    with pq.ParquetWriter(content, schema) as writer:
        for records in chunks:
            arrays = [pa.array([column.of(record) for record in records], types[column.kind]) for column in columns]
            writer.write_table(pa.Table.from_arrays(arrays, schema=schema))
    return content.getvalue()


_WRITERS = {".csv": _csv, ".parquet": _parquet}
