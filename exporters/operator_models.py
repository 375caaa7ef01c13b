"""Single-operator models: any OpSpec as a `.tflite` of its own, what the rows of a latency table are measured with.

Several operators in one small model show what a runtime does between them.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from paceline.errors import ExportError
from paceline.exporters import tflite
from paceline.exporters.fused_operators import Step, steps_of
from paceline.exporters.tflite.builtin import PARAMETERS
from paceline.files import write_atomically
from paceline.graph import WITHOUT_NUMPY, Array, Graph, Op, OpSpec, Quantization, TensorSpec, attrs
from paceline.measurement import Artifact

_SCALE = 1 / 16  # one scale for all activations: many kernels want input and output alike
_WEIGHT_SCALE = 1 / 128
_FIXED = {"LOGISTIC": (256, -128), "SOFTMAX": (256, -128), "TANH": (128, 0), "L2_NORMALIZATION": (128, 0)}
"""Kinds whose int8 result has one possible scale, 1 / the first number, and zero point."""

_CHANNELS = {"CONV_2D": (1, 0), "DEPTHWISE_CONV_2D": (1, 3), "FULLY_CONNECTED": (1, 0), "TRANSPOSE_CONV": (0, 0)}
"""Which operand is the filter, and its output channels' dimension."""

_ELSEWHERE = ("IF", "WHILE", "CALL", "CALL_ONCE", "STABLEHLO_")
_INDEXED = ("GATHER", "EMBEDDING_LOOKUP")


def operator_graph(spec: OpSpec) -> Graph:
    """A Graph of the one operator, with a PAD or DEQUANTIZE that belongs to it, and random weights, the same in every process.

    A fused operator is the operators that it is made of. Quantised operators get plausible scales: per channel where weights are
    int8. Raises ExportError where the key does not say enough: operands that hold parameters but are not attributes, control
    flow, types without numbers.
    """
    steps = steps_of(spec)
    return steps_graph(steps) if len(steps) > 1 else _operator_graph(spec, spec.key)


def steps_graph(steps: Sequence[Step], outputs: Sequence[int] = ()) -> Graph:
    """A Graph of several operators, with random weights of their own, the same in every process.

    What no other step produces is an input of its own, what no other step reads an output, and the results of the steps numbered
    in `outputs` are outputs besides. Raises ExportError as `operator_graph` does.
    """
    parts = [_operator_graph(step.spec, f"{i} {step.spec.key}") for i, step in enumerate(steps)]
    read = {number for step in steps for _, number in step.reads}
    ops: list[Op] = []
    tensors, weights, quantization = dict[str, TensorSpec](), dict[str, Array](), dict[str, Quantization]()
    for i, (step, part) in enumerate(zip(steps, parts, strict=True)):
        linked = {f"input_{operand}": f"{number}_output_0" for operand, number in step.reads}
        names = {name: linked.get(name, f"{i}_{name}") for name in part.tensors} | {"": ""}
        ops += [
            replace(op, inputs=tuple(names[t] for t in op.inputs), outputs=tuple(names[t] for t in op.outputs)) for op in part.ops
        ]
        tensors |= {names[t]: found for t, found in part.tensors.items() if t not in linked}
        quantization |= {names[t]: found for t, found in part.quantization.items() if t not in linked}
        weights |= {names[t]: found for t, found in part.weights.items()}
    made = {t for op in ops for t in op.outputs}
    inputs = tuple(dict.fromkeys(t for op in ops for t in op.inputs if t and t not in made and t not in weights))
    results = [f"{i}_{t}" for i, part in enumerate(parts) if i in outputs or i not in read for t in part.outputs]
    return Graph(tuple(ops), tensors, inputs, tuple(results), weights, quantization)


def _operator_graph(spec: OpSpec, seed: str) -> Graph:
    _refuse(spec)
    rng = np.random.default_rng(int.from_bytes(hashlib.sha256(seed.encode()).digest()[:8], "big"))
    names = [f"weight_{i}" if i in spec.constants else f"input_{i}" for i in range(len(spec.inputs))]
    outputs = tuple(f"output_{i}" for i in range(len(spec.outputs)))
    tensors = dict(zip((*names, *outputs), (*spec.inputs, *spec.outputs), strict=True))
    quantization = _quantization(spec, names, outputs)
    weights = {names[i]: _random(spec, i, rng) for i in spec.constants}
    values = dict(spec.attrs)
    pad, expanded = values.pop("pad", None), values.pop("dequantized", ())
    ops: list[Op] = []
    operands = ["" if t.dtype == "void" else name for t, name in zip(spec.inputs, names, strict=True)]
    for i in spec.constants:
        if spec.inputs[i].dtype == "float16" or (isinstance(expanded, tuple) and i in expanded):
            operands[i] = f"expanded_{i}"
            tensors[operands[i]] = TensorSpec(spec.inputs[i].shape)
            ops.append(Op("DEQUANTIZE", (names[i],), (operands[i],)))
    inputs = tuple(name for name in operands if name.startswith("input_"))
    if isinstance(pad, tuple):
        n, h, w, c = spec.inputs[0].shape
        tensors["padded"] = TensorSpec((n, h + pad[0] + pad[1], w + pad[2] + pad[3], c), spec.inputs[0].dtype)
        if operands[0] in quantization:
            quantization["padded"] = quantization[operands[0]]
        ops.append(Op("PAD", (operands[0],), ("padded",), attrs(paddings=(0, 0, *pad, 0, 0))))
        operands[0] = "padded"
    ops.append(Op(spec.kind, tuple(operands), outputs, attrs(**values)))
    return Graph(tuple(ops), tensors, inputs, outputs, weights, quantization)


