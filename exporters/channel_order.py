"""Channel shuffles: recognised in hand-written chains, absorbed by the weights of earlier operators, or spelt out.

Pixel shuffle contains one, because DEPTH_TO_SPACE orders channels differently from torch.
"""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np

from paceline.exporters.draft import Draft
from paceline.graph import Array, Op, attrs

_EACH_ELEMENT = {"RELU", "RELU6", "LOGISTIC", "TANH", "HARD_SWISH", "LEAKY_RELU"}
_TWO_OPERANDS = {"ADD", "SUB", "MUL", "DIV", "MAXIMUM", "MINIMUM"}


def recognise_shuffles(draft: Draft) -> None:
    """Chains of RESHAPE and TRANSPOSE that move nothing become one RESHAPE, those that only shuffle channels CHANNEL_SHUFFLE."""
    chains: dict[str, list[Op]] = {}
    for i, op in enumerate(draft.ops):
        if op.kind not in ("RESHAPE", "TRANSPOSE"):
            continue
        chain = chains[op.outputs[0]] = [*chains.get(op.inputs[0], []), op]
        if sum(step.kind == "TRANSPOSE" for step in chain) < 2 or all(step.kind == "TRANSPOSE" for step in chain):
            continue
        shape = draft.shapes[chain[0].inputs[0]]
        places = np.arange(math.prod(shape)).reshape(shape)
        moved = _followed(draft, chain, places)
        groups = _groups(places, moved)
        if np.array_equal(moved.reshape(-1), places.reshape(-1)):
            draft.ops[i] = replace(op, kind="RESHAPE", inputs=chain[0].inputs, attrs=())
        elif groups:
            draft.ops[i] = replace(op, kind="CHANNEL_SHUFFLE", inputs=chain[0].inputs, attrs=attrs(groups=groups))
            del chains[op.outputs[0]]


def _followed(draft: Draft, chain: list[Op], values: Array) -> Array:
    for op in chain:
        perm = op.attr("perm")
        values = values.transpose(perm) if isinstance(perm, tuple) else values.reshape(draft.shapes[op.outputs[0]])
    return values


def _groups(places: Array, moved: Array) -> int | None:
    """The number of groups with which a channel shuffle takes `places` (NHWC) to `moved`."""
    if places.ndim != 4 or places.shape != moved.shape:
        return None
    channels = places.shape[3]
    divisors = [g for g in range(2, channels) if channels % g == 0]
    return next((g for g in divisors if np.array_equal(moved, places[..., _order(channels, g)])), None)


def _order(channels: int, groups: int) -> Array:
    """Which channel comes to each place."""
    return np.arange(channels).reshape(groups, channels // groups).T.reshape(-1)


def _shuffle_groups(op: Op) -> int:
    groups = op.attr("groups")
    assert isinstance(groups, int)
    return groups


def absorb_shuffles(draft: Draft) -> None:
    """Reorders the weights in front of a shuffle instead of its channels, where nothing else reads what they compute."""
    for op in list(draft.ops):
        if op.kind != "CHANNEL_SHUFFLE":
            continue
        order = _order(draft.shapes[op.outputs[0]][-1], _shuffle_groups(op))
        rewritten: dict[str, Op] = {}
        if np.array_equal(order, np.arange(len(order))) or _absorb(draft, op.inputs[0], order, rewritten):
            draft.ops = [rewritten.get(o.outputs[0], o) for o in draft.ops]
            draft.ops = [replace(o, kind="RESHAPE", attrs=()) if o.outputs == op.outputs else o for o in draft.ops]


def _absorb(draft: Draft, name: str, order: Array, rewritten: dict[str, Op]) -> bool:
    """Whether the channels of `name` can be computed in `order`; what has to be rewritten for it goes to `rewritten`."""
    if name in draft.constants:
        return False
    op = draft.producers().get(name)
    if op is None or draft.reads()[name] > 1:
        return False
    inputs = list(op.inputs)
    if op.kind in ("CONV_2D", "FULLY_CONNECTED"):
        if op.kind == "CONV_2D" and draft.shapes[inputs[1]][3] != draft.shapes[inputs[0]][3]:
            return False
        inputs[1:] = [draft.revised(t, draft.constants[t][order]) for t in inputs[1:]]
    elif op.kind == "CHANNEL_SHUFFLE":
        if not np.array_equal(_order(len(order), _shuffle_groups(op))[order], np.arange(len(order))):
            return False
        op = replace(op, kind="RESHAPE", attrs=())
    elif op.kind == "PRELU":
        if not _absorb(draft, inputs[0], order, rewritten):
            return False
        inputs[1] = draft.revised(inputs[1], draft.constants[inputs[1]][..., order])
    elif op.kind in _EACH_ELEMENT or op.kind in _TWO_OPERANDS:
        for i, t in enumerate(inputs):
            if not draft.shapes[t] or draft.shapes[t][-1] == 1:
                continue
            if t in draft.constants:
                inputs[i] = draft.revised(t, draft.constants[t][..., order])
            elif not _absorb(draft, t, order, rewritten):
                return False
    else:
        return False
    rewritten[name] = replace(op, inputs=tuple(inputs))
    return True


def expand_shuffles(draft: Draft) -> None:
    """What is left of CHANNEL_SHUFFLE becomes a TRANSPOSE between two RESHAPEs, of rank 4 because GPU delegates take no more."""
    ops: list[Op] = []
    for op in draft.ops:
        if op.kind == "CHANNEL_SHUFFLE":
            n, h, w, c = draft.shapes[op.inputs[0]]
            groups = _shuffle_groups(op)
            apart = draft.tensor(f"{op.outputs[0]}/groups", (n, h * w, groups, c // groups))
            swapped = draft.tensor(f"{op.outputs[0]}/transposed", (n, h * w, c // groups, groups))
            ops.append(Op("RESHAPE", op.inputs, (apart,), (), op.source))
            ops.append(Op("TRANSPOSE", (apart,), (swapped,), attrs(perm=(0, 1, 3, 2)), op.source))
            op = replace(op, kind="RESHAPE", inputs=(swapped,), attrs=())
        ops.append(op)
    draft.ops = ops
