"""Runs a float `.tflite` and a quantised one on the same samples. A program of its own, because native code may crash:

python -m paceline.exporters.precision.run_comparison FLOAT.tflite QUANTISED.tflite SAMPLES.npz TRACED RESULT.json
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np

from paceline.exporters.precision.activation_ranges import CLIPS, MOVES
from paceline.exporters.precision.calibration import Sample, load_samples
from paceline.exporters.precision.tensor_reader import Floats, TensorReader
from paceline.exporters.tflite import read

_CONVERSIONS = ("QUANTIZE", "DEQUANTIZE")
_PASSES_ON = MOVES | CLIPS.keys() | {"MAX_POOL_2D", "QUANTIZE"}
"""Kinds behind which masking of noise is looked for, too."""
_MASKS = _PASSES_ON | {"ADD", "SUB", "MUL", "MAXIMUM", "MINIMUM", "LOGISTIC", "SOFTMAX", "TANH", "HARD_SWISH"}
"""Kinds that may mask noise of an operand: a gate times almost 0, a strong sum, a flat part of a function."""
_Step = tuple[str, list[str], str]
"""Kind, operands, result."""


class _Sums:
    """What a comparison needs to remember of all samples."""

    def __init__(self) -> None:
        self.count = 0
        self.max_error = self.abs_error = self.noise = self.signal = 0.0
        self.mean: Floats | float = 0.0
        self.samples = 0
        self.rows = self.agree = 0

    def add(self, exact: Floats, computed: Floats) -> None:
        error = np.abs(computed - exact)
        self.count += exact.size
        self.max_error = max(self.max_error, float(error.max(initial=0)))
        self.abs_error += float(error.sum())
        self.noise += float(np.square(error).sum())
        self.signal += float(np.square(exact).sum())
        self.mean = self.mean + exact
        self.samples += 1
        if exact.ndim == 2 and exact.shape[1] > 1:
            self.rows += len(exact)
            self.agree += int((exact.argmax(1) == computed.argmax(1)).sum())

    def summary(self) -> dict[str, float]:
        mean = np.asarray(self.mean) / max(self.samples, 1)
        return {
            "count": self.count,
            "max_error": self.max_error,
            "abs_error": self.abs_error,
            "noise": self.noise,
            "signal": self.signal,
            "varying": max(0.0, self.signal - self.samples * float(np.square(mean).sum())),
            "rows": self.rows,
            "agree": self.agree,
        }


def outputs(exact: bytes, quantised: bytes, samples: list[Sample]) -> list[dict[str, Any]]:
    """Per output: how far the models disagree, both on XNNPACK where it takes an operator."""
    readers = TensorReader(exact, delegated=True), TensorReader(quantised, delegated=True)
    names = read(exact).graph.outputs
    sums = [_Sums() for _ in names]
    for sample in samples:
        for reader in readers:
            reader.run(sample)
        for output, a, b in zip(sums, readers[0].outputs(), readers[1].outputs(), strict=True):
            output.add(a, b)
    return [{"name": name, **output.summary()} for name, output in zip(names, sums, strict=True)]


def operators(exact: bytes, quantised: bytes, samples: list[Sample]) -> list[dict[str, Any]]:
    """Per operator of the quantised model whose result the float model has too: signal and noise of operands and result.

    Both models run on TFLite's own kernels, the only ones that leave all tensors to be read. The result of a conversion
    stands for what was converted.
    """
    graph, reference = read(quantised).graph, read(exact).graph
    computed = {*reference.inputs, *(t for op in reference.ops for t in op.outputs)}
    twin = {t: t for t in graph.inputs if t in computed}
    steps: list[_Step] = []
    for op in graph.ops:
        operands = [t for t in op.inputs if t in twin]
        for t in op.outputs:
            if op.kind in _CONVERSIONS and operands:
                twin[t] = twin[operands[0]]
            elif t in computed:
                twin[t] = t
        if operands and op.outputs[0] in twin:
            steps.append((op.kind, operands, op.outputs[0]))
    sums = {t: _Sums() for t in twin}
    readers = TensorReader(exact), TensorReader(quantised)
    for sample in samples:
        for reader in readers:
            reader.run(sample)
        for t, total in sums.items():
            total.add(readers[0].values(twin[t]), readers[1].values(t))
    found = {t: total.summary() for t, total in sums.items()}
    return [
        {
            "kind": kind,
            "tensor": twin[result],
            "operands": [found[t] for t in operands],
            "result": found[result],
            "later": [found[t] for t in _later(steps, result)],
        }
        for kind, operands, result in steps
    ]


def _later(steps: list[_Step], tensor: str) -> list[str]:
    """Results where noise of `tensor` may be masked: of elementwise readers, and of those behind what only moves or clips."""
    found = []
    for kind, operands, result in steps:
        if tensor in operands and kind in _MASKS:
            found.append(result)
            if kind in _PASSES_ON:
                found += _later(steps, result)
    return found


def main(exact: str, quantised: str, data: str, traced: str, result: str) -> None:
    samples = load_samples(Path(data))
    models = Path(exact).read_bytes(), Path(quantised).read_bytes()
    found = {"outputs": outputs(*models, samples), "operators": operators(*models, samples[: int(traced)])}
    Path(result).write_text(json.dumps(found))


if __name__ == "__main__":
    main(*sys.argv[1:])
