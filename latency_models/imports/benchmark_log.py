"""What `benchmark_model` printed, in any of its forms: the whole model, and its operators where they were profiled."""

from __future__ import annotations

import re
from dataclasses import replace

from paceline.devices.benchmark_model.operator_table import OperatorTime, is_delegate
from paceline.devices.benchmark_model.output import BenchmarkOutput, parse
from paceline.errors import DataError, DeviceError, TransientDeviceError
from paceline.graph import Graph, OpSpec
from paceline.latency_models.bundle.rows import IMPORTED, PROFILED, FailedRow, MeasuredRow
from paceline.latency_models.imports.imports import Format, Rows
from paceline.measurement import Measurement

_GRAPH = re.compile(r"(?:Graph: \[|--graph=|Loaded model )([^\]\s]+)")


def read(content: str, name: str, rows: Rows) -> None:
    """A log's whole-model figure is the low quantile that the tool knows (p5, else the minimum); operators have only averages."""
    try:
        output = parse(content)
    except DeviceError as e:
        raise DataError(str(e)) from e
    said = _GRAPH.search(content)
    subject = said[1].replace("\\", "/").rpartition("/")[2] if said else name
    _add_network(subject, output, rows)
    _add_operators(output, rows)


def _add_network(subject: str, output: BenchmarkOutput, rows: Rows) -> None:
    source = rows.source
    operators = source.model.operators() if source.model is not None else ()
    if output.failure is not None:
        rows.failed.append(FailedRow(subject, output.failure, tuple(operators), source.artifact))
    elif output.inference is None:
        if output.inference_avg_ms is not None:
            rows.add(subject, output.inference_avg_ms, operators, "network")
    else:
        m = Measurement(subject, source.artifact, source.device.fingerprint, source.bench.key, summaries=(output.inference,))
        m = replace(m, delegation=output.delegation(source.bench.delegate))
        rows.measured.append(MeasuredRow(subject, m.ms, tuple(operators), "network", m, None, (IMPORTED,)))


def _add_operators(output: BenchmarkOutput, rows: Rows) -> None:
    known: dict[OpSpec, list[OperatorTime]] = {}
    extra: dict[OpSpec, float] = {}
    belongs = _owners(rows.source.model) if rows.source.model is not None else {}
    for time in output.operators:
        spec, principal = belongs.get((time.index, time.kind) if time.subgraph == 0 else (None, ""), (None, False))
        if spec is None:
            rows.add(_title(time), time.run_ms, kind="block" if is_delegate(time.kind) else "operator", flags=(PROFILED,))
        elif principal:
            known.setdefault(spec, []).append(time)
        else:
            extra[spec] = extra.get(spec, 0.0) + time.run_ms
    for spec, times in known.items():
        total = sum(time.run_ms for time in times) + extra.get(spec, 0.0)
        rows.add(spec.key, total / len(times), (spec,), flags=(PROFILED,), count=sum(time.times_called for time in times) or None)
    for i, time in enumerate(output.internal):
        rows.add(f"{_title(time)} in a delegate ({i})", time.run_ms, flags=(PROFILED,))


def _owners(graph: Graph) -> dict[tuple[int | None, str], tuple[OpSpec, bool]]:
    """By a node's index and kind the operator that it is, and whether it is its principal part (a PAD in front is not)."""
    places = {id(op): i for i, op in enumerate(graph.ops)}
    found: dict[tuple[int | None, str], tuple[OpSpec, bool]] = {}
    for group, spec in zip(graph.groups(), graph.operators(), strict=True):
        for op in group:
            if op is group[-1] or op.kind == "PAD":  # the others run once, not at every inference
                found[places[id(op)], op.kind] = spec, op is group[-1]
    return found


def _title(time: OperatorTime) -> str:
    place = "" if time.index is None else f":{time.index}"
    graph = f" (subgraph {time.subgraph})" if time.subgraph else ""
    return f"{time.kind} [{time.name}]{place}{graph}"


def _recognises(content: str) -> bool:
    try:
        parse(content)
    except TransientDeviceError:  # it is such a log, a damaged one
        return True
    except DeviceError:
        return False
    return True


FORMAT = Format("benchmark_model", "log of TFLite's or LiteRT's benchmark_model", _recognises, read)
