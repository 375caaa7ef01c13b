"""Single-operator models: any OpSpec as a `.tflite` of its own, what the rows of a latency table are measured with."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np

from paceline.exporters import tflite
from paceline.files import write_atomically
from paceline.graph import Array, Graph, Op, OpSpec, TensorSpec, attrs
from paceline.measurement import Artifact


def operator_graph(spec: OpSpec) -> Graph:
    """A Graph of the one operator (two, where a PAD belongs to a convolution) with random weights, the same in every process."""
    seed = int.from_bytes(hashlib.sha256(spec.key.encode()).digest()[:8], "big")
    rng = np.random.default_rng(seed)
    names = tuple(f"weight_{i}" if i in spec.constants else f"input_{i}" for i in range(len(spec.inputs)))
    outputs = tuple(f"output_{i}" for i in range(len(spec.outputs)))
    tensors = dict(zip((*names, *outputs), (*spec.inputs, *spec.outputs), strict=True))
    weights = {names[i]: _random(spec.inputs[i], rng) for i in spec.constants}
    values = dict(spec.attrs)
    pad = values.pop("pad", None)
    ops: tuple[Op, ...] = (Op(spec.kind, names, outputs, attrs(**values)),)
    if isinstance(pad, tuple):
        n, h, w, c = spec.inputs[0].shape
        tensors["padded"] = TensorSpec((n, h + pad[0] + pad[1], w + pad[2] + pad[3], c), spec.inputs[0].dtype)
        padded = Op("PAD", names[:1], ("padded",), attrs(paddings=(0, 0, *pad, 0, 0)))
        ops = (padded, Op(spec.kind, ("padded", *names[1:]), outputs, attrs(**values)))
    return Graph(ops, tensors, tuple(n for n in names if n not in weights), outputs, weights)


def write_operator(spec: OpSpec, folder: Path) -> Artifact:
    """The single-operator model of `spec` in `folder`, named by its key's hash; an existing file is the same file."""
    path = folder / (hashlib.sha256(spec.key.encode()).hexdigest()[:16] + ".tflite")
    if not path.exists():
        write_atomically(path, tflite.write(operator_graph(spec)), sync=False)
    return Artifact(path, spec.key)


def _random(spec: TensorSpec, rng: np.random.Generator) -> Array:
    if spec.dtype.startswith("float"):
        return (rng.random(spec.shape, np.float32) * 0.4 - 0.2).astype(spec.dtype)
    limits = np.iinfo(spec.dtype)
    return rng.integers(limits.min, limits.max, spec.shape, spec.dtype, endpoint=True)
