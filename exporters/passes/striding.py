"""Every n-th row and column as a depthwise convolution of one weight, 1: delegates take that, but no STRIDED_SLICE."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from paceline.exporters.draft import Draft
from paceline.exporters.passes.rewriting import ints, merge_pairs, with_attrs
from paceline.graph import Op, attrs


def stride_by_convolution(draft: Draft) -> None:
    """STRIDED_SLICEs that drop rows and columns of a map, from the first on, become one 1x1 DEPTHWISE_CONV_2D."""
    merge_pairs(draft, [_slices])
    for i, op in enumerate(draft.ops):
        if op.kind == "STRIDED_SLICE" and _drops_pixels(draft, op):
            channels = draft.shapes[op.outputs[0]][3]
            ones = draft.constant(f"{op.outputs[0]}/ones", np.ones((1, 1, 1, channels), np.float32))
            zeros = draft.constant(f"{op.outputs[0]}/zeros", np.zeros(channels, np.float32))
            steps = ints(op, "strides")[1:3]
            options = attrs(stride=steps, dilation=(1, 1), padding="VALID", activation="NONE")
            draft.ops[i] = replace(op, kind="DEPTHWISE_CONV_2D", inputs=(op.inputs[0], ones, zeros), attrs=options)


def _drops_pixels(draft: Draft, op: Op) -> bool:
    shape = draft.shapes[op.inputs[0]]
    steps = ints(op, "strides")
    if len(shape) != 4 or any(ints(op, "begin")) or steps[0] != 1 or steps[3] != 1:
        return False
    return draft.shapes[op.outputs[0]] == tuple(-(-n // step) for n, step in zip(shape, steps, strict=True))


def _slices(draft: Draft, producer: Op, op: Op) -> Op | None:
    """Two slices in different dimensions are one."""
    if not producer.kind == op.kind == "STRIDED_SLICE":
        return None
    touched = [
        [before != after for before, after in zip(draft.shapes[o.inputs[0]], draft.shapes[o.outputs[0]], strict=True)]
        for o in (producer, op)
    ]
    if any(a and b for a, b in zip(*touched, strict=True)):
        return None
    merged = {
        name: tuple(x if first else y for x, y, first in zip(ints(producer, name), ints(op, name), touched[0], strict=True))
        for name in ("begin", "end", "strides")
    }
    return with_attrs(replace(op, inputs=producer.inputs), **merged)
