"""A network as the operators a mobile runtime executes.

One description for everything: a `Graph` is what is written into the `.tflite`, its operators are the rows of a latency
table, the input of the regressors and the counter of MACs and parameters. Tensors are NHWC, filters OHWI.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, fields
from functools import cached_property
from urllib.parse import quote, unquote

import numpy as np
import numpy.typing as npt

from paceline.errors import ExportError

AttrValue = int | float | bool | str | tuple[int, ...]
Attrs = tuple[tuple[str, AttrValue], ...]
Array = npt.NDArray[np.generic]

WITHOUT_NUMPY = {
    **{"bfloat16": 16, "float8_e4m3fn": 8, "float8_e5m2": 8, "int4": 4, "uint4": 4, "int2": 2},
    **{"string": 0, "resource": 0, "variant": 0, "void": 0},
}
"""Bits per element of the types that numpy lacks; 0 where that is not fixed. Weights of these types are raw bytes (uint8)."""


_PLAIN = re.compile(r"[A-Z][A-Z0-9_]*")
"""What texts look like in a key without quotes, SAME or RELU6; quoted ones are percent-encoded."""


def attrs(**values: AttrValue) -> Attrs:
    """Attributes in their one order, so that equal operators compare equal."""
    return tuple(sorted(values.items()))


@dataclass(frozen=True)
class TensorSpec:
    """Shape (NHWC where it is an image) and element type (a numpy name, or one of WITHOUT_NUMPY)."""

    shape: tuple[int, ...]
    dtype: str = "float32"

    @property
    def elements(self) -> int:
        return math.prod(self.shape)

    @property
    def bytes(self) -> int:
        bits = WITHOUT_NUMPY.get(self.dtype)
        return self.elements * np.dtype(self.dtype).itemsize if bits is None else (self.elements * bits + 7) // 8


ABSENT = TensorSpec((0,), "void")
"""What stands for an optional operand that an operator is not given; a Graph names it \"\"."""


@dataclass(frozen=True)
class Quantization:
    """What stored integers mean: scale * (stored - zero_point), one of each for the tensor or for every index along `axis`."""

    scale: tuple[float, ...]
    zero_point: tuple[int, ...]
    axis: int = 0

    @property
    def per_channel(self) -> bool:
        return len(self.scale) > 1


@dataclass(frozen=True)
class OpSpec:
    """What a device executes as one operator, without weights and names: the key of a latency table.

    `inputs` are data operands in TFLite's order, `constants` the indices of those that are weights. Operands that only hold
    parameters (axes, paddings, target sizes) are attributes. A PAD in front of a VALID convolution belongs to it as
    `pad=(top, bottom, left, right)`, because runtimes execute the two as one. Weights that a DEQUANTIZE expands belong to their
    reader in the type they are stored in; `dequantized` lists those whose type (not float16) does not already say so.
    """

    kind: str
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    attrs: Attrs = ()
    constants: tuple[int, ...] = ()

    def attr(self, name: str, default: AttrValue | None = None) -> AttrValue | None:
        return dict(self.attrs).get(name, default)

    @cached_property
    def key(self) -> str:
        """A stable text, the same in every process; `OpSpec.parse` reads it."""
        operands = [("@" if i in self.constants else "") + tensor_text(t) for i, t in enumerate(self.inputs)]
        words = [self.kind, *operands, "->", *(tensor_text(t) for t in self.outputs)]
        return " ".join(words + [f"{name}={_attr_text(value)}" for name, value in self.attrs])

    @cached_property
    def _hash(self) -> int:
        return hash((self.kind, self.inputs, self.outputs, self.attrs, self.constants))

    def __hash__(self) -> int:
        return self._hash  # tables look operators up by the hundred thousand

    def __getstate__(self) -> dict[str, object]:
        """Without what is cached: hashes of texts differ between processes."""
        return {f.name: self.__dict__[f.name] for f in fields(self)}

    @classmethod
    def parse(cls, key: str) -> OpSpec:
        """The operator that a key names."""
        try:
            kind, *words = key.split(" ")
            arrow = words.index("->")
            results = [w for w in words[arrow + 1 :] if "=" not in w]
            pairs = [w.split("=", 1) for w in words[arrow + 1 :] if "=" in w]
            return cls(
                kind,
                tuple(_tensor_of(w.removeprefix("@")) for w in words[:arrow]),
                tuple(_tensor_of(w) for w in results),
                tuple((name, _attr_of(text)) for name, text in pairs),
                tuple(i for i, w in enumerate(words[:arrow]) if w.startswith("@")),
            )
        except (ValueError, TypeError) as e:
            raise ExportError(f"not an operator key: {key!r} ({e})") from e

    @property
    def params(self) -> int:
        """Elements of the weights and biases."""
        return sum(self.inputs[i].elements for i in self.constants)

    @property
    def macs(self) -> int:
        """Multiply-accumulates of convolutions and matrix products; 0 for every other operator."""
        if len(self.inputs) < 2 or not self.outputs:
            return 0
        first, second, results = self.inputs[0].shape, self.inputs[1].shape, self.outputs[0].elements
        match self.kind, first, second:
            case "CONV_2D", _, (_, kh, kw, per_group):
                return results * kh * kw * per_group
            case "DEPTHWISE_CONV_2D", _, (_, kh, kw, _):
                return results * kh * kw
            case "CONV_3D", _, (kd, kh, kw, channels, _):
                return results * kd * kh * kw * channels
            case "TRANSPOSE_CONV", (out, kh, kw, _), _:
                return self.inputs[1].elements * kh * kw * out
            case "FULLY_CONNECTED", _, (_, columns):
                return results * columns
            case "BATCH_MATMUL", (*_, rows, columns), _:
                return results * (rows if self.attr("adj_x") else columns)
        return 0