def write_operator(spec: OpSpec, folder: Path) -> Artifact:
    """The single-operator model of `spec` in `folder`, named by its key's hash; an existing file is the same file."""
    path = folder / (hashlib.sha256(spec.key.encode()).hexdigest()[:16] + ".tflite")
    if not path.exists():
        write_atomically(path, tflite.write(operator_graph(spec)), sync=False)
    return Artifact(path, spec.key)


def write_steps(steps: Sequence[Step], folder: Path, subject: str, outputs: Sequence[int] = ()) -> Artifact:
    """The model of `steps_graph` in `folder`, named by what it holds; an existing file is the same file."""
    text = "\n".join([*(f"{step.reads} {step.spec.key}" for step in steps), f"{sorted(outputs)}"])
    path = folder / (hashlib.sha256(text.encode()).hexdigest()[:16] + ".tflite")
    if not path.exists():
        write_atomically(path, tflite.write(steps_graph(steps, outputs)), sync=False)
    return Artifact(path, subject)


def _refuse(spec: OpSpec) -> None:
    remedy = "cut it out of its network instead (paceline.exporters.cut)"
    if spec.kind.startswith(_ELSEWHERE):
        raise ExportError(f"{spec.key} runs other graphs, which its key does not hold; {remedy}")
    for t in (*spec.inputs, *spec.outputs):
        if t.dtype in WITHOUT_NUMPY and t.dtype not in ("int4", "void"):
            raise ExportError(f"{spec.key} works on {t.dtype}, of which no random values can be made; {remedy}")
    for p in PARAMETERS.get(spec.kind, ()):
        operand = spec.inputs[p.position] if p.position < len(spec.inputs) else None
        if operand is not None and spec.attr(p.name) is None and operand.dtype in ("int32", "int64"):
            raise ExportError(f"{spec.key} takes its {p.name} as an operand, whose values its key does not hold; {remedy}")


def _quantization(spec: OpSpec, names: list[str], outputs: tuple[str, ...]) -> dict[str, Quantization]:
    found: dict[str, Quantization] = {}
    filters, axis = _CHANNELS.get(spec.kind, (-1, 0))
    expanded = spec.attr("dequantized", ())
    for i, (name, t) in enumerate(zip(names, spec.inputs, strict=True)):
        if t.dtype in ("int8", "int4") and i == filters and i in spec.constants and axis < len(t.shape):
            found[name] = Quantization((_WEIGHT_SCALE,) * t.shape[axis], (0,) * t.shape[axis], axis)
        elif isinstance(expanded, tuple) and i in expanded:
            found[name] = Quantization((_WEIGHT_SCALE,), (0,))
        elif t.dtype in ("int8", "uint8", "int16"):
            found[name] = Quantization((_WEIGHT_SCALE if i == filters else _SCALE,), (128 if t.dtype == "uint8" else 0,))
        elif t.dtype in ("int32", "int64") and i in spec.constants and -1 < filters < len(names) and names[filters] in found:
            scales = tuple(_SCALE * s for s in found[names[filters]].scale)
            found[name] = Quantization(scales, (0,) * len(scales))
    for name, t in zip(outputs, spec.outputs, strict=True):
        levels, zero_point = _FIXED.get(spec.kind, (16, 0))
        if t.dtype == "int16":
            found[name] = Quantization((1 / 32768 if spec.kind in _FIXED else _SCALE,), (0,))
        elif t.dtype in ("int8", "uint8"):
            found[name] = Quantization((1 / levels,), (zero_point + (128 if t.dtype == "uint8" else 0),))
    return found


def _random(spec: OpSpec, i: int, rng: np.random.Generator) -> Array:
    t = spec.inputs[i]
    if t.dtype.startswith("float"):
        return (rng.random(t.shape, np.float32) * 0.4 - 0.2).astype(t.dtype)
    if t.dtype in WITHOUT_NUMPY:
        return rng.integers(0, 256, t.bytes, np.uint8)
    if t.dtype == "bool":
        return rng.random(t.shape) < 0.5
    if spec.kind in _INDEXED:
        axis = spec.attr("axis", 0)
        rows = next((o.shape[axis] for j, o in enumerate(spec.inputs) if j != i and isinstance(axis, int)), 1)
        return rng.integers(0, rows, t.shape, t.dtype)
    if t.dtype in ("int32", "int64"):  # biases: small beside what is summed
        return rng.integers(-1000, 1000, t.shape, t.dtype)
    limits = np.iinfo(t.dtype)
    return rng.integers(limits.min + (t.dtype == "int8"), limits.max, t.shape, t.dtype, endpoint=True)
