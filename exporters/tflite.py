"""Graph -> `.tflite`: written directly as a flatbuffer with the schema that ai-edge-litert ships, no converter."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import flatbuffers
import numpy as np
from ai_edge_litert import schema_py_generated as schema

from paceline.errors import ExportError
from paceline.exporters.builtin import lookup
from paceline.files import write_atomically
from paceline.graph import Array, Graph, Op, TensorSpec

SIGNATURE = "serving_default"
_ALIGNMENT = 16  # what TFLite's kernels expect of constant data

_TYPES = {
    "float32": schema.TensorType.FLOAT32,
    "float16": schema.TensorType.FLOAT16,
    "int8": schema.TensorType.INT8,
    "uint8": schema.TensorType.UINT8,
    "int32": schema.TensorType.INT32,
    "int64": schema.TensorType.INT64,
    "bool": schema.TensorType.BOOL,
}


def save(graph: Graph, path: Path) -> None:
    """Writes `graph` to `path`; the file is there whole or not at all."""
    write_atomically(path, write(graph))


def write(graph: Graph) -> bytes:
    """The bytes of a `.tflite` with one sub-graph and the signature `serving_default` (input_0 …, output_0 …).

    Raises ExportError for an operator or element type that TFLite does not have.
    """
    writer = _Writer(graph)
    for op in graph.ops:
        writer.add(op)
    return writer.finish()


class _AlignedBuffer(schema.BufferT):  # type: ignore[misc]
    """The generated Pack aligns constant data to one byte, kernels want 16."""

    def Pack(self, builder: flatbuffers.Builder) -> int:  # noqa: N802
        data = self.data
        if data is not None:
            builder.StartVector(1, len(data), _ALIGNMENT)
            builder.head -= len(data)
            builder.Bytes[builder.head : builder.head + len(data)] = data
            vector = builder.EndVector()
        schema.BufferStart(builder)
        if data is not None:
            schema.BufferAddData(builder, vector)
        return int(schema.BufferEnd(builder))


class _Writer:
    def __init__(self, graph: Graph) -> None:
        self.graph = graph
        self.buffers = [_AlignedBuffer()]  # buffer 0 is the empty one by convention
        self.tensors: list[Any] = []
        self.operators: list[Any] = []
        self.codes: dict[tuple[int, int], int] = {}
        self.index: dict[str, int] = {}
        for name in graph.inputs:
            self._tensor(name)

    def add(self, op: Op) -> None:
        builtin = lookup(op)
        operator = schema.OperatorT()
        code = getattr(schema.BuiltinOperator, op.kind)
        operator.opcodeIndex = self.codes.setdefault((code, builtin.version(op, self.graph)), len(self.codes))
        operator.inputs = [
            self._tensor(operand) if isinstance(operand, str) else self._constant(f"{op.outputs[0]}/parameter{i}", operand)
            for i, operand in enumerate(builtin.operands(op, self.graph))
        ]
        operator.outputs = [self._tensor(name) for name in op.outputs]
        if builtin.options:
            options = getattr(schema, builtin.options + "T")()
            builtin.fill(options, op, self.graph)
            operator.builtinOptions = options
            operator.builtinOptionsType = getattr(schema.BuiltinOptions, builtin.options)
        self.operators.append(operator)

    def finish(self) -> bytes:
        subgraph = schema.SubGraphT()
        subgraph.name = "main"
        subgraph.inputs = [self._tensor(name) for name in self.graph.inputs]
        subgraph.outputs = [self._tensor(name) for name in self.graph.outputs]
        subgraph.tensors, subgraph.operators = self.tensors, self.operators
        model = schema.ModelT()
        model.version, model.description = 3, "paceline"
        model.subgraphs, model.buffers = [subgraph], self.buffers
        model.operatorCodes = [_code(code, version) for code, version in self.codes]
        model.signatureDefs = [_signature(subgraph)]
        builder = flatbuffers.Builder(4096 + 2 * sum(0 if b.data is None else len(b.data) + _ALIGNMENT for b in self.buffers))
        builder.Finish(model.Pack(builder), b"TFL3")
        return bytes(builder.Output())

    def _tensor(self, name: str) -> int:
        if name not in self.index:
            if name in self.graph.weights:
                return self._constant(name, self.graph.weights[name])
            self._append(name, self.graph.tensors[name], buffer=0)
        return self.index[name]

    def _constant(self, name: str, values: Array) -> int:
        buffer = _AlignedBuffer()
        buffer.data = np.ascontiguousarray(values).tobytes()
        self.buffers.append(buffer)
        self._append(name, TensorSpec(values.shape, values.dtype.name), buffer=len(self.buffers) - 1)
        return self.index[name]

    def _append(self, name: str, spec: TensorSpec, buffer: int) -> None:
        if spec.dtype not in _TYPES:
            raise ExportError(f"tensor {name!r} has element type {spec.dtype}, TFLite files here hold {', '.join(_TYPES)}")
        tensor = schema.TensorT()
        tensor.name, tensor.shape, tensor.type, tensor.buffer = name, list(spec.shape), _TYPES[spec.dtype], buffer
        self.index[name] = len(self.tensors)
        self.tensors.append(tensor)


def _code(code: int, version: int) -> Any:
    entry = schema.OperatorCodeT()
    entry.builtinCode, entry.deprecatedBuiltinCode, entry.version = code, min(code, 127), version
    return entry


def _signature(subgraph: Any) -> Any:
    signature = schema.SignatureDefT()
    signature.signatureKey, signature.subgraphIndex = SIGNATURE, 0
    signature.inputs = [_named(f"input_{i}", tensor) for i, tensor in enumerate(subgraph.inputs)]
    signature.outputs = [_named(f"output_{i}", tensor) for i, tensor in enumerate(subgraph.outputs)]
    return signature


def _named(name: str, tensor: int) -> Any:
    entry = schema.TensorMapT()
    entry.name, entry.tensorIndex = name, tensor
    return entry
