"""Foreign tables and logs of latencies as bundles: which formats there are, and how one is read."""

from __future__ import annotations

import gzip
import zlib
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from paceline.errors import ConfigError, DataError, LatencyModelError
from paceline.latency_models.bundle.bundle import Bundle, versions_of
from paceline.latency_models.bundle.rows import OUTLIER, MeasuredRow
from paceline.latency_models.imports import aihub, benchmark_log, block_table, onnxruntime_profile
from paceline.latency_models.imports.imports import Format, Rows, Source
from paceline.latency_models.model import Row
from paceline.latency_models.row_checks import checked

FORMATS: tuple[Format, ...] = (
    onnxruntime_profile.FORMAT,
    aihub.PROFILE,
    aihub.TABLE,
    block_table.FORMAT,
    benchmark_log.FORMAT,
)
_MOST = 1 << 28


def import_bundle(path: Path, source: Source, format_name: str | None = None) -> Bundle:
    """The rows of a foreign file, flagged as imported. Without `format_name` the content tells what it is. Figures that are no
    latency become failures, those far from what the other rows let expect are flagged as outliers.

    Raises DataError where the file can't be read, is of no known format, or has not one figure or another unit, ConfigError where
    there is no such format.
    """
    known = {f.name: f for f in FORMATS}
    if format_name is not None and format_name not in known:
        raise ConfigError(f"no format {format_name!r}; there are {', '.join(known)}")
    content = _content(path)
    fitting = [known[format_name]] if format_name else [f for f in FORMATS if f.recognises(content)]
    if not fitting:
        names = "; ".join(f"{f.name}, a {f.about}" for f in FORMATS)
        raise DataError(f"{path} looks like nothing that can be imported ({names}). Say what it is with --format.")
    rows = Rows(source)
    try:
        fitting[0].read(content, path.name, rows)
    except DataError as e:
        raise DataError(f"can't import {path}: {e}") from e
    if not rows.measured:
        first = f"; the first: {rows.failed[0].subject}: {rows.failed[0].reason}" if rows.failed else ""
        raise DataError(f"can't import {path}: there is not one latency in it{first}. Is it a {fitting[0].about}?")
    return Bundle(
        source.device,
        source.bench,
        _flagged(rows.measured, path),
        tuple(rows.failed),
        versions=versions_of(source.device, source.bench),
        licence=source.licence,
        origin=source.origin or path.name,
    )


def _flagged(rows: Sequence[MeasuredRow], path: Path) -> tuple[MeasuredRow, ...]:
    """Rows that are far from what the others let expect are flagged; all together must look like milliseconds."""
    learnable = [i for i, row in enumerate(rows) if row.operators]
    try:
        found = checked([Row(rows[i].operators, rows[i].ms) for i in learnable])
    except LatencyModelError as e:
        raise DataError(f"can't import {path}: {e}, or name the unit with --unit") from e
    doubted = {learnable[flag.row] for flag in found.flagged}
    return tuple(replace(row, flags=(*row.flags, OUTLIER)) if i in doubted else row for i, row in enumerate(rows))


def _content(path: Path) -> str:
    """The text of a file, also of a compressed one (.gz)."""
    try:
        with gzip.open(path, "rb") if path.suffix == ".gz" else path.open("rb") as file:
            content = file.read(_MOST + 1)
    except (OSError, EOFError, zlib.error) as e:
        raise DataError(f"can't read {path}: {getattr(e, 'strerror', None) or e}. Name a file that is there and whole.") from e
    if len(content) > _MOST:
        raise DataError(f"{path} has more than {_MOST >> 20} MB of text, more than any table or log. Is it the right file?")
    return content.decode("utf-8", "replace")
