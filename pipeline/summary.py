"""What a run prints, keeps as `summary.json` and shows as `report.html`."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from importlib.metadata import version
from typing import Any

from paceline.pipeline.deploy import Deployed
from paceline.pipeline.plots import Comparison, Point
from paceline.pipeline.profile import align
from paceline.pipeline.report import ArtifactRow, MergeRow, OperatorRow, Report, verdict
from paceline.pipeline.run import Outcome
from paceline.pipeline.search import front

_VERSIONS = ("paceline", "ai-edge-litert", "torch", "onnx", "onnxruntime", "pymoo", "scikit-learn", "numpy")


def summary_of(outcome: Outcome) -> dict[str, Any]:
    """The figures of a run as JSON values; shares and errors are fractions of 1, a figure that does not exist is null."""
    deployed, predicted, info = outcome.deployed, outcome.predicted, outcome.device
    summary = {
        "verdict": verdict(report_of(outcome)),
        "limit_ms": outcome.limit.ms,
        "limit_origin": outcome.limit.origin,
        "limit_confidence": outcome.limit.chance,
        "limit_chance": _chance(outcome),
        "predicted_ms": float(predicted.ms[0]),
        "predicted_low_ms": float(predicted.low[0]),
        "predicted_high_ms": float(predicted.high[0]),
        "measured_ms": outcome.measured_ms,
        "measured_clock_ms": deployed.measurement.ms,
        "measured_spread": deployed.measurement.spread,
        "limit_kept": outcome.measured_ms <= outcome.limit.ms,
        "noise_floor": outcome.predictors.test.noise_floor,
        "accuracy": outcome.accuracy,
        "macs": deployed.graph.macs(),
        "params": deployed.graph.params(),
        "parity_max_abs_error": deployed.tflite_parity.max_abs_error,
        "parity_max_rel_error": deployed.tflite_parity.max_rel_error,
        "onnx_parity_max_abs_error": deployed.onnx_parity.max_abs_error,
        "merged_branches": sum(len(merge.branches) for merge in deployed.merges if len(merge.branches) > 1),
        "table_rows": outcome.predictors.rows,
        "table_rows_unstable": outcome.predictors.unstable_rows,
        "predictor": [asdict(accuracy) for accuracy in outcome.predictors.accuracies],
        "interval_coverage": outcome.predictors.coverage,
        "evaluated": len(outcome.archive.members),
        "architecture": {choice: list(options) for choice, options in outcome.chosen.picks},
        "input": {
            "shape": list(deployed.graph.tensors[deployed.graph.inputs[0]].shape),
            "mean": outcome.task.mean,
            "std": outcome.task.std,
        },
        "classes": outcome.task.classes,
        "seconds": dict(outcome.seconds),
        "seed": outcome.config.seed,
        "device": {**info.facts, "name": info.name, "fingerprint": info.fingerprint, "simulated": info.simulated},
        "runtime": f"{info.runtime_of(outcome.bench)}, {outcome.bench.delegate}, {outcome.bench.threads} thread(s)",
        "model": deployed.tflite.path.name,
        "model_sha256": deployed.tflite.sha256,
    }
    return {name: _plain(value) for name, value in summary.items()}


def report_of(outcome: Outcome) -> Report:
    """The same, with what pictures need."""
    deployed, test = outcome.deployed, outcome.predictors.test
    found = outcome.predictors.table.predict([network.operators for network in test.networks])
    names = [network.arch.key for network in test.networks]
    tests = [
        Comparison(*row)
        for row in zip(names, *map(_floats, (found.ms, found.low, found.high, test.measured, test.noise)), strict=True)
    ]
    best = front(outcome.archive)
    points = {member.arch.key: _point(outcome, i) for i, member in enumerate(outcome.archive.members)}
    return Report(
        title="Paceline run",
        task=f"{outcome.task.name}, {outcome.task.image_size}×{outcome.task.image_size}, {len(outcome.task.classes)} classes",
        config=outcome.config.model_dump_json(indent=2),
        limit_ms=outcome.limit.ms,
        limit_origin=(
            f"{outcome.limit.origin}, to be kept with a chance of {outcome.limit.chance:.1%}; "
            f"the chosen network was predicted to keep it with a chance of {_chance(outcome):.1%}"
        ),
        device=outcome.device,
        bench=outcome.bench,
        runtime=outcome.device.runtime_of(outcome.bench),
        seed=outcome.config.seed,
        final=_final(outcome),
        accuracy=outcome.accuracy,
        macs=deployed.graph.macs(),
        params=deployed.graph.params(),
        noise_floor=test.noise_floor,
        chosen=outcome.chosen,
        front=tuple(points[member.arch.key] for member in best),
        evaluated=tuple(points.values()),
        hypervolume=tuple(outcome.archive.hypervolumes()),
        tests=tuple(tests),
        predictors=outcome.predictors.accuracies,
        operators=_operator_rows(outcome, deployed),
        merges=tuple(
            MergeRow(m.name, m.branches, m.params_before, m.params_after) for m in deployed.merges if len(m.branches) > 1
        ),
        artifacts=(
            ArtifactRow.of(deployed.tflite.path, deployed.tflite.path.parent, deployed.tflite_parity.max_abs_error),
            ArtifactRow.of(deployed.onnx.path, deployed.onnx.path.parent, deployed.onnx_parity.max_abs_error),
        ),
        versions={name: version(name) for name in _VERSIONS},
        seconds=outcome.seconds,
        notes=_notes(outcome),
        facts={**deployed.measurement.context, "ms_by_the_clock": f"{deployed.measurement.ms:.4g}"},
    )


def _final(outcome: Outcome) -> Comparison:
    p, measurement = outcome.predicted, outcome.deployed.measurement
    return Comparison("model.tflite", float(p.ms[0]), float(p.low[0]), float(p.high[0]), outcome.measured_ms, measurement.spread)


def _chance(outcome: Outcome) -> float:
    """With which the chosen network was predicted to keep the limit."""
    return float(outcome.predicted.chance(outcome.limit.ms)[0])


def _point(outcome: Outcome, i: int) -> Point:
    """The i-th member of the archive."""
    member, found = outcome.archive.members[i], outcome.found
    ms, low, high = float(found.ms[i]), float(found.low[i]), float(found.high[i])
    key = member.arch.key
    return Point(key, ms, low, high, member.values.get("accuracy", math.nan), outcome.macs[key], key == outcome.chosen.key)


def _operator_rows(outcome: Outcome, deployed: Deployed) -> tuple[OperatorRow, ...]:
    """Predicted beside profiled; without the profile where the runtime executed other operators than the Graph's."""
    predicted = _floats(outcome.predictors.table.operator_ms(deployed.operators))
    profiled: Sequence[float | None] = align(deployed.operators, deployed.profile) or [None] * len(predicted)
    return tuple(map(OperatorRow, deployed.operators, deployed.graph.sources(), predicted, profiled))


def _notes(outcome: Outcome) -> tuple[str, ...]:
    notes = []
    predictors, deployed = outcome.predictors, outcome.deployed
    if predictors.unstable_rows:
        notes.append(
            f"{predictors.unstable_rows} of {predictors.rows} operator rows stayed unstable (batches disagree by more than 5 %)."
        )
    if align(deployed.operators, deployed.profile) is None:
        executed, held = len(deployed.profile), len(deployed.operators)
        notes.append(
            f"The runtime executed {executed} operators that can't be told from the {held} of the file: "
            "its profile is not shown beside the prediction."
        )
    return tuple(notes)


def _floats(values: Any) -> list[float]:
    return [float(v) for v in values]


def _plain(value: Any) -> Any:
    """JSON has no NaN."""
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, Mapping):
        return {name: _plain(v) for name, v in value.items()}
    return [_plain(v) for v in value] if isinstance(value, list | tuple) else value
