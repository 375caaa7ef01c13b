"""What is there twice is there once: equal operators on equal operands, equal constants."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from paceline.exporters.draft import Draft
from paceline.exporters.passes.rewriting import FILTER, remove_dead
from paceline.graph import Op


def share(draft: Draft) -> None:
    """Common sub-expressions are computed once, equal constants stored once.

    Biases keep their own tensors: quantisation gives each the scale of its operator.
    """
    _share_constants(draft)
    names: dict[str, str] = {}
    seen: dict[tuple[object, ...], Op] = {}
    outputs = set(draft.outputs)
    for op in draft.ops:
        inputs = tuple(names.get(t, t) for t in op.inputs)
        key = (op.kind, inputs, op.attrs, tuple(draft.shapes[t] for t in op.outputs))
        first = seen.setdefault(key, op)
        if first is not op and not outputs.intersection(op.outputs):
            names.update(zip(op.outputs, first.outputs, strict=True))
    if names:
        draft.ops = [replace(op, inputs=tuple(names.get(t, t) for t in op.inputs)) for op in draft.ops]
        remove_dead(draft)


def _share_constants(draft: Draft) -> None:
    found: dict[tuple[object, ...], list[str]] = {}
    names: dict[str, str] = {}
    biases = {op.inputs[2] for op in draft.ops if op.kind in FILTER and len(op.inputs) > 2}
    for t in dict.fromkeys(t for op in draft.ops for t in op.inputs if t in draft.constants and t not in biases):
        values = draft.constants[t]
        flat = values.reshape(-1)
        few = flat[:: max(flat.size // 8, 1)]
        same = found.setdefault((values.shape, values.dtype.name, few.tobytes()), [])
        first = next((other for other in same if np.array_equal(draft.constants[other], values)), None)
        if first is None:
            same.append(t)
        else:
            names[t] = first
    if names:
        draft.ops = [replace(op, inputs=tuple(names.get(t, t) for t in op.inputs)) for op in draft.ops]
