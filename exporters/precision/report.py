"""How much a quantised model differs from the float model that it was made from, and where it first goes wrong."""

from __future__ import annotations

import json
import math
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from paceline.exporters import tflite
from paceline.exporters.child_process import run_program
from paceline.exporters.precision.calibration import Calibration
from paceline.exporters.precision.quantize import check_fit
from paceline.exporters.precision.weight_ranges import WeightRange
from paceline.graph import Graph

EXACT_DB = 200.0
"""The signal-to-noise ratio of equal tensors (float32 itself ends below 160 dB); ratios lie in ± this."""
_GOOD_DB = 40.0  # what 8 bits can do for a tensor
_CONVERSIONS = ("QUANTIZE", "DEQUANTIZE")


@dataclass(frozen=True)
class OutputPrecision:
    """One output, quantised against float, over all samples; errors in the output's unit, ratios in dB (200 where equal).

    `snr_db` is the power of the float output over that of the error. `varying_snr_db` counts only the power of what differs
    between samples: where an output is mostly constant (untrained networks), that tells what is left of the answer.
    `top1_agreement` is the share of rows with the same largest entry, for 2-D outputs of several columns, else None.
    """

    name: str
    max_abs_error: float
    mean_abs_error: float
    snr_db: float
    varying_snr_db: float
    top1_agreement: float | None


@dataclass(frozen=True)
class OperatorPrecision:
    """One operator of the quantised model: the signal-to-noise ratio (dB) of its worst operand and of its result `tensor`.

    `lasting_db` is the result's ratio, or the best among results of elementwise readers where that is better: noise that these
    mask does no harm. (A wrong sigmoid of a large negative number, times that number, is still almost 0.)
    """

    kind: str
    tensor: str
    snr_before_db: float
    snr_after_db: float
    lasting_db: float


@dataclass(frozen=True)
class PrecisionReport:
    """The differences between a float model and a quantised one on `samples` samples from `source`.

    Outputs are compared as LiteRT computes them with XNNPACK; `operators` (in execution order) on TFLite's own kernels, on few
    samples. `first_wrong` is the operator after which the signal-to-noise ratio falls most for good, None without operators.
    `conversions` counts the QUANTIZE and DEQUANTIZE of computed tensors, network inputs and outputs included; `in_float` names
    the operators of an int8 model that still compute on floats, as "KIND tensor". `merged_weights` tells how wide merging made
    weights, where the export merged.
    """

    samples: int
    source: str
    outputs: tuple[OutputPrecision, ...]
    operators: tuple[OperatorPrecision, ...]
    first_wrong: OperatorPrecision | None
    conversions: int
    in_float: tuple[str, ...]
    merged_weights: tuple[WeightRange, ...] = ()


def compare(exact: bytes, quantised: bytes, samples: Calibration, traced: int = 4, timeout_s: float = 600.0) -> PrecisionReport:
    """Runs both models on all samples, in a process of its own, and on the first `traced` again to compare inner tensors.

    Raises ExportError where the samples do not fit the model, or a model crashes, hangs or has other outputs.
    """
    check_fit(exact, samples)
    with tempfile.TemporaryDirectory(prefix="paceline-compare-") as folder:
        paths = [Path(folder) / name for name in ("float.tflite", "quantised.tflite", "samples.npz", "result.json")]
        paths[0].write_bytes(exact)
        paths[1].write_bytes(quantised)
        samples.save(paths[2])
        arguments = [*map(str, paths[:3]), str(traced), str(paths[3])]
        run_program(
            "paceline.exporters.precision.run_comparison",
            arguments,
            timeout_s,
            "comparing the quantised model with the float one",
        )
        found = json.loads(paths[3].read_text())
    operators = tuple(
        OperatorPrecision(
            kind=op["kind"],
            tensor=op["tensor"],
            snr_before_db=min(_snr(o) for o in op["operands"]),
            snr_after_db=_snr(op["result"]),
            lasting_db=max(_snr(o) for o in [op["result"], *op["later"]]),
        )
        for op in found["operators"]
    )
    conversions, in_float = _floats(tflite.read(quantised).graph)
    return PrecisionReport(
        samples=len(samples.samples),
        source=samples.source,
        outputs=tuple(_output(o) for o in found["outputs"]),
        operators=operators,
        first_wrong=first_wrong(operators),
        conversions=conversions,
        in_float=in_float,
    )


def first_wrong(operators: tuple[OperatorPrecision, ...]) -> OperatorPrecision | None:
    """The operator with the largest lasting fall of the ratio, the first of equals.

    The step from float to this precision is no fault of an operator: exact operands count as the best result that any operator
    makes of such ones, at least 40 dB.
    """
    steps = [op.snr_after_db for op in operators if op.snr_before_db == EXACT_DB > op.snr_after_db]
    best = max([_GOOD_DB, *steps])

    def fall(op: OperatorPrecision) -> float:
        return (best if op.snr_before_db == EXACT_DB else op.snr_before_db) - op.lasting_db

    return max(operators, key=fall, default=None)


def _floats(graph: Graph) -> tuple[int, tuple[str, ...]]:
    """Conversions of computed tensors, and operators on floats in a model that computes on int8 elsewhere."""
    conversions, on_floats, on_int8 = 0, [], False
    for op in graph.ops:
        computed = [t for t in op.inputs if t and t not in graph.weights]
        if op.kind in _CONVERSIONS:
            conversions += bool(computed)
            continue
        dtypes = {graph.tensors[t].dtype for t in (*computed, *op.outputs)}
        on_int8 = on_int8 or "int8" in dtypes
        if "float32" in dtypes:
            on_floats.append(f"{op.kind} {op.outputs[0]}")
    return conversions, tuple(on_floats) if on_int8 else ()


def _output(sums: Mapping[str, float]) -> OutputPrecision:
    return OutputPrecision(
        name=str(sums["name"]),
        max_abs_error=sums["max_error"],
        mean_abs_error=sums["abs_error"] / max(sums["count"], 1),
        snr_db=_snr(sums),
        varying_snr_db=_decibels(sums["varying"], sums["noise"]),
        top1_agreement=sums["agree"] / sums["rows"] if sums["rows"] else None,
    )


def _snr(sums: Mapping[str, float]) -> float:
    return _decibels(sums["signal"], sums["noise"])


def _decibels(signal: float, noise: float) -> float:
    if noise == 0:
        return EXACT_DB
    if not math.isfinite(noise):
        return -EXACT_DB
    return max(-EXACT_DB, min(EXACT_DB, 10 * math.log10(signal / noise))) if signal > 0 else -EXACT_DB