@dataclass(frozen=True)
class Op:
    """One TFLite operator with its fused activation, in a Graph. Inputs and outputs name tensors, "" an absent operand."""

    kind: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    attrs: Attrs = ()
    source: str = field(default="", compare=False)
    """Where it comes from: the module path in the torch network, for reports and errors."""
    version: int = field(default=0, compare=False)
    """TFLite's version of the operator, where a file said so; 0 leaves it to the writer."""

    def attr(self, name: str, default: AttrValue | None = None) -> AttrValue | None:
        return dict(self.attrs).get(name, default)


@dataclass(frozen=True)
class Graph:
    """Operators in execution order. `tensors` describes every tensor, `weights` holds the constant ones.

    `quantization` says what stored integers mean, `variables` names the tensors that keep their values between inferences, and
    `dynamic` gives shapes with -1 for the dimensions that may be changed before running. Raises ExportError where an operator
    reads a tensor that nothing has produced.
    """

    ops: tuple[Op, ...]
    tensors: Mapping[str, TensorSpec]
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    weights: Mapping[str, Array]
    quantization: Mapping[str, Quantization] = field(default_factory=dict)
    variables: frozenset[str] = frozenset()
    dynamic: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    name: str = "main"

    def __post_init__(self) -> None:
        known = {"", *self.inputs, *self.weights, *self.variables}
        for op in self.ops:
            missing = [t for t in op.inputs if t not in known]
            if missing:
                raise ExportError(f"{op.kind} at {op.source or '?'} reads {missing[0]!r}, which nothing produces before it")
            known.update(op.outputs)
        undescribed = sorted(t for t in {*known, *self.outputs} - {""} if t not in self.tensors)
        if undescribed or not known.issuperset(self.outputs):
            raise ExportError(f"tensors without shape or producer: {undescribed or sorted(set(self.outputs) - known)}")

    def consumers(self) -> Counter[str]:
        """How often each tensor is read, the graph's outputs included."""
        return Counter([t for op in self.ops for t in op.inputs] + list(self.outputs))

    def groups(self) -> tuple[tuple[Op, ...], ...]:
        """For each of `operators()` the operators that a device executes as that one, the principal one last.

        A PAD that only a VALID convolution reads belongs to the convolution. What turns a constant into another (DEQUANTIZE,
        DENSIFY) runs once, not at every inference: it belongs to all who read its result.
        """
        return self._groups

    @cached_property
    def _groups(self) -> tuple[tuple[Op, ...], ...]:
        reads = self.consumers()
        pads = {op.outputs[0]: op for op in self.ops if _is_spatial_pad(op) and reads[op.outputs[0]] == 1}
        pads = {op.inputs[0]: pads[op.inputs[0]] for op in self.ops if _takes_pad(op) and op.inputs[0] in pads}
        once: dict[str, tuple[Op, ...]] = {}
        groups = []
        for op in self.ops:
            pad = tuple(pads[t] for t in op.inputs[:1] if t in pads)
            before = tuple(dict.fromkeys(o for reader in (*pad, op) for t in reader.inputs for o in once.get(t, ())))
            if self._runs_once(op, once) and reads[op.outputs[0]]:
                once[op.outputs[0]] = (*before, op)
            elif not op.outputs or op.outputs[0] not in pads:
                groups.append((*before, *pad, op))
        return tuple(groups)

    def _runs_once(self, op: Op, once: Mapping[str, tuple[Op, ...]]) -> bool:
        if op.kind not in ("DEQUANTIZE", "DENSIFY") or len(op.inputs) != 1 or len(op.outputs) != 1:
            return False
        before = [o.kind for o in once.get(op.inputs[0], ())]
        constant = op.inputs[0] in self.weights or (before == ["DENSIFY"] and op.kind == "DEQUANTIZE")
        return constant and op.outputs[0] not in self.outputs

    @cached_property
    def _operators(self) -> tuple[OpSpec, ...]:
        return tuple(self._spec(group) for group in self._groups)

    def _spec(self, group: tuple[Op, ...]) -> OpSpec:
        op, values = group[-1], dict(group[-1].attrs)
        names, stored, expanded = list(op.inputs), dict[str, str](), []
        for part in group[:-1]:
            if part.kind == "PAD":
                names[0] = part.inputs[0]
                values["pad"] = part.attr("paddings")[2:6]  # type: ignore[index]
            else:
                stored[part.outputs[0]] = stored.get(part.inputs[0], part.inputs[0])
        while names and not names[-1]:
            names.pop()
        operands = []
        for i, name in enumerate(names):
            operand = self.tensors[name] if name else ABSENT
            if name in stored:
                operand = TensorSpec(operand.shape, self.tensors[stored[name]].dtype)
                expanded += [i] if operand.dtype != "float16" else []
            operands.append(operand)
        if expanded:
            values["dequantized"] = tuple(expanded)
        constants = tuple(i for i, name in enumerate(names) if name in self.weights or name in stored)
        return OpSpec(op.kind, tuple(operands), tuple(self.tensors[t] for t in op.outputs), attrs(**values), constants)

    def operators(self) -> list[OpSpec]:
        """What a device executes, in order; see `groups` for what counts as one operator."""
        return list(self._operators)

    def sources(self) -> list[str]:
        """For each of `operators()` the module path it comes from."""
        return [group[-1].source for group in self._groups]

    def macs(self) -> int:
        """Multiply-accumulates of one inference."""
        return sum(spec.macs for spec in self.operators())

    def params(self) -> int:
        """Elements of all weights, each counted once."""
        return sum(self.tensors[name].elements for name in self.weights)


