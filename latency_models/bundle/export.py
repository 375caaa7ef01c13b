"""The rows of a bundle as a flat file for other tools."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from paceline.errors import StoreError
from paceline.files import write_atomically
from paceline.latency_models.bundle.bundle import Bundle
from paceline.latency_models.bundle.rows import FailedRow, MeasuredRow

Record = dict[str, Any]


def export_rows(bundle: Bundle, path: Path, samples: bool = False) -> int:
    """Writes a row for everything that was measured or failed, and returns how many; the suffix of `path` says the format.

    The columns are the same in every row: the figure or the failure, the device and its facts, the settings, who ran it, and with
    `samples` every invoke. Lists are lists in .jsonl, JSON texts elsewhere. Raises StoreError.
    """
    writer = _WRITERS.get(path.suffix.lower())
    if writer is None:
        raise StoreError(f"can't export to {path}: the suffix says the format, and it is one of {', '.join(_WRITERS)}")
    records = records_of(bundle, samples)
    write_atomically(path, writer(records, path))
    return len(records)


def records_of(bundle: Bundle, samples: bool = False) -> list[Record]:
    """The rows as plain values, those that failed last."""
    device = bundle.device
    about = {"device": device.fingerprint, "device_name": device.name, "device_kind": device.kind, "simulated": device.simulated}
    about |= {f"fact_{name}": device.facts[name] for name in sorted(device.facts)}
    about |= {f"bench_{name}": value for name, value in asdict(bundle.bench).items()}
    columns = _measured(MeasuredRow("", 1.0), samples)
    found = [_measured(row, samples) for row in bundle.measured] + [_failed(row, columns) for row in bundle.failed]
    return [record | about for record in found]


def _measured(row: MeasuredRow, samples: bool) -> Record:
    m = row.measurement
    delegation = m.delegation if m else None
    record = {
        "subject": row.subject,
        "kind": row.kind,
        "ms": row.ms,
        "spread": row.spread,
        "count": row.count,
        "std_ms": row.std_ms,
        "failure": None,
        "flags": list(row.flags),
        "measured_at": row.measured_at,
        "artifact": row.artifact,
        "operators": [spec.key for spec in row.operators],
        "delegation": delegation.state if delegation else None,
        "partitions": delegation.partitions if delegation else None,
    }
    if samples:
        record["samples_ms"] = [list(batch) for batch in m.samples_ms] if m else []
        record["summaries"] = [asdict(summary) for summary in m.summaries] if m else []
        record["reference_ms"] = list(m.reference_ms) if m else []
    return record


def _failed(row: FailedRow, columns: Iterable[str]) -> Record:
    said = {"subject": row.subject, "failure": row.reason, "measured_at": row.measured_at, "artifact": row.artifact}
    return dict.fromkeys(columns) | said | {"operators": [spec.key for spec in row.operators]}


def _csv(records: Sequence[Record], path: Path) -> bytes:
    text = io.StringIO()
    lines = csv.DictWriter(text, list(records[0]) if records else ["subject", "ms"], lineterminator="\n")
    lines.writeheader()
    lines.writerows(_flat(record) for record in records)
    return text.getvalue().encode()


def _jsonl(records: Sequence[Record], path: Path) -> bytes:
    return "".join(json.dumps(record) + "\n" for record in records).encode()


def _parquet(records: Sequence[Record], path: Path) -> bytes:
    try:
        import pyarrow as pa
        import pyarrow.parquet as pq
    except ImportError as e:
        raise StoreError(f"can't export to {path}: Parquet needs pyarrow: pip install 'paceline[parquet]'") from e
    content = io.BytesIO()
    pq.write_table(pa.Table.from_pylist([_flat(record) for record in records]), content)
    return content.getvalue()


def _flat(record: Record) -> Record:
    return {name: json.dumps(value) if isinstance(value, list | tuple) else value for name, value in record.items()}


_WRITERS: dict[str, Callable[[Sequence[Record], Path], bytes]] = {".csv": _csv, ".parquet": _parquet, ".jsonl": _jsonl}
