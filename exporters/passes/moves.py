"""Operators that move elements and need not: RESHAPEs and TRANSPOSEs in a row, those that change nothing, kept dimensions."""

from __future__ import annotations

from dataclasses import replace

from paceline.exporters.draft import Draft
from paceline.exporters.passes.rewriting import ints, merge_pairs, remove_dead, renamed, with_attrs
from paceline.graph import Op

_REDUCTIONS = ("MEAN", "SUM", "REDUCE_MAX", "REDUCE_MIN", "REDUCE_PROD")


def remove_moves(draft: Draft) -> None:
    """RESHAPEs and TRANSPOSEs in a row become one, those that change nothing none."""
    count = -1
    while count != len(draft.ops):
        count = len(draft.ops)
        merge_pairs(draft, [_transposes, _reshapes], shared=True)
        _remove_identities(draft)
        remove_dead(draft)
    merge_pairs(draft, [_dropped_dims, _slices])


def _transposes(draft: Draft, producer: Op, op: Op) -> Op | None:
    if producer.kind != "TRANSPOSE" or op.kind != "TRANSPOSE":
        return None
    first, second = ints(producer, "perm"), ints(op, "perm")
    return with_attrs(replace(op, inputs=producer.inputs), perm=tuple(first[a] for a in second))


def _reshapes(draft: Draft, producer: Op, op: Op) -> Op | None:
    return replace(op, inputs=producer.inputs) if producer.kind == op.kind == "RESHAPE" else None


def _slices(draft: Draft, producer: Op, op: Op) -> Op | None:
    if not producer.kind == op.kind == "SLICE":
        return None
    begin = tuple(a + b for a, b in zip(ints(producer, "begin"), ints(op, "begin"), strict=True))
    return with_attrs(replace(op, inputs=producer.inputs), begin=begin)


def _dropped_dims(draft: Draft, producer: Op, op: Op) -> Op | None:
    """A reduction that keeps its dimensions and a RESHAPE that drops them."""
    if op.kind != "RESHAPE" or producer.kind not in _REDUCTIONS or not producer.attr("keep_dims"):
        return None
    axes, shape = ints(producer, "axes"), draft.shapes[producer.inputs[0]]
    if draft.shapes[op.outputs[0]] != tuple(n for a, n in enumerate(shape) if a not in axes):
        return None
    return with_attrs(replace(producer, outputs=op.outputs), keep_dims=False)


def _remove_identities(draft: Draft) -> None:
    """A TRANSPOSE that only moves dimensions of size 1 becomes a RESHAPE; a RESHAPE to the same shape goes."""
    names: dict[str, str] = {}
    kept = []
    for op in draft.ops:
        op = replace(op, inputs=tuple(names.get(t, t) for t in op.inputs))
        shape = draft.shapes[op.inputs[0]]
        if op.kind == "TRANSPOSE":
            moved = [a for a in ints(op, "perm") if shape[a] != 1]
            if moved == sorted(moved):
                op = replace(op, kind="RESHAPE", attrs=())
        if op.kind == "RESHAPE" and shape == draft.shapes[op.outputs[0]]:
            names[op.outputs[0]] = op.inputs[0]
        else:
            kept.append(op)
    draft.ops = kept
    renamed(draft, names)