def macs_of(operators: Iterable[OpSpec]) -> int:
    return sum(spec.macs for spec in operators)


def params_of(operators: Iterable[OpSpec]) -> int:
    return sum(spec.params for spec in operators)


def _is_spatial_pad(op: Op) -> bool:
    paddings = op.attr("paddings")
    if op.kind != "PAD" or len(op.outputs) != 1 or not isinstance(paddings, tuple):
        return False
    return len(paddings) == 8 and not any(paddings[:2] + paddings[6:])


def _takes_pad(op: Op) -> bool:
    return bool(op.inputs) and op.kind in ("CONV_2D", "DEPTHWISE_CONV_2D") and op.attr("padding") == "VALID"


def tensor_text(t: TensorSpec) -> str:
    """1x8x8x3:int8 for example; float32 is not said."""
    shape = "x".join(map(str, t.shape)) or "scalar"
    return shape if t.dtype == "float32" else f"{shape}:{t.dtype}"


def _tensor_of(text: str) -> TensorSpec:
    shape, _, dtype = text.partition(":")
    dims = () if shape == "scalar" else tuple(int(n) for n in shape.split("x"))
    return TensorSpec(dims, dtype if dtype in WITHOUT_NUMPY else np.dtype(dtype or "float32").name)


def _attr_text(value: AttrValue) -> str:
    if isinstance(value, tuple):
        return "(" + ",".join(map(str, value)) + ")"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, str):
        return value if _PLAIN.fullmatch(value) else f'"{quote(value)}"'
    return repr(value)


def _attr_of(text: str) -> AttrValue:
    if text.startswith("("):
        return tuple(int(n) for n in text[1:-1].split(",") if n)
    if _PLAIN.fullmatch(text):
        return text
    if text.startswith('"'):
        return unquote(text[1:-1])
    if text in ("true", "false"):
        return text == "true"
    if re.fullmatch(r"-?\d+", text):
        return int(text)
    try:
        return float(text)
    except ValueError:
        return text
