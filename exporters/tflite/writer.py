"""Graph or Model -> `.tflite`: written directly as a flatbuffer with the schema that ai-edge-litert ships, no converter."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import flatbuffers
import numpy as np
from ai_edge_litert import schema_py_generated as schema

from paceline.errors import ExportError
from paceline.exporters.tflite.attached import attached
from paceline.exporters.tflite.builtin import encode
from paceline.exporters.tflite.model import Model, model_of
from paceline.exporters.tflite.options import TYPES, number_of
from paceline.files import write_atomically
from paceline.graph import Array, Graph, Op, Quantization, TensorSpec

_ALIGNMENT = 16  # what TFLite's kernels expect of constant data
_TYPES = {name: number for number, name in TYPES.items()}


def save(network: Graph | Model, path: Path) -> None:
    """Writes `network` to `path`; the file is there whole or not at all."""
    write_atomically(path, write(network))


def write(network: Graph | Model) -> bytes:
    """The bytes of a `.tflite`; a Graph gets the signature `serving_default` (input_0 …, output_0 …).

    Raises ExportError for an operator, attribute or element type that TFLite does not have.
    """
    return _Writer(network if isinstance(network, Model) else model_of(network)).packed()


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
    """What all graphs of a file share: buffers and operator codes."""

    def __init__(self, model: Model) -> None:
        self.model = model
        self.buffers = [_AlignedBuffer()]  # buffer 0 is the empty one by convention
        self.codes: dict[tuple[int, int, str], int] = {}
        self._shared: dict[tuple[int, int], int] = {}

    def packed(self) -> bytes:
        graphs = [_GraphWriter(graph, i, self) for i, graph in enumerate(self.model.graphs)]
        root = schema.ModelT()
        root.version, root.description = 3, self.model.description
        root.subgraphs = [graph.subgraph() for graph in graphs]
        root.operatorCodes = [_code(*code) for code in self.codes]
        root.metadata = [self._metadata(name, data) for name, data in self.model.metadata.items()] or None
        root.signatureDefs = []
        for signature in self.model.signatures:
            if not 0 <= signature.graph < len(graphs):
                raise ExportError(f"signature {signature.name!r} is of graph {signature.graph}; there are {len(graphs)} graphs")
            root.signatureDefs.append(graphs[signature.graph].signature(signature.name, signature.inputs, signature.outputs))
        root.buffers = self.buffers
        size = 4096 + 2 * sum(0 if b.data is None else len(b.data) + _ALIGNMENT for b in self.buffers)
        builder = flatbuffers.Builder(size)
        builder.Finish(root.Pack(builder), b"TFL3")
        packed = bytes(builder.Output())
        return attached(packed, self.model.files) if self.model.files else packed

    def constant(self, values: Array) -> int:
        """The buffer that holds `values`; arrays that are views of the same memory share one."""
        if not values.flags.c_contiguous or not values.nbytes:
            return self.buffer(values.tobytes())
        memory = (values.__array_interface__["data"][0], values.nbytes)
        if memory not in self._shared:
            self._shared[memory] = self.buffer(values.tobytes())
        return self._shared[memory]

    def buffer(self, data: bytes) -> int:
        self.buffers.append(_AlignedBuffer())
        self.buffers[-1].data = data
        return len(self.buffers) - 1

    def _metadata(self, name: str, data: bytes) -> Any:
        entry = schema.MetadataT()
        entry.name, entry.buffer = name, self.buffer(data)
        return entry


class _GraphWriter:
    def __init__(self, graph: Graph, number: int, file: _Writer) -> None:
        self.graph, self.number, self.file = graph, number, file
        self.tensors: list[Any] = []
        self.index: dict[str, int] = {"": -1}
        self.inputs = [self._tensor(name) for name in graph.inputs]
        self.operators = [self._operator(op) for op in graph.ops]
        self.outputs = [self._tensor(name) for name in graph.outputs]

    def subgraph(self) -> Any:
        subgraph = schema.SubGraphT()
        subgraph.name, subgraph.inputs, subgraph.outputs = self.graph.name, self.inputs, self.outputs
        subgraph.tensors, subgraph.operators = self.tensors, self.operators
        return subgraph

    def signature(self, name: str, inputs: Any, outputs: Any) -> Any:
        signature = schema.SignatureDefT()
        signature.signatureKey, signature.subgraphIndex = name, self.number
        signature.inputs, signature.outputs = self._names(inputs), self._names(outputs)
        return signature

    def _names(self, names: Any) -> list[Any]:
        found = []
        for name, tensor in names.items():
            if tensor not in self.index:
                raise ExportError(
                    f"a signature calls the tensor {tensor!r} {name!r}, which graph {self.graph.name!r} does not use"
                )
            entry = schema.TensorMapT()
            entry.name, entry.tensorIndex = name, self.index[tensor]
            found.append(entry)
        return found

    def _operator(self, op: Op) -> Any:
        encoded = encode(op, self.graph)
        operator = schema.OperatorT()
        code = (encoded.code, encoded.version, encoded.custom_code)
        operator.opcodeIndex = self.file.codes.setdefault(code, len(self.file.codes))
        computes = op.outputs[0] if op.outputs else op.kind
        operator.inputs = [
            self._tensor(operand) if isinstance(operand, str) else self._parameter(f"{computes}/parameter{i}", operand)
            for i, operand in enumerate(encoded.operands)
        ]
        operator.outputs = [self._tensor(name) for name in op.outputs]
        if encoded.table:
            number, second = number_of(encoded.table)
            if second:
                operator.builtinOptions2, operator.builtinOptions2Type = encoded.options, number
            else:
                operator.builtinOptions, operator.builtinOptionsType = encoded.options, number
        if encoded.custom_options:
            operator.customOptions = np.frombuffer(encoded.custom_options, np.uint8)
        return operator

    def _tensor(self, name: str) -> int:
        if name not in self.index:
            spec, buffer = self.graph.tensors[name], 0
            if name in self.graph.weights:
                values = self.graph.weights[name]
                if values.nbytes != spec.bytes and spec.dtype != "string":
                    raise ExportError(f"tensor {name!r} is {spec.dtype} {spec.shape}, its weights have {values.nbytes} bytes")
                buffer = self.file.constant(values)
            self._append(name, spec, buffer)
        return self.index[name]

    def _parameter(self, name: str, values: Array) -> int:
        while name in self.index:
            name += "_"
        self._append(name, TensorSpec(values.shape, values.dtype.name), self.file.buffer(values.tobytes()))
        return self.index[name]

    def _append(self, name: str, spec: TensorSpec, buffer: int) -> None:
        if spec.dtype not in _TYPES:
            raise ExportError(f"tensor {name!r} has element type {spec.dtype}, which TFLite lacks; it has {', '.join(_TYPES)}")
        tensor = schema.TensorT()
        tensor.name, tensor.shape, tensor.type, tensor.buffer = name, list(spec.shape), _TYPES[spec.dtype], buffer
        tensor.hasRank, tensor.isVariable = True, name in self.graph.variables
        if name in self.graph.dynamic:
            tensor.shapeSignature = list(self.graph.dynamic[name])
        if name in self.graph.quantization:
            tensor.quantization = _quantization(self.graph.quantization[name])
        self.index[name] = len(self.tensors)
        self.tensors.append(tensor)


def _quantization(given: Quantization) -> Any:
    parameters = schema.QuantizationParametersT()
    parameters.scale = np.asarray(given.scale, np.float32)
    parameters.zeroPoint = np.asarray(given.zero_point, np.int64)
    parameters.quantizedDimension = given.axis
    return parameters


def _code(code: int, version: int, custom: str) -> Any:
    entry = schema.OperatorCodeT()
    entry.builtinCode, entry.deprecatedBuiltinCode, entry.version = code, min(code, 127), version
    entry.customCode = custom or None
    return entry
