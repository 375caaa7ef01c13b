"""`.tflite` -> Model. Files come from anywhere: whatever their bytes are, reading ends soon, with a Model or an ExportError.

FlatBuffers has no verifier in Python, and parts of a hostile file may be shared so that it unfolds to any size. So every part
that is visited is paid for from a budget of some multiple of the file's size; offsets, indices and values are checked.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from ai_edge_litert import schema_py_generated as schema

from paceline.errors import ExportError
from paceline.exporters.tflite.attached import files_of
from paceline.exporters.tflite.builtin import KINDS, decode
from paceline.exporters.tflite.model import Model, Signature
from paceline.exporters.tflite.options import TYPES, table_named
from paceline.graph import WITHOUT_NUMPY, Array, Graph, Op, Quantization, TensorSpec, attrs

_GENEROSITY = 3  # how often a file's parts may be visited: the budget over the file's size
_TABLE = 48  # what a tensor or an operator takes at least in an ordinary file, and costs
_MAX_RANK = 32
_LONG = 300
_DAMAGE = (struct.error, ValueError, TypeError, IndexError, KeyError, OverflowError, AssertionError)


def read(source: Path | str | bytes) -> Model:
    """The file at `source`, or the one that the bytes are. Constants are views of the file's bytes, not copies.

    Not kept: tensors that nothing reads or computes, the names of parameter operands, the ranges that quantised tensors may be
    annotated with, debug information, TFLite's deprecated metadata buffers, and all but the last of several metadata entries of
    one name. Raises ExportError, naming the file and the reason, where it can't be read, is damaged, or uses what a Graph can't
    hold: sparse tensors, external buffers, blockwise quantisation, operators with intermediate tensors, declared variant tensors.
    """
    name = "the model" if isinstance(source, bytes) else str(source)
    try:
        data = source if isinstance(source, bytes) else Path(source).read_bytes()
    except (OSError, ValueError) as e:
        raise ExportError(f"can't read {name}: {getattr(e, 'strerror', None) or e}; give a .tflite file") from e
    if data[4:8] != b"TFL3":
        raise ExportError(f"{name} is no .tflite file: it does not say TFL3 at byte 4 ({len(data)} bytes)")
    try:
        return _Reader(data).model()
    except ExportError as e:
        raise ExportError(f"{name} can't be read: {_brief(e)}") from e
    except _DAMAGE as e:
        raise ExportError(f"{name} is damaged: {_brief(e)} ({type(e).__name__}); get it again from its source") from e


def _brief(error: Exception) -> str:
    """Its message, in which a damaged file may have put a name of any length."""
    text = str(error)
    return text if len(text) <= 2 * _LONG else f"{text[:_LONG]} … {text[-_LONG:]}"


@dataclass
class _Code:
    kind: str
    version: int
    custom: str


@dataclass
class _Parts:
    """The tensors of a graph being read: by index their names, by name all else."""

    names: list[str] = field(default_factory=list)
    tensors: dict[str, TensorSpec] = field(default_factory=dict)
    constants: dict[str, Array] = field(default_factory=dict)
    quantization: dict[str, Quantization] = field(default_factory=dict)
    variables: set[str] = field(default_factory=set)
    dynamic: dict[str, tuple[int, ...]] = field(default_factory=dict)

    def name(self, index: int) -> str:
        """The tensor's name, "" for the -1 of an absent operand."""
        if index == -1:
            return ""
        if not 0 <= index < len(self.names):
            raise ExportError(f"it names tensor {index} of {len(self.names)}; get it again from its source")
        return self.names[index]

    def present(self, indices: Sequence[int]) -> tuple[str, ...]:
        if any(index < 0 for index in indices):
            raise ExportError("an input, output or result is absent; get it again from its source")
        return tuple(self.name(index) for index in indices)


