"""What a simulated phone sees of a `.tflite` file: the operators of its main graph, with shapes and who reads what."""

from __future__ import annotations

import struct
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from ai_edge_litert import schema_py_generated as schema

from paceline.graph import AttrValue, OpSpec, TensorSpec, attrs

_MOST_DIMENSIONS = 32
_MOST_OPERANDS = 4096
_DAMAGE = (struct.error, ValueError, TypeError, IndexError, KeyError, OverflowError, AssertionError)
_POOLS = ("AVERAGE_POOL_2D", "MAX_POOL_2D", "L2_POOL_2D")


def _names(enumeration: Any) -> dict[int, str]:
    return {value: name for name, value in vars(enumeration).items() if not name.startswith("_")}


_KINDS, _ACTIVATIONS = _names(schema.BuiltinOperator), _names(schema.ActivationFunctionType)
_TYPES = {value: name.lower() for value, name in _names(schema.TensorType).items()}
_TABLES = {
    **{"CONV_2D": "Conv2DOptions", "DEPTHWISE_CONV_2D": "DepthwiseConv2DOptions", "FULLY_CONNECTED": "FullyConnectedOptions"},
    **{"TRANSPOSE_CONV": "TransposeConvOptions", "BATCH_MATMUL": "BatchMatMulOptions", "CONCATENATION": "ConcatenationOptions"},
    **{"ADD": "AddOptions", "SUB": "SubOptions", "MUL": "MulOptions", "DIV": "DivOptions"},
    **dict.fromkeys(_POOLS, "Pool2DOptions"),
}
"""The options tables of which a cost depends."""


class UnreadableModelError(ValueError):
    """A file that no runtime would load."""


@dataclass(frozen=True)
class Operator:
    """One operator that runs at every inference. `reads` and `writes` number the tensors that are no constants."""

    spec: OpSpec
    reads: tuple[int, ...]
    writes: tuple[int, ...]


@dataclass(frozen=True)
class ModelFile:
    """Operators in execution order; tensors by number; which of them are the results."""

    operators: tuple[Operator, ...]
    tensors: tuple[TensorSpec, ...]
    outputs: tuple[int, ...]

    @cached_property
    def readers(self) -> Counter[int]:
        """How often each tensor is read, as a result too."""
        return Counter([n for op in self.operators for n in op.reads] + list(self.outputs))


def read_model(data: bytes) -> ModelFile:
    """The main graph. What only turns constants into others (DEQUANTIZE of weights) runs once, so it is no operator here.

    Raises UnreadableModelError where the bytes are no model, or one with custom operators, for which a simulated phone has
    no kernels.
    """
    if data[4:8] != b"TFL3":
        raise UnreadableModelError(f"no .tflite file: it does not say TFL3 at byte 4 ({len(data)} bytes)")
    try:
        return _read(schema.Model.GetRootAs(data, 0), len(data))
    except UnreadableModelError:
        raise
    except _DAMAGE as e:
        raise UnreadableModelError(f"the .tflite file is damaged ({type(e).__name__}: {e})") from e


def _read(root: Any, size: int) -> ModelFile:
    if root.SubgraphsLength() < 1:
        raise UnreadableModelError("the .tflite file has no graph")
    graph = root.Subgraphs(0)
    if max(graph.TensorsLength(), graph.OperatorsLength(), root.BuffersLength()) * 4 > size:
        raise UnreadableModelError("the .tflite file is damaged: it is too short for what it lists")
    filled = [_is_filled(root.Buffers(i)) for i in range(root.BuffersLength())]
    tensors = [graph.Tensors(i) for i in range(graph.TensorsLength())]
    specs = [TensorSpec(tuple(_ints(t, "Shape", _MOST_DIMENSIONS)), _TYPES[t.Type()]) for t in tensors]
    constants = {i for i, t in enumerate(tensors) if filled[t.Buffer()]}
    operators = []
    for i in range(graph.OperatorsLength()):
        raw = graph.Operators(i)
        reads = [n for n in _ints(raw, "Inputs", _MOST_OPERANDS) if n != -1]
        writes = _ints(raw, "Outputs", _MOST_OPERANDS)
        if any(not 0 <= n < len(specs) for n in reads + writes):
            raise UnreadableModelError(f"the .tflite file is damaged: operator {i} names a tensor that isn't there")
        kind = _kind(root.OperatorCodes(raw.OpcodeIndex()))
        if kind in ("DEQUANTIZE", "DENSIFY") and set(reads) <= constants:
            constants.update(writes)
            specs[writes[0]] = TensorSpec(specs[writes[0]].shape, specs[reads[0]].dtype)  # weights travel as they are stored
            continue
        inputs, results = tuple(specs[n] for n in reads), tuple(specs[n] for n in writes)
        held = tuple(at for at, n in enumerate(reads) if n in constants)
        spec = OpSpec(kind, inputs, results, attrs(**_options(kind, raw)), held)
        operators.append(Operator(spec, tuple(n for n in reads if n not in constants), tuple(writes)))
    return ModelFile(tuple(operators), tuple(specs), tuple(_ints(graph, "Outputs", _MOST_OPERANDS)))


def _is_filled(buffer: Any) -> bool:
    return bool(buffer.DataLength() or buffer.Offset() > 1)


def _kind(code: Any) -> str:
    kind = _KINDS[max(code.BuiltinCode(), code.DeprecatedBuiltinCode())]
    if kind == "CUSTOM":
        name = (code.CustomCode() or b"?").decode(errors="replace")
        raise UnreadableModelError(f"unresolved custom operator {name!r}: a simulated phone has no kernels for it")
    return kind


def _ints(table: Any, field: str, most: int) -> list[int]:
    length = getattr(table, f"{field}Length")()
    if length > most:
        raise UnreadableModelError(f"the .tflite file is damaged: {field} of {length} numbers")
    get = getattr(table, field)
    return [get(i) for i in range(length)]


def _options(kind: str, raw: Any) -> dict[str, AttrValue]:
    """The attributes on which a cost depends: fused activation, window of a pool, transposed factors of a product."""
    table, found = _TABLES.get(kind), raw.BuiltinOptions()
    if table is None or found is None:
        return {}
    options = getattr(schema, table)()
    options.Init(found.Bytes, found.Pos)
    values: dict[str, AttrValue] = {}
    if hasattr(options, "FusedActivationFunction"):
        values["activation"] = _ACTIVATIONS[options.FusedActivationFunction()]
    if hasattr(options, "StrideH"):
        values["stride"] = (options.StrideH(), options.StrideW())
    if kind in _POOLS:
        values["filter"] = (options.FilterHeight(), options.FilterWidth())
    if kind == "BATCH_MATMUL":
        values["adj_x"] = bool(options.AdjX())
    return values


def kinds_of(operators: Sequence[Operator]) -> tuple[str, ...]:
    return tuple(operator.spec.kind for operator in operators)
