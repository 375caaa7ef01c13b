"""What importing a foreign table or log takes: a `Format`, which each of the modules beside this one holds, and a `Source`."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

from paceline.errors import ConfigError, DataError
from paceline.graph import Graph, OpSpec
from paceline.latency_models.bundle.rows import IMPORTED, FailedRow, Kind, MeasuredRow
from paceline.measurement import Bench, DeviceInfo, Measurement

UNITS = {"ms": 1.0, "us": 1e-3, "s": 1e3}
"""Milliseconds per unit."""


@dataclass(frozen=True)
class Source:
    """What a foreign file doesn't say of itself: the device, how was measured, whose it is.

    `unit` is that of figures in formats that don't fix it; `model` is the network that a log is about, where it is at hand: with
    it the rows get their operators, and `artifact` its file's SHA-256.
    """

    device: DeviceInfo
    bench: Bench
    licence: str = ""
    origin: str = ""
    unit: str = "ms"
    model: Graph | None = None
    artifact: str = ""

    def __post_init__(self) -> None:
        if self.unit not in UNITS:
            raise ConfigError(f"no unit {self.unit!r}; there are {', '.join(UNITS)}")


@dataclass
class Rows:
    """What an import found so far. A figure that is no latency becomes a failure that names it."""

    source: Source
    measured: list[MeasuredRow] = field(default_factory=list)
    failed: list[FailedRow] = field(default_factory=list)

    def add(
        self,
        subject: str,
        ms: Any,
        operators: Iterable[OpSpec] = (),
        kind: Kind = "operator",
        flags: tuple[str, ...] = (),
        batches: tuple[tuple[float, ...], ...] = (),
        count: int | None = None,
        std_ms: float | None = None,
    ) -> None:
        """`batches` are the times of single invokes; without `ms`, the figure is theirs."""
        specs = tuple(operators)
        m = self.measurement(subject, batches) if batches else None
        ms = m.ms if ms is None and m is not None else ms
        if isinstance(ms, bool) or not isinstance(ms, int | float) or not math.isfinite(ms) or ms < 0:
            self.failed.append(FailedRow(subject, f"{ms!r:.40} is no latency", specs))
        elif ms == 0:
            self.failed.append(FailedRow(subject, "0 ms: shorter than the tool's clock can show", specs))
        else:
            flags = (IMPORTED, *flags)
            self.measured.append(MeasuredRow(subject, float(ms), specs, kind, m, None, flags, count, std_ms))

    def measurement(self, subject: str, batches: tuple[tuple[float, ...], ...]) -> Measurement:
        return Measurement(subject, self.source.artifact, self.source.device.fingerprint, self.source.bench.key, batches)


def csv_rows(content: str, columns: Iterable[str]) -> list[dict[str, str]]:
    """The lines of a CSV table, which must have these columns in every line. Raises DataError."""
    try:
        lines = list(csv.DictReader(io.StringIO(content, newline="")))
    except csv.Error as e:
        raise DataError(f"it is no CSV ({e})") from e
    for i, line in enumerate(lines):
        missing = [name for name in columns if line.get(name) is None]
        if missing:
            raise DataError(f"line {i + 2} of it has no {missing[0]!r}")
    return lines


@dataclass(frozen=True)
class Format:
    """`recognises` says whether a file's content looks like it; `read` adds the rows of a content whose file has this name.

    `read` raises DataError where the content isn't what it seems to be.
    """

    name: str
    about: str
    recognises: Callable[[str], bool]
    read: Callable[[str, str, Rows], None]
