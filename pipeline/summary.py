"""What a run prints, keeps as `summary.json` and shows as `report.html`."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from importlib.metadata import version
from typing import Any

from paceline.pipeline.front import fast_and_accurate, points_of, rows_of, to_json
from paceline.pipeline.plots import Comparison
from paceline.pipeline.profile import align
from paceline.pipeline.report import ArtifactRow, MergeRow, OperatorRow, OtherRow, Report, verdict
from paceline.pipeline.run import Outcome, Searched
from paceline.pipeline.targets import Kept

_VERSIONS = ("paceline", "ai-edge-litert", "torch", "onnx", "onnxruntime", "pymoo", "scikit-learn", "numpy")


def summary_of(outcome: Outcome) -> dict[str, Any]:
    """The figures of a run as JSON values; shares and errors are fractions of 1, a figure that does not exist is null."""
    searched, deployed, kept = outcome.searched, outcome.deployed, outcome.kept
    target, task = searched.target, searched.task
    limit, predictors, bench, info = target.limit, target.predictors, target.bench, target.info
    predicted = kept.predicted
    summary = {
        "recipe": searched.recipe.name,
        "verdict": verdict(report_of(outcome)),
        "limit_ms": limit.ms,
        "limit_origin": limit.origin,
        "limit_confidence": limit.chance,
        "limit_chance": _chance(kept),
        "predicted_ms": float(predicted.ms[0]),
        "predicted_low_ms": float(predicted.low[0]),
        "predicted_high_ms": float(predicted.high[0]),
        "measured_ms": kept.ms,
        "measured_clock_ms": deployed.measurement.ms,
        "measured_spread": deployed.measurement.spread,
        "limit_kept": all(each.is_kept for each in (kept, *outcome.others)),
        "noise_floor": predictors.test.noise_floor,
        "accuracy": outcome.accuracy,
        "macs": deployed.graph.macs(),
        "params": deployed.graph.params(),
        "parity_max_abs_error": deployed.tflite_parity.max_abs_error,
        "parity_max_rel_error": deployed.tflite_parity.max_rel_error,
        "onnx_parity_max_abs_error": deployed.onnx_parity.max_abs_error,
        "merged_branches": sum(len(merge.branches) for merge in deployed.merges if len(merge.branches) > 1),
        "table_rows": predictors.rows,
        "table_rows_unstable": predictors.unstable_rows,
        "predictor": [asdict(accuracy) for accuracy in predictors.accuracies],
        "interval_coverage": predictors.coverage,
        "supernet_losses": list(searched.trained.losses),
        "turned_off": _turned_off(searched),
        "evaluated": len(searched.archive.members),
        "front": to_json(rows_of(searched), outcome.chosen.key),
        "architecture": {choice: list(options) for choice, options in outcome.chosen.picks},
        "input": {
            "shape": list(deployed.graph.tensors[deployed.graph.inputs[0]].shape),
            "mean": task.mean,
            "std": task.std,
        },
        "classes": task.classes,
        "seconds": dict(outcome.seconds),
        "seed": searched.config.seed,
        "device": {**info.facts, "name": info.name, "fingerprint": info.fingerprint, "simulated": info.simulated},
        "also": [_on_other(other) for other in outcome.others],
        "runtime": f"{info.runtime_of(bench)}, {bench.delegate}, {bench.threads} thread(s)",
        "model": deployed.tflite.path.name,
        "model_sha256": deployed.tflite.sha256,
    }
    return {name: _plain(value) for name, value in summary.items()}


def _on_other(kept: Kept) -> dict[str, Any]:
    """The network on one of the other devices."""
    target = kept.target
    return {
        "name": target.name,
        "device": target.info.name,
        "fingerprint": target.info.fingerprint,
        "simulated": target.info.simulated,
        "runtime": f"{target.info.runtime_of(target.bench)}, {target.bench.delegate}, {target.bench.threads} thread(s)",
        "limit_ms": target.limit.ms,
        "limit_origin": target.limit.origin,
        "limit_confidence": target.limit.chance,
        "limit_chance": _chance(kept),
        "predicted_ms": float(kept.predicted.ms[0]),
        "predicted_low_ms": float(kept.predicted.low[0]),
        "predicted_high_ms": float(kept.predicted.high[0]),
        "measured_ms": kept.ms,
        "limit_kept": kept.is_kept,
        "noise_floor": target.predictors.test.noise_floor,
        "predictor": [asdict(accuracy) for accuracy in target.predictors.accuracies],
    }


def _turned_off(searched: Searched) -> dict[str, list[str]]:
    """The options that were turned off while the supernet trained, by choice."""
    left = {c.name: c.options for c in searched.trained.space.choices}
    off = {c.name: [o for o in c.options if o not in left[c.name]] for c in searched.target.latency.space.choices}
    return {choice: options for choice, options in off.items() if options}


def report_of(outcome: Outcome) -> Report:
    """The same, with what pictures need."""
    searched, deployed, target = outcome.searched, outcome.deployed, outcome.searched.target
    task, limit, test, device = searched.task, target.limit, target.predictors.test, target.info
    found = target.predictors.table.predict([network.operators for network in test.networks])
    names = [network.arch.key for network in test.networks]
    tests = [
        Comparison(*row)
        for row in zip(names, *map(_floats, (found.ms, found.low, found.high, test.measured, test.noise)), strict=True)
    ]
    points = points_of(searched, outcome.chosen.key)
    return Report(
        title=f"Paceline run: {searched.recipe.name}",
        task=f"{task.name}, {task.image_size}×{task.image_size}, {len(task.classes)} classes",
        config=searched.config.model_dump_json(indent=2),
        limit_ms=limit.ms,
        limit_origin=(
            f"{limit.origin}, to be kept with a chance of {limit.chance:.1%}; "
            f"the chosen network was predicted to keep it with a chance of {_chance(outcome.kept):.1%}"
        ),
        device=device,
        bench=target.bench,
        runtime=device.runtime_of(target.bench),
        seed=searched.config.seed,
        final=_comparison(outcome.kept, "model.tflite"),
        others=tuple(
            OtherRow(_comparison(other, other.target.name), other.target.limit.ms, other.target.info.simulated)
            for other in outcome.others
        ),
        accuracy=outcome.accuracy,
        macs=deployed.graph.macs(),
        params=deployed.graph.params(),
        noise_floor=test.noise_floor,
        chosen=outcome.chosen,
        front=tuple(fast_and_accurate(searched, points)),
        evaluated=tuple(points.values()),
        hypervolume=tuple(searched.archive.hypervolumes()),
        tests=tuple(tests),
        predictors=target.predictors.accuracies,
        operators=_operator_rows(outcome),
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


def _comparison(kept: Kept, name: str) -> Comparison:
    p = kept.predicted
    return Comparison(name, float(p.ms[0]), float(p.low[0]), float(p.high[0]), kept.ms, kept.measurement.spread)


def _chance(kept: Kept) -> float:
    """With which the chosen network was predicted to keep the limit."""
    return float(kept.predicted.chance(kept.target.limit.ms)[0])


def _operator_rows(outcome: Outcome) -> tuple[OperatorRow, ...]:
    """Predicted beside profiled; without the profile where the runtime executed other operators than the Graph's."""
    deployed = outcome.deployed
    predicted = _floats(outcome.searched.target.predictors.table.contributions(deployed.operators)[0])
    profiled: Sequence[float | None] = align(deployed.operators, deployed.profile) or [None] * len(predicted)
    return tuple(map(OperatorRow, deployed.operators, deployed.graph.sources(), predicted, profiled))


def _notes(outcome: Outcome) -> tuple[str, ...]:
    notes = []
    searched, deployed = outcome.searched, outcome.deployed
    predictors = searched.target.predictors
    if {goal.figure for goal in searched.recipe.goals} != {"accuracy", "latency"}:
        wanted = ", ".join(f"{goal.figure} ({goal.direction})" for goal in searched.recipe.goals)
        notes.append(
            f"The search was for {wanted}; the picture shows what is best in accuracy and latency, front.json the whole front."
        )
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
