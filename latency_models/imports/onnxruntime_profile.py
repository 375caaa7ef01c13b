"""ONNX Runtime's profile (`SessionOptions.enable_profiling`): a trace in JSON, with every node of every run."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from paceline.errors import DataError
from paceline.graph import OpSpec
from paceline.latency_models.bundle.rows import PROFILED, FailedRow
from paceline.latency_models.imports.imports import Format, Rows
from paceline.latency_models.imports.onnx_operators import operator_of

_PER_US = 1e-3
_END = "_kernel_time"
_RUN = "model_run"


@dataclass
class _Node:
    title: str
    spec: OpSpec | None
    us: dict[int, float] = field(default_factory=dict)
    """By the run: a node inside of a loop has several events in one."""


def read(content: str, name: str, rows: Rows) -> None:
    """Rows of nodes and of the whole network, a sample a run. The first of several runs is the warm-up and is left out.

    Nodes whose shapes tell what is computed get their operators; equal ones become one row, in which each is a batch.
    """
    events = _events(content)
    runs = sorted((_time(e, "ts"), _time(e, "dur")) for e in events if e.get("cat") == "Session" and e.get("name") == _RUN)
    if not runs:
        raise DataError("it has no complete run of a model; end the profile with end_profiling() after some runs")
    timed = range(1, len(runs)) if len(runs) > 1 else range(1)
    whole = tuple(runs[i][1] * _PER_US for i in timed)
    _add(name, [whole], (), rows, network=True)
    by_spec: dict[OpSpec, list[tuple[float, ...]]] = {}
    for node in _nodes(events, runs):
        samples = tuple(node.us[i] * _PER_US for i in timed if i in node.us)
        if node.spec is None:
            _add(node.title, [samples], (), rows)
        else:
            by_spec.setdefault(node.spec, []).append(samples)
    for spec, batches in by_spec.items():
        _add(spec.key, batches, (spec,), rows)


def _nodes(events: Sequence[Mapping[str, Any]], runs: Sequence[tuple[float, float]]) -> list[_Node]:
    found: dict[tuple[str, str], _Node] = {}
    for event in events:
        label = str(event.get("name", ""))
        if event.get("cat") != "Node" or not label.endswith(_END):
            continue
        args, at, us = event.get("args"), _time(event, "ts"), _time(event, "dur")
        if not isinstance(args, dict):
            raise DataError(f"its event {label!r} says nothing about the node")
        kind, node_index = str(args.get("op_name", "?")), str(args.get("node_index", ""))
        node = found.setdefault((label, node_index), _Node(f"{kind} {label.removesuffix(_END)}".strip(), _spec(kind, args)))
        run = next((i for i, (start, length) in enumerate(runs) if start <= at <= start + length), None)
        if run is not None:
            node.us[run] = node.us.get(run, 0.0) + us
    return [node for node in found.values() if node.us]


def _add(
    subject: str, batches: Sequence[tuple[float, ...]], specs: tuple[OpSpec, ...], rows: Rows, network: bool = False
) -> None:
    """The profiler counts whole microseconds: what takes less than one has no figure."""
    counted = [batch for batch in batches if batch and min(batch) > 0]
    if not counted:
        rows.failed.append(FailedRow(subject, "0 ms: shorter than the profiler's clock can show", specs))
        return
    rows.add(subject, None, specs, "network" if network else "operator", (PROFILED,), tuple(counted))


def _spec(kind: str, args: Mapping[str, Any]) -> OpSpec | None:
    """Of nodes on 32-bit floats."""
    shapes = []
    for operands in (args.get("input_type_shape"), args.get("output_type_shape")):
        if not isinstance(operands, list) or not all(isinstance(o, dict) and [*o] == ["float"] for o in operands):
            return None
        shapes.append([o["float"] for o in operands])
    if not all(isinstance(n, int) and n > 0 for shape in (*shapes[0], *shapes[1]) for n in shape):
        return None
    return operator_of(kind, *shapes)


def _time(event: Mapping[str, Any], what: str) -> float:
    """Microseconds."""
    value = event.get(what)
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < 1e15:
        raise DataError(f"the {what} of its event {event.get('name')!r:.80} is {value!r:.40}, no number of microseconds")
    return float(value)


def _events(content: str) -> list[Mapping[str, Any]]:
    try:
        events = json.loads(content)
    except (ValueError, RecursionError) as e:
        raise DataError(f"it is no whole JSON ({str(e)[:200]}); end the profile with end_profiling()") from e
    if not isinstance(events, list) or not all(isinstance(event, dict) for event in events):
        raise DataError("it is no list of events")
    return events


def _recognises(content: str) -> bool:
    return content.lstrip().startswith("[") and ('"SequentialExecutor' in content or _END in content or f'"{_RUN}"' in content)


FORMAT = Format("onnxruntime", "profile of ONNX Runtime, JSON", _recognises, read)
