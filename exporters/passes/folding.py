"""Constant arithmetic: computed at export, or into the weights of the linear operator before or behind it, in float64."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any, cast

import numpy as np
import numpy.typing as npt

from paceline.exporters.draft import Draft
from paceline.exporters.passes.rewriting import DATA, FILTER, constant_operand, ints, is_plain, merge_pairs, remove_dead
from paceline.graph import Array, Op

Floats = npt.NDArray[np.float64]


def fold_arithmetic(draft: Draft) -> None:
    """Chains of constants added or multiplied become one; what stands beside a convolution or linear layer, its weights."""
    merge_pairs(draft, [_chain, _backward, _forward])


def _chain(draft: Draft, producer: Op, op: Op) -> Op | None:
    """x + a + b -> x + (a + b), and the same of products."""
    family = [{"ADD", "SUB"}, {"MUL"}]
    a, b = constant_operand(draft, producer), constant_operand(draft, op)
    if a is None or b is None or not any(producer.kind in f and op.kind in f for f in family):
        return None
    if not is_plain(producer) or ("SUB" in (producer.kind, op.kind) and (producer.inputs[0] == a or op.inputs[0] == b)):
        return None
    if draft.shapes[producer.outputs[0]] != draft.shapes[op.outputs[0]]:
        return None
    x = producer.inputs[0] if producer.inputs[1] == a else producer.inputs[1]
    first, second = (draft.constants[t].astype(np.float64, copy=False) for t in (a, b))
    if op.kind == "MUL":
        return replace(op, inputs=(x, draft.revised(b, first * second)))
    sum_ = (-first if producer.kind == "SUB" else first) + (-second if op.kind == "SUB" else second)
    return replace(op, kind="ADD", inputs=(x, draft.revised(b, sum_)))


def _per_channel(draft: Draft, constant: str, channels: int) -> Floats | None:
    numbers = draft.constants[constant].astype(np.float64, copy=False)
    if numbers.size != 1 and (numbers.size != channels or numbers.shape[-1] != channels):
        return None
    return np.broadcast_to(numbers.reshape(-1), channels)


def _affine(draft: Draft, op: Op, channels: int) -> tuple[Floats, Floats] | None:
    """Scale and offset of each channel, where `op` is x + a, x - a, a - x or a x."""
    constant = constant_operand(draft, op)
    if op.kind not in ("ADD", "SUB", "MUL") or constant is None:
        return None
    numbers = _per_channel(draft, constant, channels)
    if numbers is None:
        return None
    if op.kind == "MUL":
        return numbers, np.zeros(channels)
    if op.kind == "ADD":
        return np.ones(channels), numbers
    return (-np.ones(channels), numbers) if op.inputs[0] == constant else (np.ones(channels), -numbers)


def _backward(draft: Draft, producer: Op, op: Op) -> Op | None:
    """Into the linear operator in front. This folds BatchNorm, which lowers to MUL and ADD."""
    same_shape = draft.shapes[op.outputs[0]] == draft.shapes[producer.outputs[0]]
    if producer.kind not in FILTER or not same_shape or not is_plain(producer) or not is_plain(op):
        return None
    affine = _affine(draft, op, draft.shapes[op.outputs[0]][-1])
    weights = [producer.inputs[i] for i in (FILTER[producer.kind], 2)]
    if affine is None or not all(t in draft.constants for t in weights):
        return None
    scale, offset = affine
    inputs = list(producer.inputs)
    filters, bias = (draft.constants[t].astype(np.float64, copy=False) for t in weights)
    if (scale != 1).any():
        column = scale if producer.kind == "DEPTHWISE_CONV_2D" else scale.reshape(-1, *(1,) * (filters.ndim - 1))
        inputs[FILTER[producer.kind]] = draft.revised(weights[0], filters * column)
    inputs[2] = draft.revised(weights[1], bias * scale + offset)
    return replace(producer, inputs=tuple(inputs), outputs=op.outputs)


def _forward(draft: Draft, producer: Op, op: Op) -> Op | None:
    """Into the linear operator behind, where it sees the offset everywhere: not where the border is padded with zeros."""
    if op.kind not in FILTER or not is_plain(producer):
        return None
    x = op.inputs[DATA.get(op.kind, 0)]
    channels = draft.shapes[x][-1]
    affine = _affine(draft, producer, channels)
    weights = [op.inputs[i] for i in (FILTER[op.kind], 2)]
    if affine is None or x != producer.outputs[0] or not all(t in draft.constants for t in weights):
        return None
    source = next(t for t in producer.inputs if t not in draft.constants)
    if draft.shapes[source] != draft.shapes[x]:
        return None
    scale, offset = affine
    filters, bias = (draft.constants[t].astype(np.float64, copy=False) for t in weights)
    if op.kind == "FULLY_CONNECTED" and filters.shape[-1] != channels:
        return None  # several positions share a row: the layer flattens its input
    if op.kind == "CONV_2D" and filters.shape[3] != channels:
        return None  # grouped
    padded = op.attr("padding", "VALID") != "VALID" and filters.shape[1:3] != (1, 1)
    if offset.any() and (padded or op.kind == "TRANSPOSE_CONV"):
        return None
    inputs = list(op.inputs)
    inputs[DATA.get(op.kind, 0)] = source
    if op.kind == "DEPTHWISE_CONV_2D":
        times = filters.shape[3] // channels
        scale, offset = np.repeat(scale, times), np.repeat(offset, times)
        moved = (filters * offset).sum((0, 1, 2))
    else:
        moved = (filters * offset).reshape(filters.shape[0], -1).sum(1)
    if (scale != 1).any():
        inputs[FILTER[op.kind]] = draft.revised(weights[0], filters * scale)
    if offset.any():
        inputs[2] = draft.revised(weights[1], bias + moved)
    return replace(op, inputs=tuple(inputs))


_Evaluate = Callable[[Op, tuple[int, ...], list[npt.NDArray[Any]]], Array]
_EVALUATED: dict[str, _Evaluate] = {
    "RESHAPE": lambda op, shape, x: x[0].reshape(shape),
    "TRANSPOSE": lambda op, shape, x: x[0].transpose(ints(op, "perm")),
    "EXPAND": lambda op, shape, x: np.broadcast_to(x[0], shape),
    "ADD": lambda op, shape, x: x[0] + x[1],
    "SUB": lambda op, shape, x: x[0] - x[1],
    "MUL": lambda op, shape, x: x[0] * x[1],
    "DIV": lambda op, shape, x: x[0] / x[1],
    "CONCATENATION": lambda op, shape, x: np.concatenate(x, axis=cast(int, op.attr("axis"))),
    "SLICE": lambda op, shape, x: x[0][tuple(slice(b, b + n) for b, n in zip(ints(op, "begin"), ints(op, "size"), strict=True))],
}


def fold_constants(draft: Draft) -> None:
    """Operators that read nothing but constants are computed now."""
    names: dict[str, str] = {}
    for op in draft.ops:
        inputs = [names.get(t, t) for t in op.inputs]
        if op.kind in _EVALUATED and is_plain(op) and all(t in draft.constants for t in inputs):
            values = _EVALUATED[op.kind](op, draft.shapes[op.outputs[0]], [draft.constants[t] for t in inputs])
            names[op.outputs[0]] = draft.revised(inputs[0], values)
    if names:
        draft.ops = [replace(op, inputs=tuple(names.get(t, t) for t in op.inputs)) for op in draft.ops]
        remove_dead(draft)
