"""Rewrites of a Draft that leave its results the same: what a runtime need not execute disappears."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np

from paceline.exporters.channel_order import absorb_shuffles, expand_shuffles, recognise_shuffles
from paceline.exporters.draft import Draft
from paceline.graph import Array, AttrValue, Op, attrs

_FILTER = {"CONV_2D": 1, "DEPTHWISE_CONV_2D": 1, "FULLY_CONNECTED": 1, "TRANSPOSE_CONV": 0}
"""Linear operators: which operand holds the weights; the bias is operand 2."""
_FUSES_ACTIVATION = {*_FILTER, "ADD", "SUB", "MUL", "DIV", "MAX_POOL_2D", "AVERAGE_POOL_2D"}
_ARITHMETIC = {"ADD", "SUB", "MUL", "DIV", "MAXIMUM", "MINIMUM"}

Rule = Callable[[Draft, Op, Op], Op | None]
"""A producer and the operator that reads its result -> one operator that does the work of both, or None."""


def simplify(draft: Draft) -> None:
    """All passes, in their order."""
    broadcast_expanded(draft)
    recognise_shuffles(draft)
    _settle(draft)
    absorb_shuffles(draft)
    merge_pairs(draft, [merge_pads, fold_arithmetic, fuse_activation])
    order_linear_columns(draft)
    expand_shuffles(draft)
    expand_crops(draft)
    _settle(draft)
    merge_pairs(draft, [drop_kept_dims])
    same_padding(draft)
    pad_with_zero(draft)
    slice_instead_of_split(draft)
    remove_dead(draft)


def _settle(draft: Draft) -> None:
    count = -1
    while count != len(draft.ops):
        count = len(draft.ops)
        merge_pairs(draft, [merge_transposes, merge_reshapes], shared=True)
        remove_identities(draft)
        remove_dead(draft)


def merge_pairs(draft: Draft, rules: Sequence[Rule], shared: bool = False) -> None:
    """Applies `rules` to every operator and the producers of its operands until none fits.

    Unless `shared`, only to producers whose result nothing else reads; a shared producer stays for its other readers.
    """
    reads = draft.reads()
    done: dict[str, Op] = {}
    for op in draft.ops:
        while merge := _first(draft, rules, op, done, reads, shared):
            producer, op = merge
            if reads[producer.outputs[0]] == 1:
                del done[producer.outputs[0]]
            else:
                reads[producer.outputs[0]] -= 1
                reads.update(t for t in producer.inputs if t in op.inputs)
        done[op.outputs[0]] = op
    draft.ops = list(done.values())


def _first(
    draft: Draft, rules: Sequence[Rule], op: Op, done: dict[str, Op], reads: Counter[str], shared: bool
) -> tuple[Op, Op] | None:
    for operand in op.inputs:
        producer = done.get(operand)
        if producer is not None and len(producer.outputs) == 1 and (shared or reads[operand] == 1):
            for rule in rules:
                merged = rule(draft, producer, op)
                if merged is not None:
                    return producer, merged
    return None


def _with(op: Op, **values: AttrValue) -> Op:
    return replace(op, attrs=attrs(**{**dict(op.attrs), **values}))


def _ints(op: Op, name: str) -> tuple[int, ...]:
    value = op.attr(name)
    assert isinstance(value, tuple)
    return value


def merge_transposes(draft: Draft, producer: Op, op: Op) -> Op | None:
    if producer.kind != "TRANSPOSE" or op.kind != "TRANSPOSE":
        return None
    first, second = _ints(producer, "perm"), _ints(op, "perm")
    return _with(replace(op, inputs=producer.inputs), perm=tuple(first[a] for a in second))


def merge_reshapes(draft: Draft, producer: Op, op: Op) -> Op | None:
    return replace(op, inputs=producer.inputs) if producer.kind == op.kind == "RESHAPE" else None


def merge_pads(draft: Draft, producer: Op, op: Op) -> Op | None:
    if producer.kind != "PAD" or op.kind != "PAD":
        return None
    sums = tuple(a + b for a, b in zip(_ints(producer, "paddings"), _ints(op, "paddings"), strict=True))
    return _with(replace(op, inputs=producer.inputs), paddings=sums)


def fuse_activation(draft: Draft, producer: Op, op: Op) -> Op | None:
    """RELU and RELU6 into the operator in front; of several the tightest stays, by name: NONE < RELU < RELU6."""
    if op.kind not in ("RELU", "RELU6"):
        return None
    if producer.kind in ("RELU", "RELU6"):
        return replace(op, kind=max(op.kind, producer.kind), inputs=producer.inputs)
    if producer.kind in _FUSES_ACTIVATION:
        return _with(replace(producer, outputs=op.outputs), activation=max(op.kind, str(producer.attr("activation"))))
    return None


def fold_arithmetic(draft: Draft, producer: Op, op: Op) -> Op | None:
    """A convolution or linear layer followed by one number per channel added, subtracted or multiplied: into its weights.

    Computed in float64. This folds BatchNorm, which lowers to MUL and ADD.
    """
    constants = [t for t in op.inputs if t in draft.constants]
    same_shape = draft.shapes[op.outputs[0]] == draft.shapes[producer.outputs[0]]
    if producer.kind not in _FILTER or op.kind not in ("ADD", "SUB", "MUL") or len(constants) != 1 or not same_shape:
        return None
    if producer.attr("activation") != "NONE" or op.attr("activation") != "NONE":
        return None
    numbers = draft.constants[constants[0]].astype(np.float64)
    channels = draft.shapes[op.outputs[0]][-1]
    if numbers.size != 1 and (numbers.size != channels or numbers.shape[-1] != channels):
        return None
    numbers = np.broadcast_to(numbers.reshape(-1), channels)
    subtracted_from = op.kind == "SUB" and op.inputs[0] in constants
    scale = numbers if op.kind == "MUL" else np.full(channels, -1.0 if subtracted_from else 1.0)
    offset = np.zeros(channels) if op.kind == "MUL" else -numbers if op.kind == "SUB" and not subtracted_from else numbers
    inputs, which = list(producer.inputs), _FILTER[producer.kind]
    filters, bias = (draft.constants[inputs[i]].astype(np.float64) for i in (which, 2))
    column = scale if producer.kind == "DEPTHWISE_CONV_2D" else scale.reshape(-1, *(1,) * (filters.ndim - 1))
    if op.kind == "MUL" or subtracted_from:
        inputs[which] = draft.revised(inputs[which], filters * column)
    inputs[2] = draft.revised(inputs[2], bias * scale + offset)
    return replace(producer, inputs=tuple(inputs), outputs=op.outputs)


def drop_kept_dims(draft: Draft, producer: Op, op: Op) -> Op | None:
    """A reduction that keeps its dimensions and a RESHAPE that drops them."""
    if op.kind != "RESHAPE" or producer.kind not in ("MEAN", "SUM", "REDUCE_MAX") or not producer.attr("keep_dims"):
        return None
    axes, shape = _ints(producer, "axes"), draft.shapes[producer.inputs[0]]
    if draft.shapes[op.outputs[0]] != tuple(n for a, n in enumerate(shape) if a not in axes):
        return None
    return _with(replace(producer, outputs=op.outputs), keep_dims=False)


def broadcast_expanded(draft: Draft) -> None:
    """Elementwise operators read what was expanded where they broadcast to the same shape; other EXPANDs become ADDs of zeros."""
    producers = draft.producers()
    for i, op in enumerate(draft.ops):
        if op.kind in _ARITHMETIC:
            a, b = op.inputs
            for t, other in ((a, b), (b, a)):
                source = producers.get(t)
                if source is not None and source.kind == "EXPAND" and draft.shapes[other] == draft.shapes[op.outputs[0]]:
                    op = replace(op, inputs=tuple(source.inputs[0] if name == t else name for name in op.inputs))
                    break
            draft.ops[i] = op
    remove_dead(draft)
    draft.ops = [replace(op, kind="ADD", attrs=attrs(activation="NONE")) if op.kind == "EXPAND" else op for op in draft.ops]


def remove_identities(draft: Draft) -> None:
    """Drops RESHAPEs and TRANSPOSEs that change nothing; a TRANSPOSE that only moves dimensions of size 1 becomes a RESHAPE."""
    names: dict[str, str] = {}
    kept = []
    for op in draft.ops:
        op = replace(op, inputs=tuple(names.get(t, t) for t in op.inputs))
        shape = draft.shapes[op.inputs[0]]
        if op.kind == "TRANSPOSE":
            moved = [a for a in _ints(op, "perm") if shape[a] != 1]
            if moved == sorted(moved):
                op = replace(op, kind="RESHAPE", attrs=())
        if op.kind == "RESHAPE" and shape == draft.shapes[op.outputs[0]]:
            names[op.outputs[0]] = op.inputs[0]
        else:
            kept.append(op)
    draft.ops, draft.outputs = kept, tuple(names.get(t, t) for t in draft.outputs)


def remove_dead(draft: Draft) -> None:
    """Drops operators none of whose results is read."""
    needed, kept = set(draft.outputs), []
    for op in reversed(draft.ops):
        if needed.intersection(op.outputs):
            needed.update(op.inputs)
            kept.append(op)
    draft.ops = kept[::-1]


def order_linear_columns(draft: Draft) -> None:
    """A linear layer behind a flattened map reads it in NHWC order: its columns are permuted instead of the map."""
    producers = draft.producers()
    ops: list[Op] = []
    for op in draft.ops:
        flat = producers.get(op.inputs[0]) if op.kind == "FULLY_CONNECTED" else None
        turn = producers.get(flat.inputs[0]) if flat is not None and flat.kind == "RESHAPE" else None
        if flat is not None and turn is not None and turn.kind == "TRANSPOSE" and _ints(turn, "perm")[0] == 0:
            rows, columns = draft.shapes[flat.outputs[0]][0], draft.shapes[flat.outputs[0]][1:]
            turned = draft.shapes[turn.outputs[0]]
            if len(columns) == 1 and rows == turned[0]:
                order: Array = np.arange(columns[0]).reshape(turned[1:])
                order = order.transpose([a - 1 for a in np.argsort(_ints(turn, "perm"))[1:]]).reshape(-1)
                flattened = draft.tensor(flat.outputs[0], (rows, *columns))
                ops.append(replace(flat, inputs=turn.inputs, outputs=(flattened,)))
                weight = draft.revised(op.inputs[1], draft.constants[op.inputs[1]][:, order])
                op = replace(op, inputs=(flattened, weight, *op.inputs[2:]))
        ops.append(op)
    draft.ops = ops
    remove_dead(draft)


def expand_crops(draft: Draft) -> None:
    """TRANSPOSE_CONV with `crop` -> the whole result, and a SLICE where something is cut off."""
    ops: list[Op] = []
    for op in draft.ops:
        if op.kind == "TRANSPOSE_CONV":
            top, left = _ints(op, "crop")
            attributes = attrs(**{k: v for k, v in op.attrs if k != "crop"})
            shape = n, h, w, c = draft.shapes[op.outputs[0]]
            whole = op.outputs[0]
            if top or left:
                _, rows, columns, _ = draft.shapes[op.inputs[1]]
                _, kh, kw, _ = draft.shapes[op.inputs[0]]
                (sh, sw) = _ints(op, "stride")
                height, width = max((rows - 1) * sh + kh, top + h), max((columns - 1) * sw + kw, left + w)
                whole = draft.tensor(f"{op.outputs[0]}/whole", (n, height, width, c))
                ops.append(replace(op, outputs=(whole,), attrs=attributes))
                op = Op("SLICE", (whole,), op.outputs, attrs(begin=(0, top, left, 0), size=shape), op.source)
            else:
                op = replace(op, attrs=attributes)
        ops.append(op)
    draft.ops = ops


def same_padding(draft: Draft) -> None:
    """PAD and a VALID convolution -> a SAME convolution, where SAME pads exactly there."""
    producers = draft.producers()
    for i, op in enumerate(draft.ops):
        pad = producers.get(op.inputs[0])
        if pad is None or pad.kind != "PAD" or op.kind not in ("CONV_2D", "DEPTHWISE_CONV_2D") or op.attr("padding") != "VALID":
            continue
        paddings, sizes = _ints(pad, "paddings"), draft.shapes[pad.inputs[0]][1:3]
        kernel, outs = draft.shapes[op.inputs[1]][1:3], draft.shapes[op.outputs[0]][1:3]
        wanted: tuple[int, ...] = ()
        for size, k, s, d, out in zip(sizes, kernel, _ints(op, "stride"), _ints(op, "dilation"), outs, strict=True):
            total = max((-(-size // s) - 1) * s + (k - 1) * d + 1 - size, 0)
            wanted += (total // 2, total - total // 2) if out == -(-size // s) else (-1, -1)
        if paddings == (0, 0, *wanted, 0, 0):
            draft.ops[i] = _with(replace(op, inputs=(pad.inputs[0], *op.inputs[1:])), padding="SAME")
    remove_dead(draft)


def pad_with_zero(draft: Draft) -> None:
    """PADV2 with the lowest float in front of a max pool: zero does as well where no value is below it."""
    producers = draft.producers()
    for i, op in enumerate(draft.ops):
        source = producers.get(op.inputs[0])
        if op.kind == "PADV2" and op.attr("value") == np.finfo(np.float32).min and source is not None:
            positive = source.kind in ("RELU", "RELU6", "LOGISTIC") or source.attr("activation") in ("RELU", "RELU6")
            pools = all(reader.kind == "MAX_POOL_2D" for reader in draft.ops if op.outputs[0] in reader.inputs)
            if positive and pools and op.outputs[0] not in draft.outputs:
                draft.ops[i] = replace(op, kind="PAD", attrs=attrs(paddings=_ints(op, "paddings")))


def slice_instead_of_split(draft: Draft) -> None:
    """A SPLIT of which only some parts are read, or into more parts than delegates take -> one SLICE for each part."""
    reads, ops = draft.reads(), list[Op]()
    for op in draft.ops:
        if op.kind == "SPLIT" and (len(op.outputs) > 4 or not all(reads[t] for t in op.outputs)):
            axis = op.attr("axis")
            for i, part in enumerate(op.outputs):
                size = draft.shapes[part]
                begin = tuple(i * n if a == axis else 0 for a, n in enumerate(size))
                ops.append(replace(op, kind="SLICE", outputs=(part,), attrs=attrs(begin=begin, size=size)))
        else:
            ops.append(op)
    draft.ops = ops
