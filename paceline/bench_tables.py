"""What `paceline bench` says of a measurement: as JSON, and in a terminal."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

if TYPE_CHECKING:
    from paceline.devices.bench import Benched
    from paceline.devices.comparison import Comparison
    from paceline.measurement import Bench, DeviceInfo

_PROFILER_MS = 0.001


def measurement_json(found: Benched) -> dict[str, Any]:
    """The keys are the same for every device and outcome; what there isn't is null or empty."""
    m, info, bench = found.measurement, found.info, found.bench
    delegation = m.delegation
    return {
        "model": m.subject,
        "artifact": m.artifact,
        "p10_ms": _number(m.ms),
        "median_ms": _number(m.median_ms),
        "samples": [[round(ms, 6) for ms in batch] for batch in m.samples_ms],
        "summaries": [vars(summary) for summary in m.summaries],
        "noise": m.spread if m.failure is None else None,
        "unstable": m.unstable(bench.tolerance),
        "delegate": bench.delegate,
        "delegation": delegation.state if delegation else None,
        "partitions": delegation.partitions if delegation else None,
        "delegated": delegation.delegated if delegation else None,
        "not_delegated": list(delegation.left) if delegation and delegation.left is not None else None,
        "threads": bench.threads,
        "precision": bench.precision,
        "affinity": list(bench.affinity),
        "ops": [{"name": op.name, "ms": op.ms, "delegated": op.delegated} for op in found.operators],
        "ops_error": found.profile_failure or None,
        "device": info.name,
        "kind": info.kind,
        "fingerprint": info.fingerprint,
        "runtime": info.runtime_of(bench),
        "simulated": info.simulated,
        "condition": dict(m.context),
        "error": m.failure.reason if m.failure else None,
    }


def comparison_json(found: Comparison, info: DeviceInfo, bench: Bench) -> dict[str, Any]:
    first, other = found.first[0], found.other[0]
    return {
        "model": first.subject,
        "other": other.subject,
        "ratio": found.ratio,
        "low": found.low,
        "high": found.high,
        "confidence": found.confidence,
        "smallest_difference": found.smallest,
        "verdict": found.verdict,
        "ratios": list(found.ratios),
        "p10_ms": [m.ms for m in found.first],
        "other_p10_ms": [m.ms for m in found.other],
        "device": info.name,
        "fingerprint": info.fingerprint,
        "runtime": info.runtime_of(bench),
        "delegate": bench.delegate,
        "threads": bench.threads,
        "simulated": info.simulated,
    }


def print_measurements(rows: Sequence[dict[str, Any]], console: Console, errors: Console) -> None:
    """One line a model and device; why there is no figure below."""
    table = Table("model", "device", "p10 ms", "median ms", "noise", "delegation")
    for column in (0, 1):
        table.columns[column].overflow = "fold"
    for column in (2, 3, 4):
        table.columns[column].justify = "right"
    for row in rows:
        simulated = "\nsim." if row["simulated"] else ""
        noise = "" if row["noise"] is None else f"{row['noise']:.1%}" + (" unstable" if row["unstable"] else "")
        figures = [_shown(row["p10_ms"]), _shown(row["median_ms"]), noise, _delegation(row)]
        table.add_row(escape(row["model"]), escape(row["device"] + simulated), *figures)
    console.print(table)
    imitations = sorted({row["device"] for row in rows if row["simulated"]})
    if imitations:
        console.print(f"sim.: simulated ({escape(', '.join(imitations))}), a figure of no real phone", soft_wrap=True)
    for row in rows:
        where = f"{row['model']} on {row['device']}"
        if row["error"]:
            errors.print(f"[bold red]error:[/] {escape(where)} can't be measured: {escape(row['error'])}", soft_wrap=True)
        if row["condition"].get("trouble"):
            console.print(f"[bold]{escape(where)}[/]: measured in trouble: {escape(row['condition']['trouble'])}", soft_wrap=True)
        if row["not_delegated"]:
            left = ", ".join(dict.fromkeys(row["not_delegated"]))
            console.print(f"{escape(where)}: not taken by {row['delegate']}: {escape(left)}", soft_wrap=True)


def print_operators(row: dict[str, Any], console: Console) -> None:
    if not row["ops"]:
        console.print(
            f"{escape(row['model'])} on {escape(row['device'])}: {escape(row['ops_error'] or 'no operators')}", soft_wrap=True
        )
        return
    table = Table("#", "operator", "ms", "share", "delegated", title=escape(f"{row['model']} on {row['device']}"))
    total = sum(op["ms"] for op in row["ops"]) or 1.0
    for i, op in enumerate(row["ops"]):
        table.add_row(str(i), escape(op["name"]), _fine(op["ms"]), f"{op['ms'] / total:.1%}", "yes" if op["delegated"] else "no")
    console.print(table)


def print_comparison(row: dict[str, Any], console: Console) -> None:
    where = escape(row["device"] + (" (simulated)" if row["simulated"] else ""))
    interval = f"{row['confidence']:.0%} interval {row['low']:.4f} to {row['high']:.4f}"
    times = f"takes [bold]{row['ratio']:.4f}[/] times as long as {escape(row['model'])} on {where}"
    console.print(f"{escape(row['other'])} {times}, {interval}: [bold]{row['verdict']}[/]", soft_wrap=True)


def _delegation(row: dict[str, Any]) -> str:
    if row["delegation"] is None:
        return ""
    counted = f", {row['partitions']} partitions" if row["delegation"] == "partial" else ""
    return f"{row['delegate']}: {row['delegation']}{counted}"


def _fine(ms: float) -> str:
    """Runtimes' profilers count whole microseconds: below one they say little."""
    return f"{ms:.4f}" if ms >= _PROFILER_MS else f"< {_PROFILER_MS:g}"


def _number(value: float) -> float | None:
    return None if value != value else value


def _shown(value: float | None) -> str:
    return "none" if value is None else f"{value:.4g}"
