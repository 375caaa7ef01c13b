"""A network as the operators a mobile runtime executes.

One description for everything: a `Graph` is what is written into the `.tflite`, its operators are the rows of a latency
table, the input of the regressors and the counter of MACs and parameters. Tensors are NHWC, filters OHWI.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
import numpy.typing as npt

from paceline.errors import ExportError

AttrValue = int | float | bool | str | tuple[int, ...]
Attrs = tuple[tuple[str, AttrValue], ...]
Array = npt.NDArray[np.generic]


def attrs(**values: AttrValue) -> Attrs:
    """Attributes in their one order, so that equal operators compare equal."""
    return tuple(sorted(values.items()))


@dataclass(frozen=True)
class TensorSpec:
    """Shape (NHWC where it is an image) and element type (a numpy name)."""

    shape: tuple[int, ...]
    dtype: str = "float32"

    @property
    def elements(self) -> int:
        return math.prod(self.shape)

    @property
    def bytes(self) -> int:
        return self.elements * np.dtype(self.dtype).itemsize


@dataclass(frozen=True)
class OpSpec:
    """What a device executes as one operator, without weights and names: the key of a latency table.

    `inputs` are data operands in TFLite's order, `constants` the indices of those that are weights. Operands that only hold
    parameters (axes, paddings, target sizes) are attributes. A PAD in front of a VALID convolution belongs to it as
    `pad=(top, bottom, left, right)`, because runtimes execute the two as one.
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
        operands = [("@" if i in self.constants else "") + _tensor_text(t) for i, t in enumerate(self.inputs)]
        words = [self.kind, *operands, "->", *(_tensor_text(t) for t in self.outputs)]
        return " ".join(words + [f"{name}={_attr_text(value)}" for name, value in self.attrs])

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
        if self.kind in ("CONV_2D", "DEPTHWISE_CONV_2D"):
            _, kh, kw, per_group = self.inputs[1].shape
            return self.outputs[0].elements * kh * kw * (per_group if self.kind == "CONV_2D" else 1)
        if self.kind == "TRANSPOSE_CONV":
            out, kh, kw, _ = self.inputs[0].shape
            return self.inputs[1].elements * kh * kw * out
        if self.kind == "FULLY_CONNECTED":
            return self.outputs[0].elements * self.inputs[1].shape[1]
        if self.kind == "BATCH_MATMUL":
            return self.outputs[0].elements * self.inputs[0].shape[-1]
        return 0


@dataclass(frozen=True)
class Op:
    """One TFLite operator with its fused activation, in a Graph. Inputs and outputs name tensors."""

    kind: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    attrs: Attrs = ()
    source: str = field(default="", compare=False)
    """Where it comes from: the module path in the torch network, for reports and errors."""

    def attr(self, name: str, default: AttrValue | None = None) -> AttrValue | None:
        return dict(self.attrs).get(name, default)


@dataclass(frozen=True)
class Graph:
    """Operators in execution order. `tensors` describes every tensor, `weights` holds the constant ones.

    Raises ExportError where an operator reads a tensor that nothing has produced.
    """

    ops: tuple[Op, ...]
    tensors: Mapping[str, TensorSpec]
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    weights: Mapping[str, Array]

    def __post_init__(self) -> None:
        known = {*self.inputs, *self.weights}
        for op in self.ops:
            missing = [t for t in op.inputs if t not in known]
            if missing:
                raise ExportError(f"{op.kind} at {op.source or '?'} reads {missing[0]!r}, which nothing produces before it")
            known.update(op.outputs)
        undescribed = sorted(t for t in {*known, *self.outputs} if t not in self.tensors)
        if undescribed or not known.issuperset(self.outputs):
            raise ExportError(f"tensors without shape or producer: {undescribed or sorted(set(self.outputs) - known)}")

    def consumers(self) -> Counter[str]:
        """How often each tensor is read, the graph's outputs included."""
        return Counter([t for op in self.ops for t in op.inputs] + list(self.outputs))

    @cached_property
    def _operators(self) -> tuple[tuple[OpSpec, Op], ...]:
        reads = self.consumers()
        pads = {op.outputs[0]: op for op in self.ops if _is_spatial_pad(op) and reads[op.outputs[0]] == 1}
        taken = {op.inputs[0] for op in self.ops if _takes_pad(op)} & pads.keys()
        return tuple(
            (self._spec(op, pads[op.inputs[0]] if _takes_pad(op) and op.inputs[0] in taken else None), op)
            for op in self.ops
            if op.outputs[0] not in taken
        )

    def _spec(self, op: Op, pad: Op | None) -> OpSpec:
        names = op.inputs if pad is None else (pad.inputs[0], *op.inputs[1:])
        values = dict(op.attrs)
        if pad is not None:
            values["pad"] = pad.attr("paddings")[2:6]  # type: ignore[index]
        return OpSpec(
            op.kind,
            tuple(self.tensors[t] for t in names),
            tuple(self.tensors[t] for t in op.outputs),
            attrs(**values),
            tuple(i for i, t in enumerate(names) if t in self.weights),
        )

    def operators(self) -> list[OpSpec]:
        """What a device executes, in order; a PAD in front of a convolution is part of the convolution."""
        return [spec for spec, _ in self._operators]

    def sources(self) -> list[str]:
        """For each of `operators()` the module path it comes from."""
        return [op.source for _, op in self._operators]

    def macs(self) -> int:
        """Multiply-accumulates of one inference."""
        return sum(spec.macs for spec in self.operators())

    def params(self) -> int:
        """Elements of all weights, each counted once."""
        return sum(int(np.size(w)) for w in self.weights.values())


def macs_of(operators: Iterable[OpSpec]) -> int:
    return sum(spec.macs for spec in operators)


def params_of(operators: Iterable[OpSpec]) -> int:
    return sum(spec.params for spec in operators)


def _is_spatial_pad(op: Op) -> bool:
    paddings = op.attr("paddings")
    return op.kind == "PAD" and isinstance(paddings, tuple) and len(paddings) == 8 and not any(paddings[:2] + paddings[6:])


def _takes_pad(op: Op) -> bool:
    return op.kind in ("CONV_2D", "DEPTHWISE_CONV_2D") and op.attr("padding") == "VALID"


def _tensor_text(t: TensorSpec) -> str:
    shape = "x".join(map(str, t.shape)) or "scalar"
    return shape if t.dtype == "float32" else f"{shape}:{t.dtype}"


def _tensor_of(text: str) -> TensorSpec:
    shape, _, dtype = text.partition(":")
    dims = () if shape == "scalar" else tuple(int(n) for n in shape.split("x"))
    return TensorSpec(dims, np.dtype(dtype or "float32").name)


def _attr_text(value: AttrValue) -> str:
    if isinstance(value, tuple):
        return "(" + ",".join(map(str, value)) + ")"
    if isinstance(value, bool):
        return str(value).lower()
    return repr(value) if isinstance(value, float) else str(value)


def _attr_of(text: str) -> AttrValue:
    if text.startswith("("):
        return tuple(int(n) for n in text[1:-1].split(",") if n)
    if text in ("true", "false"):
        return text == "true"
    if re.fullmatch(r"-?\d+", text):
        return int(text)
    try:
        return float(text)
    except ValueError:
        return text
