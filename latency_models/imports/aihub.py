"""Qualcomm AI Hub: the profile of a job (JSON, layer by layer), and tables of many jobs (CSV)."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from paceline.errors import DataError
from paceline.latency_models.bundle.rows import PROFILED, FailedRow
from paceline.latency_models.imports.imports import Format, Rows, csv_rows

_PER_US = 1e-3
_HEADER = ("model", "precision", "device", "runtime", "inference_ms")
_PRECISIONS = {"float": "fp32"}


def read_profile(content: str, name: str, rows: Rows) -> None:
    """`execution_detail`, a list of layers, and `execution_summary`; all times are microseconds. Layers have no shapes there."""
    profile = _json(content)
    detail = profile.get("execution_detail", []) if isinstance(profile, dict) else profile
    summary = profile.get("execution_summary") if isinstance(profile, dict) else None
    if not isinstance(detail, list):
        raise DataError("its execution_detail is no list of layers")
    if isinstance(summary, dict) and "estimated_inference_time" in summary:
        times = summary.get("all_inference_times")
        invokes = (tuple(t * _PER_US for t in times),) if isinstance(times, list) and times and _are_times(times) else ()
        rows.add(name, _ms(summary["estimated_inference_time"]), kind="network", batches=invokes)
    seen: set[str] = set()
    for i, layer in enumerate(detail):
        if not isinstance(layer, dict):
            raise DataError(f"layer {i} of its execution_detail is no object")
        title = f"{layer.get('type', '?')} {layer.get('name', '?')} ({layer.get('compute_unit', '?')})"
        subject = title if title not in seen else f"{title} {i}"
        seen.add(subject)
        if not layer.get("execution_time"):
            rows.failed.append(FailedRow(subject, "no time of its own: executed within another layer"))
        else:
            rows.add(subject, _ms(layer["execution_time"]), flags=(PROFILED,))


def read_table(content: str, name: str, rows: Rows) -> None:
    """Whole models in milliseconds. Those of the device, runtime and precision that the source names."""
    lines = csv_rows(content, _HEADER)
    bench = rows.source.bench
    chosen = _only(lines, "device", rows.source.device.name)
    chosen = _only(chosen, "runtime", bench.runtime)
    chosen = _only(chosen, "precision", bench.precision)
    for line in chosen:
        component = line.get("component") or line["model"]
        subject = line["model"] if component == line["model"] else f"{line['model']} {component}"
        rows.add(subject, _number(line["inference_ms"]), kind="network")


def _only(lines: Sequence[Mapping[str, str]], column: str, wanted: str) -> list[Mapping[str, str]]:
    found = [line for line in lines if _PRECISIONS.get(line[column], line[column]) == wanted]
    if not found:
        there = sorted({_PRECISIONS.get(line[column], line[column]) for line in lines})
        raise DataError(f"it has no rows of {column} {wanted!r}; name one with --{column}: {', '.join(there)}")
    return found


def _json(content: str) -> Any:
    try:
        return json.loads(content)
    except (ValueError, RecursionError) as e:
        raise DataError(f"it is no JSON ({str(e)[:200]})") from e


def _ms(us: Any) -> Any:
    return us * _PER_US if isinstance(us, int | float) and not isinstance(us, bool) else us


def _are_times(values: Sequence[Any]) -> bool:
    return all(isinstance(v, int | float) and not isinstance(v, bool) and 0 < v < 1e15 for v in values)


def _number(text: str) -> Any:
    try:
        return float(text)
    except ValueError:
        return text


PROFILE = Format("aihub", "profile of a Qualcomm AI Hub job, JSON", lambda content: '"execution_detail"' in content, read_profile)
TABLE = Format(
    "aihub-table",
    "table of Qualcomm AI Hub jobs, CSV",
    lambda content: set(_HEADER) <= set(content.partition("\n")[0].strip().split(",")),
    read_table,
)
