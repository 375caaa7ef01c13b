"""A number that a result is multiplied with goes into the weights it comes from, also past what only moves elements."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from paceline.exporters.draft import Draft
from paceline.exporters.passes.rewriting import FILTER, constant_operand, ints, is_plain, renamed
from paceline.graph import Op

_MOVES = ("RESHAPE", "TRANSPOSE", "SLICE", "SPLIT")


@dataclass(frozen=True)
class _Found:
    """The linear operator that can take over the factor, and which of its outputs channels."""

    op: Op
    channels: npt.NDArray[np.int64]


def absorb_scales(draft: Draft) -> None:
    """MUL by one number behind projections, their parts and products (attention's scale) -> into weights and biases."""
    producers, readers = draft.producers(), _readers(draft)
    names: dict[str, str] = {}
    changed: dict[str, Op] = {}
    for op in draft.ops:
        constant = constant_operand(draft, op)
        if op.kind != "MUL" or constant is None or not is_plain(op) or draft.constants[constant].size != 1:
            continue
        x = op.inputs[0] if op.inputs[1] == constant else op.inputs[1]
        if draft.shapes[x] != draft.shapes[op.outputs[0]] or op.outputs[0] in draft.outputs:
            continue
        found = _source(draft, x, producers, readers)
        if found is None:
            continue
        linear = changed.get(found.op.outputs[0], found.op)
        scale = np.ones(draft.shapes[found.op.outputs[0]][-1])
        scale[found.channels] = draft.constants[constant].astype(np.float64, copy=False).reshape(-1)[0]
        changed[found.op.outputs[0]] = _scaled(draft, linear, scale)
        names[op.outputs[0]] = x
    if names:
        draft.ops = [changed.get(op.outputs[0], op) for op in draft.ops if op.outputs[0] not in names]
        while any(value in names for value in names.values()):
            names = {key: names.get(value, value) for key, value in names.items()}
        renamed(draft, names)


def _readers(draft: Draft) -> dict[str, list[Op]]:
    readers: dict[str, list[Op]] = {t: [] for t in draft.outputs}
    for op in draft.ops:
        for t in op.inputs:
            readers.setdefault(t, []).append(op)
    return readers


def _scaled(draft: Draft, op: Op, scale: npt.NDArray[np.float64]) -> Op:
    inputs, which = list(op.inputs), FILTER[op.kind]
    filters, bias = (draft.constants[inputs[i]].astype(np.float64, copy=False) for i in (which, 2))
    column = scale if op.kind == "DEPTHWISE_CONV_2D" else scale.reshape(-1, *(1,) * (filters.ndim - 1))
    inputs[which], inputs[2] = draft.revised(inputs[which], filters * column), draft.revised(inputs[2], bias * scale)
    return replace(op, inputs=tuple(inputs))


def _source(draft: Draft, name: str, producers: dict[str, Op], readers: dict[str, list[Op]]) -> _Found | None:
    """Where the factor of `name` can go: nothing else may depend on what is scaled there."""
    chain: list[tuple[Op, str]] = []
    while True:
        op = producers.get(name)
        if op is None or name in draft.outputs:
            return None
        if len(readers[name]) > 1 and not (chain and all(r.kind in ("SLICE", "SPLIT") for r in readers[name])):
            return None
        if op.kind == "BATCH_MATMUL":
            both = (_source(draft, t, producers, readers) for t in op.inputs if op.inputs[0] != op.inputs[1])
            return next((found for found in both if found is not None), None) if not _branches(chain, readers) else None
        if op.kind in FILTER and is_plain(op) and all(op.inputs[i] in draft.constants for i in (FILTER[op.kind], 2)):
            return _parts(draft, op, chain, readers)
        if op.kind not in _MOVES or len(op.inputs) != 1:
            return None
        chain.append((op, name))
        name = op.inputs[0]


def _branches(chain: list[tuple[Op, str]], readers: dict[str, list[Op]]) -> bool:
    return any(op.kind in ("SLICE", "SPLIT") for op, _ in chain)


def _parts(draft: Draft, linear: Op, chain: list[tuple[Op, str]], readers: dict[str, list[Op]]) -> _Found | None:
    """The channels of the linear operator that reach the end of the chain, if they reach nothing else."""
    shape = draft.shapes[linear.outputs[0]]
    if not any(op.kind in ("SLICE", "SPLIT") for op, _ in chain):
        return _Found(linear, np.arange(shape[-1]))
    places: npt.NDArray[np.int64] = np.broadcast_to(np.arange(shape[-1]), shape)
    for op, output in reversed(chain):
        others = [r for r in readers[op.inputs[0]] if r is not op]
        rest = [_moved(draft, r, t, places) for r in (*others, op) for t in r.outputs if t != output and r.kind in _MOVES]
        places = _moved(draft, op, output, places)
        if any(np.intersect1d(places, other).size for other in rest):
            return None
    return _Found(linear, np.unique(places))


def _moved(draft: Draft, op: Op, output: str, values: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """What one of the outputs of a moving operator holds of `values`."""
    if op.kind == "TRANSPOSE":
        return values.transpose(ints(op, "perm"))
    if op.kind == "RESHAPE":
        return values.reshape(draft.shapes[output])
    size = draft.shapes[output]
    if op.kind == "SLICE":
        begin = ints(op, "begin")
    else:
        begin = tuple(op.outputs.index(output) * n if a == op.attr("axis") else 0 for a, n in enumerate(size))
    return values[tuple(slice(b, b + n) for b, n in zip(begin, size, strict=True))]
