"""Operators that exist in drafts only -> operators that the runtime has. Mandatory, and last."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from paceline.exporters.draft import Draft
from paceline.exporters.passes.rewriting import ints
from paceline.graph import Op, attrs

_MOST_PARTS = 4  # XNNPACK takes no SPLIT into more


def legalise(draft: Draft) -> None:
    """Replaces EXPAND, CHANNEL_SHUFFLE, cropped TRANSPOSE_CONVs and SPLITs that delegates refuse."""
    reads = draft.reads()
    ops: list[Op] = []
    for op in draft.ops:
        if op.kind == "EXPAND":
            ops.append(_expanded(draft, op))
        elif op.kind == "CHANNEL_SHUFFLE":
            ops += _shuffled(draft, op)
        elif op.kind == "TRANSPOSE_CONV" and op.attr("crop") is not None:
            ops += _cropped(draft, op)
        elif op.kind == "SPLIT" and (len(op.outputs) > _MOST_PARTS or not all(reads[t] for t in op.outputs)):
            ops += _slices(draft, op)
        else:
            ops.append(op)
    draft.ops = ops


def _expanded(draft: Draft, op: Op) -> Op:
    """x + zeros: every runtime and delegate broadcasts in additions, few have BROADCAST_TO."""
    pairs = zip(draft.shapes[op.inputs[0]], draft.shapes[op.outputs[0]], strict=True)
    zeros = draft.constant(
        f"{op.outputs[0]}/zeros", np.zeros([after if before != after else 1 for before, after in pairs], np.float32)
    )
    return replace(op, kind="ADD", inputs=(op.inputs[0], zeros), attrs=attrs(activation="NONE"))


def _shuffled(draft: Draft, op: Op) -> list[Op]:
    """A TRANSPOSE between two RESHAPEs, of rank 3."""
    *rows, channels = draft.shapes[op.inputs[0]]
    groups = op.attr("groups")
    assert isinstance(groups, int)
    count = int(np.prod(rows))
    apart = draft.tensor(f"{op.outputs[0]}/groups", (count, groups, channels // groups))
    swapped = draft.tensor(f"{op.outputs[0]}/transposed", (count, channels // groups, groups))
    return [
        Op("RESHAPE", op.inputs, (apart,), (), op.source),
        Op("TRANSPOSE", (apart,), (swapped,), attrs(perm=(0, 2, 1)), op.source),
        replace(op, kind="RESHAPE", inputs=(swapped,), attrs=()),
    ]


def _cropped(draft: Draft, op: Op) -> list[Op]:
    """The whole result, and a SLICE where something is cut off."""
    top, left = ints(op, "crop")
    op = replace(op, attrs=attrs(**{k: v for k, v in op.attrs if k != "crop"}))
    if not (top or left):
        return [op]
    shape = n, h, w, c = draft.shapes[op.outputs[0]]
    _, rows, columns, _ = draft.shapes[op.inputs[1]]
    _, kh, kw, _ = draft.shapes[op.inputs[0]]
    sh, sw = ints(op, "stride")
    height, width = max((rows - 1) * sh + kh, top + h), max((columns - 1) * sw + kw, left + w)
    whole = draft.tensor(f"{op.outputs[0]}/whole", (n, height, width, c))
    cut = Op("SLICE", (whole,), op.outputs, attrs(begin=(0, top, left, 0), size=shape), op.source)
    return [replace(op, outputs=(whole,)), cut]


def _slices(draft: Draft, op: Op) -> list[Op]:
    """One SLICE for each part; what nothing reads is dropped as dead."""
    axis, parts, start = op.attr("axis"), [], 0
    assert isinstance(axis, int)
    for part in op.outputs:
        size = draft.shapes[part]
        begin = tuple(start if a == axis else 0 for a in range(len(size)))
        parts.append(replace(op, kind="SLICE", outputs=(part,), attrs=attrs(begin=begin, size=size)))
        start += size[axis]
    return parts
