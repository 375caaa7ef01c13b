"""What is in a `.tflite`: operators, sizes, quantisation, memory, signatures, where it comes from."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from paceline.errors import ExportError
from paceline.exporters import tflite
from paceline.exporters.provenance import KEY
from paceline.graph import AttrValue, Graph, Op, OpSpec, tensor_text

_CONVOLUTIONS = ("CONV_2D", "DEPTHWISE_CONV_2D")
_SUMMING = (*_CONVOLUTIONS, "TRANSPOSE_CONV", "FULLY_CONNECTED", "BATCH_MATMUL", "CONV_3D")
_INDICES = ("int32", "int64", "bool", "void")


@dataclass(frozen=True)
class OperatorInfo:
    """One operator as a device executes it. Tensors are texts like 1x8x8x3:int8 (float32 is not said), "@" marks constants."""

    kind: str
    name: str
    """The tensor that it computes."""
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    attrs: Mapping[str, AttrValue]
    macs: int
    params: int
    quantization: str
    """Of its weights, else of its result: "per channel", "per tensor", or "" without."""


@dataclass(frozen=True)
class GraphInfo:
    """One graph of a file. `peak_bytes` is the most that activations take at once, weights and kernels' scratch left out."""

    name: str
    inputs: Mapping[str, str]
    outputs: Mapping[str, str]
    operators: tuple[OperatorInfo, ...]
    counts: Mapping[str, int]
    macs: int
    params: int
    peak_bytes: int
    transposes_inside: int


@dataclass(frozen=True)
class Inspection:
    """A file. `scheme` is how the first graph computes; metadata entries and attached files are told by their size in bytes."""

    bytes: int
    description: str
    scheme: str
    graphs: tuple[GraphInfo, ...]
    signatures: tuple[tflite.Signature, ...]
    provenance: Mapping[str, Any] | None
    metadata: Mapping[str, int]
    files: Mapping[str, int]

    def to_json(self) -> dict[str, Any]:
        """Numbers, texts, lists and dicts only."""
        return asdict(self)


def inspect(source: Path | str | bytes) -> Inspection:
    """What the file at `source` (or with these bytes) holds. Raises ExportError where it can't be read."""
    if not isinstance(source, bytes):
        path = Path(source)
        if not path.is_file():
            raise ExportError(f"no file {path}; give a .tflite model")
    model = tflite.read(source)
    provenance = _provenance(model.metadata)
    return Inspection(
        len(source) if isinstance(source, bytes) else path.stat().st_size,
        model.description,
        scheme(model.graph),
        tuple(_graph_info(graph) for graph in model.graphs),
        model.signatures,
        provenance,
        {name: len(data) for name, data in model.metadata.items() if name != KEY or provenance is None},
        {name: len(data) for name, data in model.files.items()},
    )


def transposes_inside(graph: Graph) -> int:
    """TRANSPOSE operators inside the convolutional body: between its first and its last convolution."""
    kinds = [op.kind for op in graph.ops]
    at = [i for i, kind in enumerate(kinds) if kind in _CONVOLUTIONS]
    return kinds[at[0] : at[-1]].count("TRANSPOSE") if at else 0


def peak_bytes(graph: Graph) -> int:
    """The most bytes that computed tensors take at once: inputs live until their last reader, outputs to the end."""
    groups = graph.groups()
    folded = {name for group in groups for op in group[:-1] for name in op.outputs}
    last: dict[str, int] = {}
    for i, group in enumerate(groups):
        last.update(dict.fromkeys((name for op in group for name in op.inputs), i))
    last.update(dict.fromkeys((*graph.outputs, *graph.variables), len(groups)))

    def size(names: Iterable[str]) -> int:
        counted = {name for name in names if name and name not in graph.weights and name not in folded}
        return sum(graph.tensors[name].bytes for name in counted)

    live = most = size((*graph.inputs, *graph.variables))
    for i, group in enumerate(groups):
        live += size(set(group[-1].outputs) - graph.variables)
        most = max(most, live)
        ended = {name for op in group for name in (*op.inputs, *op.outputs) if last.get(name, i) == i}
        live -= size(ended)
    return most


def scheme(graph: Graph) -> str:
    """How numbers are stored and computed: "fp32", "fp16 weights", "dynamic range int8", "static int8" …, counted if mixed.

    Told by convolutions and matrix products; by all operators where there are none.
    """
    specs = graph.operators()
    telling = [spec for spec in specs if spec.kind in _SUMMING] or specs
    counts = Counter(_scheme_of(spec) for spec in telling)
    if len(counts) == 1:
        return next(iter(counts))
    return "mixed: " + ", ".join(f"{name} ({n})" for name, n in counts.most_common()) if counts else "empty"


def _scheme_of(spec: OpSpec) -> str:
    largest = max((spec.inputs[i] for i in spec.constants), key=lambda t: t.elements, default=None)  # not the bias
    data = [t.dtype for i, t in enumerate(spec.inputs) if i not in spec.constants and t.dtype not in _INDICES]
    activation = (data or [t.dtype for t in spec.outputs] or ["nothing"])[0]
    weight = largest.dtype if largest is not None else ""
    if activation == "int16" and weight == "int8":
        return "static int16x8"
    if activation in ("int8", "uint8", "int16"):
        return f"static {activation}"
    if activation == "float32" and weight in ("int8", "int4", "uint8"):
        return f"{weight} weights" if spec.attr("dequantized") else f"dynamic range {weight}"
    if activation == "float32" and weight == "float16":
        return "fp16 weights"
    return {"float32": "fp32", "float16": "fp16"}.get(activation, activation)


def _graph_info(graph: Graph) -> GraphInfo:
    operators = tuple(_operator_info(graph, spec, group) for spec, group in zip(graph.operators(), graph.groups(), strict=True))
    return GraphInfo(
        graph.name,
        {name: tensor_text(graph.tensors[name]) for name in graph.inputs},
        {name: tensor_text(graph.tensors[name]) for name in graph.outputs},
        operators,
        dict(Counter(op.kind for op in operators).most_common()),
        sum(op.macs for op in operators),
        graph.params(),
        peak_bytes(graph),
        transposes_inside(graph),
    )


def _operator_info(graph: Graph, spec: OpSpec, group: tuple[Op, ...]) -> OperatorInfo:
    op = group[-1]
    weights = [name for part in group for name in part.inputs if name in graph.weights]
    scales = [graph.quantization[name] for name in (*weights, *op.outputs) if name in graph.quantization]
    quantization = ("per channel" if scales[0].per_channel else "per tensor") if scales else ""
    kind = str(spec.attr("custom_code")) if spec.kind == "CUSTOM" else spec.kind
    constants = ["@" if i in spec.constants else "" for i in range(len(spec.inputs))]
    return OperatorInfo(
        kind,
        op.outputs[0] if op.outputs else "",
        tuple(mark + tensor_text(t) for mark, t in zip(constants, spec.inputs, strict=True)),
        tuple(tensor_text(t) for t in spec.outputs),
        dict(spec.attrs),
        spec.macs,
        spec.params,
        quantization,
    )


def _provenance(metadata: Mapping[str, bytes]) -> Mapping[str, Any] | None:
    try:
        found = json.loads(metadata[KEY]) if KEY in metadata else None
    except (ValueError, RecursionError):
        return None
    return found if isinstance(found, dict) else None
