"""TFLite's builtin operators: how an operator's attributes become options, parameter operands and a version, and back.

Operands that only hold parameters (axes, paddings, sizes) are attributes where they are constant and writing them again gives the
same file. Otherwise the literal form is kept, and written as it is: all operands stay operands.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from ai_edge_litert import schema_py_generated as schema

from paceline.errors import ExportError
from paceline.exporters.tflite.options import from_attrs, has_fields, names, table_of, to_attrs
from paceline.graph import Array, AttrValue, Graph, Op, TensorSpec, attrs

Operand = str | Array
"""A tensor of the graph by name, or the values of a parameter operand (axes, paddings, sizes)."""

Tensors = Mapping[str, TensorSpec]
Derived = Callable[[Op, Tensors], AttrValue]
"""What an attribute is where it is not given, because the tensors already say it."""

KINDS: dict[int, str] = names(schema.BuiltinOperator)
CODES: dict[str, int] = {name: code for code, name in KINDS.items()}
_MOST_ELEMENTS = 64  # of a parameter operand: ranks are small, what is larger is data


@dataclass(frozen=True)
class Parameter:
    """An operand that holds the attribute `name`, at `position` among the operands."""

    position: int
    name: str
    shape: tuple[int, ...] = (-1,)
    derived: Derived | None = None
    dtype: str = "int32"

    def operand(self, value: AttrValue) -> Array:
        values: Array = np.asarray(value, self.dtype).reshape(self.shape)
        return values

    def value(self, operand: Array) -> AttrValue | None:
        """The attribute, None where writing it would give another operand."""
        fits = len(operand.shape) == len(self.shape) and all(w in (-1, n) for w, n in zip(self.shape, operand.shape, strict=True))
        if not fits or operand.dtype != self.dtype or operand.size > _MOST_ELEMENTS:
            return None
        values = operand.reshape(-1).tolist()
        return tuple(values) if -1 in self.shape else values[0]


def _output_shape(op: Op, tensors: Tensors) -> AttrValue:
    return tensors[op.outputs[0]].shape


def _output_size(op: Op, tensors: Tensors) -> AttrValue:
    return tensors[op.outputs[0]].shape[1:3]


def _multiplier(op: Op, tensors: Tensors) -> AttrValue:
    image, filters = (tensors[t].shape for t in op.inputs[:2])
    return filters[3] // image[3] if len(image) == len(filters) == 4 and image[3] else 0


_PADDINGS = Parameter(1, "paddings", (-1, 2))
_SIZE = Parameter(1, "size", derived=_output_size)
PARAMETERS: dict[str, tuple[Parameter, ...]] = {
    **dict.fromkeys(
        ("MEAN", "SUM", "REDUCE_MAX", "REDUCE_MIN", "REDUCE_PROD", "REDUCE_ANY", "REDUCE_ALL"), (Parameter(1, "axes"),)
    ),
    **dict.fromkeys(("ARG_MAX", "ARG_MIN", "EXPAND_DIMS", "CUMSUM"), (Parameter(1, "axis", ()),)),
    **dict.fromkeys(("PAD", "MIRROR_PAD"), (_PADDINGS,)),
    **dict.fromkeys(("RESIZE_BILINEAR", "RESIZE_NEAREST_NEIGHBOR"), (_SIZE,)),
    "BATCH_TO_SPACE_ND": (Parameter(1, "block_shape"), Parameter(2, "crops", (-1, 2))),
    "BROADCAST_TO": (Parameter(1, "shape", derived=_output_shape),),
    "PADV2": (_PADDINGS, Parameter(2, "value", (1,), dtype="float32")),
    "RESHAPE": (Parameter(1, "new_shape", derived=_output_shape),),
    "REVERSE_V2": (Parameter(1, "axes"),),
    "SLICE": (Parameter(1, "begin"), Parameter(2, "size")),
    "SPACE_TO_BATCH_ND": (Parameter(1, "block_shape"), Parameter(2, "paddings", (-1, 2))),
    "SPLIT": (Parameter(0, "axis", ()),),
    "SPLIT_V": (Parameter(1, "sizes"), Parameter(2, "axis", ())),
    "STRIDED_SLICE": (Parameter(1, "begin"), Parameter(2, "end"), Parameter(3, "strides")),
    "TILE": (Parameter(1, "multiples"),),
    "TOPK_V2": (Parameter(1, "k", ()),),
    "TRANSPOSE": (Parameter(1, "perm"),),
    "TRANSPOSE_CONV": (Parameter(0, "output_shape", derived=_output_shape),),
}
"""The parameter operands of each kind, in the order of their positions."""

DERIVED: dict[str, dict[str, Derived]] = {
    "CAST": {
        "in_data_type": lambda op, tensors: tensors[op.inputs[0]].dtype,
        "out_data_type": lambda op, tensors: tensors[op.outputs[0]].dtype,
    },
    "DEPTHWISE_CONV_2D": {"depth_multiplier": _multiplier},
    "PACK": {"values_count": lambda op, tensors: len(op.inputs)},
    "RESHAPE": {"new_shape": _output_shape},
    "SPLIT": {"num_splits": lambda op, tensors: len(op.outputs)},
    "SPLIT_V": {"num_splits": lambda op, tensors: len(op.outputs)},
    "UNPACK": {"num": lambda op, tensors: len(op.outputs)},
}
"""Option fields that the tensors already say."""


@dataclass(frozen=True)
class Encoded:
    """An operator as the schema has it. `table` and `options` are "" and None where it has no options."""

    code: int
    version: int
    operands: list[Operand]
    table: str
    options: Any
    custom_code: str = ""
    custom_options: bytes = b""


def encode(op: Op, graph: Graph) -> Encoded:
    """What `op` is in a file. Raises ExportError for a kind or attribute that TFLite does not have, and for a missing one."""
    what = f"{op.kind} at {op.source or '?'}"
    if op.kind not in CODES:
        raise ExportError(f"operator {what} can't be written to .tflite: TFLite has no builtin operator of that name")
    values: dict[str, AttrValue] = dict(op.attrs)
    version = op.version or _version(op, graph)
    if op.kind == "CUSTOM":
        code, text = values.pop("custom_code", ""), values.pop("custom_options", "")
        _refuse_rest(what, values)
        return Encoded(CODES["CUSTOM"], version, list(op.inputs), "", None, str(code), bytes.fromhex(str(text)))
    table = str(values.pop("options", table_of(op.kind)))
    operands, used = _operands(op, graph.tensors, what)
    if table == table_of(op.kind):
        for name, derive in DERIVED.get(op.kind, {}).items():
            if name not in values:
                values[name] = _derived(derive, op, graph.tensors, what)
    options, held = from_attrs(table, values, what) if table else (None, set[str]())
    _refuse_rest(what, {name: value for name, value in values.items() if name not in used | held})
    return Encoded(CODES[op.kind], version, operands, table, options)


def _refuse_rest(what: str, values: Mapping[str, AttrValue]) -> None:
    if values:
        raise ExportError(f"{what} has the attribute {sorted(values)[0]!r}, which TFLite's operator does not have")


def _operands(op: Op, tensors: Tensors, what: str) -> tuple[list[Operand], set[str]]:
    operands: list[Operand] = list(op.inputs)
    parameters = PARAMETERS.get(op.kind, ())
    if is_literal(op, tensors):
        return operands, set()
    values = dict(op.attrs)
    for parameter in parameters:
        if parameter.name not in values and parameter.derived is None:
            raise ExportError(f"{what} needs the attribute {parameter.name!r}")
        if parameter.name not in values and parameter.derived is not None:
            values[parameter.name] = _derived(parameter.derived, op, tensors, what)
        operands.insert(parameter.position, parameter.operand(values[parameter.name]))
    return operands, {parameter.name for parameter in parameters}


def _derived(derive: Derived, op: Op, tensors: Tensors, what: str) -> AttrValue:
    try:
        return derive(op, tensors)
    except (IndexError, KeyError, ValueError) as e:
        raise ExportError(f"{what} lacks an operand or a result: {op.inputs} -> {op.outputs}; give it all") from e


def is_literal(op: Op, tensors: Tensors) -> bool:
    """Whether the parameter operands of `op` are among its inputs, not attributes."""
    parameters = PARAMETERS.get(op.kind, ())
    if not parameters or len(op.inputs) <= parameters[-1].position:
        return False
    if parameters[0].derived is not None:
        name = op.inputs[parameters[0].position]
        return not name or tensors[name].dtype in ("int32", "int64")
    return not any(parameter.name in dict(op.attrs) for parameter in parameters)


def decode(op: Op, table: str, options: Any, tensors: Tensors, constants: Mapping[str, Array]) -> Op:
    """`op` (kind, all operands, outputs) with what its options and its parameter operands say as attributes."""
    derived = DERIVED.get(op.kind, {})
    values = to_attrs(table, options, frozenset(derived)) if table else {}
    if table != table_of(op.kind) and (has_fields(table) or has_fields(table_of(op.kind))) and op.kind != "RESHAPE":
        values["options"] = table
    parameters = PARAMETERS.get(op.kind, ())
    held: dict[str, AttrValue] = {}
    for parameter in parameters:
        name = op.inputs[parameter.position] if parameter.position < len(op.inputs) else ""
        value = parameter.value(constants[name]) if name in constants else None
        if value is not None:
            held[parameter.name] = value
    normal = op
    if len(held) == len(parameters):
        taken = {parameter.position for parameter in parameters}
        normal = replace(op, inputs=tuple(name for i, name in enumerate(op.inputs) if i not in taken))
        values |= held
    for parameter in parameters:
        if parameter.derived is not None and values.get(parameter.name) == parameter.derived(normal, tensors):
            del values[parameter.name]
    for name, derive in derived.items():
        if name in values and values[name] == derive(normal, tensors):
            del values[name]
    return replace(normal, attrs=attrs(**values))


_INT8 = {
    **dict.fromkeys(("CONV_2D", "DEPTHWISE_CONV_2D", "TRANSPOSE_CONV"), 3),
    "FULLY_CONNECTED": 4,
    **dict.fromkeys(("ADD", "SUB", "MUL", "AVERAGE_POOL_2D", "MAX_POOL_2D", "SOFTMAX", "LOGISTIC", "TANH", "CONCATENATION"), 2),
    **dict.fromkeys(("PAD", "PADV2", "MEAN", "SUM", "TRANSPOSE", "SLICE", "SPLIT", "BATCH_MATMUL", "RELU", "RELU6"), 2),
    **dict.fromkeys(("MAXIMUM", "MINIMUM", "RESIZE_BILINEAR", "RESIZE_NEAREST_NEIGHBOR", "DEPTH_TO_SPACE", "DEQUANTIZE"), 2),
}


def _version(op: Op, graph: Graph) -> int:
    """The lowest version of the operator that knows what `op` uses."""
    types = [graph.tensors[t].dtype for t in op.inputs if t]
    versions = [1, _INT8.get(op.kind, 1) if "int8" in types else 1]
    match op.kind:
        case "DEPTHWISE_CONV_2D":
            versions.append(1 + (op.attr("dilation", (1, 1)) != (1, 1)))
        case "TRANSPOSE_CONV":
            biased = sum(graph.tensors[t].dtype not in ("int32", "int64") for t in op.inputs if t) > 2
            versions.append(4 if op.attr("activation", "NONE") != "NONE" else 3 if biased else 1)
        case "FULLY_CONNECTED":
            versions.append(5 if op.attr("keep_dims") else 1)
        case "RESIZE_BILINEAR" | "RESIZE_NEAREST_NEIGHBOR":
            versions.append(3)
        case "DEQUANTIZE":
            versions.append(3 if "float16" in types else 1)
    return max(versions)