class _Reader:
    def __init__(self, data: bytes) -> None:
        self.data = data
        self.budget = _GENEROSITY * len(data) + 65536
        self.root = schema.Model.GetRootAs(data, 0)

    def model(self) -> Model:
        root = self.root
        if root.Version() != 3:
            raise ExportError(f"it has version {root.Version()} of the format; 3 is supported")
        self._refuse(root.ExternalBufferGroupsLength() or root.ExternalBuffersLength(), "external buffers")
        self.buffers = [self._content(buffer) for buffer in self._tables(root, "Buffers", 8)]
        codes = [self._code(code) for code in self._tables(root, "OperatorCodes", 16)]
        parts = [(graph, self._parts(graph)) for graph in self._tables(root, "Subgraphs", _TABLE)]
        if not parts:
            raise ExportError("it has no graph; get it again from its source")
        graphs = [self._graph(graph, found, codes) for graph, found in parts]
        signatures = [self._signature(s, [found for _, found in parts]) for s in self._tables(root, "SignatureDefs", 16)]
        metadata = {}
        for entry in self._tables(root, "Metadata", 16):
            found = self._buffer(entry.Buffer())
            self._pay(len(found))
            metadata[self._text(entry.Name())] = found.tobytes()
        return Model(tuple(graphs), tuple(signatures), metadata, self._text(root.Description()), files_of(self.data))

    def _pay(self, amount: int) -> None:
        self.budget -= amount
        if self.budget < 0:
            raise ExportError("its parts overlap so that it unfolds to many times its size; get it again from its source")

    def _refuse(self, found: object, what: str) -> None:
        if found:
            raise ExportError(f"it uses {what}, which is not supported; convert the network again without")

    def _tables(self, parent: Any, field_name: str, cost: int) -> Iterator[Any]:
        length = getattr(parent, f"{field_name}Length")()
        self._pay(length * 4)
        get = getattr(parent, field_name)
        for i in range(length):
            self._pay(cost)
            yield get(i)

    def _ints(self, parent: Any, field_name: str) -> list[int]:
        length = getattr(parent, f"{field_name}Length")()
        if not length:
            return []
        self._pay(length * 4)
        values: list[int] = getattr(parent, f"{field_name}AsNumpy")().tolist()
        return values

    def _text(self, raw: bytes | None) -> str:
        self._pay(len(raw or b""))
        return (raw or b"").decode(errors="backslashreplace")

    def _content(self, buffer: Any) -> Array:
        """What a buffer holds, within the flatbuffer or, in large files, behind it."""
        start, size = buffer.Offset(), buffer.Size()
        if start > 1:
            return self._slice(start, size)
        values: Array = buffer.DataAsNumpy() if buffer.DataLength() else np.empty(0, np.uint8)
        return values

    def _slice(self, start: int, size: int) -> Array:
        if start + size > len(self.data):
            raise ExportError(f"a buffer ends at byte {start + size} of {len(self.data)}; get the file again from its source")
        return np.frombuffer(self.data, np.uint8, size, start)

    def _buffer(self, index: int) -> Array:
        if index >= len(self.buffers):
            raise ExportError(f"it names buffer {index} of {len(self.buffers)}; get it again from its source")
        return self.buffers[index]

    def _code(self, code: Any) -> _Code:
        number = max(code.BuiltinCode(), code.DeprecatedBuiltinCode())
        if number not in KINDS or number == schema.BuiltinOperator.PLACEHOLDER_FOR_GREATER_OP_CODES:
            raise ExportError(f"it has the unknown operator code {number}; this version knows {max(KINDS)}")
        return _Code(KINDS[number], code.Version(), self._text(code.CustomCode()))

    def _parts(self, graph: Any) -> _Parts:
        parts, taken = _Parts(), set[str]()
        for i, tensor in enumerate(self._tables(graph, "Tensors", _TABLE)):
            base = self._text(tensor.Name()) or f"tensor_{i}"
            name = base if base not in taken else f"{base}:{i}"
            while name in taken:
                name += "_"
            taken.add(name)
            parts.names.append(name)
            self._tensor(tensor, name, parts)
        return parts

    def _tensor(self, tensor: Any, name: str, parts: _Parts) -> None:
        if tensor.Type() not in TYPES:
            raise ExportError(f"tensor {name!r} has the unknown element type {tensor.Type()}")
        shape = tuple(self._ints(tensor, "Shape"))
        if len(shape) > _MAX_RANK or min(shape, default=0) < 0:
            raise ExportError(f"tensor {name!r} has the impossible shape {shape[:_MAX_RANK]}")
        spec = parts.tensors[name] = TensorSpec(shape, TYPES[tensor.Type()])
        self._refuse(tensor.Sparsity() is not None, f"sparse tensors ({name!r})")
        self._refuse(tensor.ExternalBuffer(), f"external buffers ({name!r})")
        self._refuse(tensor.VariantTensorsLength(), f"variant tensors that declare their content ({name!r})")
        declared = tuple(self._ints(tensor, "ShapeSignature"))
        if declared and declared != shape:
            parts.dynamic[name] = declared
        if tensor.IsVariable():
            parts.variables.add(name)
        content = self._buffer(tensor.Buffer())
        if content.size:
            parts.constants[name] = _constant(name, spec, content)
        quantization = tensor.Quantization()
        if quantization is not None:
            self._refuse(quantization.DetailsType(), f"blockwise or custom quantisation ({name!r})")
            self._quantization(quantization, name, parts)

    def _quantization(self, quantization: Any, name: str, parts: _Parts) -> None:
        if not quantization.ScaleLength():
            return
        self._pay(quantization.ScaleLength() * 4 + quantization.ZeroPointLength() * 8)
        zero_point = quantization.ZeroPointAsNumpy().tolist() if quantization.ZeroPointLength() else []
        scale, axis = tuple(quantization.ScaleAsNumpy().tolist()), quantization.QuantizedDimension()
        shape = parts.tensors[name].shape
        if len(scale) > 1 and not (0 <= axis < len(shape) and shape[axis] == len(scale)):
            raise ExportError(f"tensor {name!r} of shape {shape} has {len(scale)} scales along dimension {axis}")
        parts.quantization[name] = Quantization(scale, tuple(zero_point), axis)

    def _graph(self, graph: Any, parts: _Parts, codes: list[_Code]) -> Graph:
        inputs, outputs = (parts.present(self._ints(graph, which)) for which in ("Inputs", "Outputs"))
        raw: list[tuple[Op, str, Any]] = []
        produced = set(inputs)
        for operator in self._tables(graph, "Operators", _TABLE):
            op, table, options = self._operator(operator, parts, codes)
            for name in op.outputs:
                if name in produced or name in parts.constants:
                    raise ExportError(f"{op.kind} computes tensor {name!r}, which exists already; get it again from its source")
                produced.add(name)
            raw.append((op, table, options))
        for name in parts.names:
            if not parts.tensors[name].elements and name not in produced:  # a constant of no elements has no buffer
                parts.constants[name] = _constant(name, parts.tensors[name], np.empty(0, np.uint8))
        ops = [_decoded(op, table, options, parts) for op, table, options in raw]
        read = {name for op in ops for name in op.inputs if name}.union(outputs)
        known = read.union(produced)
        weights = {name: parts.constants[name] for name in parts.names if name in parts.constants and name in read}
        return Graph(
            tuple(ops),
            {name: spec for name, spec in parts.tensors.items() if name in known},
            inputs,
            outputs,
            weights,
            {name: q for name, q in parts.quantization.items() if name in known},
            frozenset(parts.variables & known),
            {name: shape for name, shape in parts.dynamic.items() if name in known},
            self._text(graph.Name()) or "main",
        )

    def _signature(self, signature: Any, parts: Sequence[_Parts]) -> Signature:
        name, graph = self._text(signature.SignatureKey()), signature.SubgraphIndex()
        if graph >= len(parts):
            raise ExportError(f"signature {name!r} is of graph {graph} of {len(parts)}; get it again from its source")
        names: list[dict[str, str]] = [{}, {}]
        for found, which in zip(names, ("Inputs", "Outputs"), strict=True):
            for entry in self._tables(signature, which, 16):
                found[self._text(entry.Name())] = parts[graph].present([entry.TensorIndex()])[0]
        return Signature(name, names[0], names[1], graph)

    def _operator(self, operator: Any, parts: _Parts, codes: list[_Code]) -> tuple[Op, str, Any]:
        """The operator with all its operands, its options table and that table's content."""
        if operator.OpcodeIndex() >= len(codes):
            raise ExportError(f"it names operator code {operator.OpcodeIndex()} of {len(codes)}; get it again from its source")
        code = codes[operator.OpcodeIndex()]
        inputs = tuple(parts.name(index) for index in self._ints(operator, "Inputs"))
        op = Op(code.kind, inputs, parts.present(self._ints(operator, "Outputs")), version=code.version)
        self._refuse(operator.IntermediatesLength(), f"intermediate tensors ({code.kind})")
        if code.kind == "CUSTOM":
            start, size = operator.LargeCustomOptionsOffset(), operator.LargeCustomOptionsSize()
            self._pay(operator.CustomOptionsLength())
            inside: Array = operator.CustomOptionsAsNumpy() if operator.CustomOptionsLength() else np.empty(0, np.uint8)
            content = self._slice(start, size) if start > 1 else inside
            self._pay(3 * len(content))
            return replace(op, attrs=attrs(custom_code=code.custom, custom_options=content.tobytes().hex())), "", None
        return (op, *self._options(operator))

    def _options(self, operator: Any) -> tuple[str, Any]:
        for second, suffix in ((False, ""), (True, "2")):
            table = table_named(getattr(operator, f"BuiltinOptions{suffix}Type")(), second)
            found = getattr(operator, f"BuiltinOptions{suffix}")() if table else None
            if found is not None:
                options = getattr(schema, f"{table}T").InitFromBuf(found.Bytes, found.Pos)
                self._pay(8 * sum(len(value) for value in vars(options).values() if isinstance(value, bytes | np.ndarray)))
                return table, options
        return "", None


def _decoded(op: Op, table: str, options: Any, parts: _Parts) -> Op:
    if op.kind == "CUSTOM":
        return op
    try:
        return decode(op, table, options, parts.tensors, parts.constants)
    except ExportError as e:
        raise ExportError(f"{op.kind} computing {op.outputs[:1]}: {e}") from e


def _constant(name: str, spec: TensorSpec, content: Array) -> Array:
    if spec.dtype != "string" and content.nbytes != spec.bytes:
        raise ExportError(
            f"the constant {name!r} of {spec.dtype} {spec.shape} needs {spec.bytes} bytes, its buffer has {content.nbytes}"
        )
    if spec.dtype in WITHOUT_NUMPY:
        return content
    return content.view(spec.dtype).reshape(spec.shape)
