"""Operators that the runtime executes as one: activations, paddings, hand-written hard-swish."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from paceline.exporters.draft import Draft
from paceline.exporters.passes.rewriting import FILTER, constant_operand, ints, merge_pairs, remove_dead, with_attrs
from paceline.graph import Op, attrs

_FUSES_ACTIVATION = {*FILTER, "ADD", "SUB", "MUL", "DIV", "MAX_POOL_2D", "AVERAGE_POOL_2D"}
_RECTIFIERS = ("RELU", "RELU6")


def fuse_activations(draft: Draft) -> None:
    """RELU, RELU6 and the like into the operator in front."""
    merge_pairs(draft, [_activation])


def _activation(draft: Draft, producer: Op, op: Op) -> Op | None:
    """Of several rectifiers the tightest stays, by name: NONE < RELU < RELU6."""
    if op.kind == "RELU_N1_TO_1" and producer.kind in _FUSES_ACTIVATION and producer.attr("activation") == "NONE":
        return with_attrs(replace(producer, outputs=op.outputs), activation=op.kind)
    if op.kind not in _RECTIFIERS:
        return None
    if producer.kind in _RECTIFIERS:
        return replace(op, kind=max(op.kind, producer.kind), inputs=producer.inputs)
    if producer.kind in _FUSES_ACTIVATION and producer.attr("activation") in ("NONE", *_RECTIFIERS):
        return with_attrs(replace(producer, outputs=op.outputs), activation=max(op.kind, str(producer.attr("activation"))))
    return None


def merge_pads(draft: Draft) -> None:
    """PADs in a row become one; a PAD that a SAME convolution does by itself goes."""
    merge_pairs(draft, [_pads])
    producers = draft.producers()
    for i, op in enumerate(draft.ops):
        pad = producers.get(op.inputs[0])
        if pad is None or pad.kind != "PAD" or op.kind not in ("CONV_2D", "DEPTHWISE_CONV_2D") or op.attr("padding") != "VALID":
            continue
        paddings, sizes = ints(pad, "paddings"), draft.shapes[pad.inputs[0]][1:3]
        kernel, outs = draft.shapes[op.inputs[1]][1:3], draft.shapes[op.outputs[0]][1:3]
        wanted: tuple[int, ...] = ()
        for size, k, s, d, out in zip(sizes, kernel, ints(op, "stride"), ints(op, "dilation"), outs, strict=True):
            total = max((-(-size // s) - 1) * s + (k - 1) * d + 1 - size, 0)
            wanted += (total // 2, total - total // 2) if out == -(-size // s) else (-1, -1)
        if paddings == (0, 0, *wanted, 0, 0):
            draft.ops[i] = with_attrs(replace(op, inputs=(pad.inputs[0], *op.inputs[1:])), padding="SAME")
    remove_dead(draft)


def _pads(draft: Draft, producer: Op, op: Op) -> Op | None:
    if producer.kind != "PAD" or op.kind != "PAD":
        return None
    sums = tuple(a + b for a, b in zip(ints(producer, "paddings"), ints(op, "paddings"), strict=True))
    return with_attrs(replace(op, inputs=producer.inputs), paddings=sums)


def pad_pools_with_zero(draft: Draft) -> None:
    """PADV2 with the lowest float in front of a max pool: where no value is below zero PAD does too, and delegates take it."""
    producers = draft.producers()
    for i, op in enumerate(draft.ops):
        source = producers.get(op.inputs[0])
        if op.kind == "PADV2" and op.attr("value") == np.finfo(np.float32).min and source is not None:
            positive = source.kind in (*_RECTIFIERS, "LOGISTIC") or source.attr("activation") in _RECTIFIERS
            pools = all(reader.kind == "MAX_POOL_2D" for reader in draft.ops if op.outputs[0] in reader.inputs)
            if positive and pools and op.outputs[0] not in draft.outputs:
                draft.ops[i] = replace(op, kind="PAD", attrs=attrs(paddings=ints(op, "paddings")))


def recognise_hard_swish(draft: Draft) -> None:
    """x * relu6(x + 3) / 6, in whichever order it is written -> HARD_SWISH."""
    producers = draft.producers()
    for i, op in enumerate(draft.ops):
        x = _hard_swish_of(draft, op, producers)
        if x is not None and op.attr("activation", "NONE") == "NONE" and draft.shapes[x] == draft.shapes[op.outputs[0]]:
            draft.ops[i] = producers[op.outputs[0]] = replace(op, kind="HARD_SWISH", inputs=(x,), attrs=())
    remove_dead(draft)


def _hard_swish_of(draft: Draft, op: Op, producers: dict[str, Op]) -> str | None:
    """The x of which `op` computes hard-swish: the product of x, relu6(x + 3) and a sixth."""
    if op.kind != "MUL":
        return None
    for outer, other in (op.inputs, op.inputs[::-1]):
        inner = producers.get(outer)
        if inner is None or inner.kind != "MUL" or inner.attr("activation") != "NONE":
            continue
        factors = [t for t in (*inner.inputs, other) if not _is(draft, t, 1 / 6)]
        if len(factors) == 2:
            found = [x for x, gate in (factors, factors[::-1]) if _shifted_relu6(draft, gate, producers) == x]
            if found:
                return found[0]
    return None


def _shifted_relu6(draft: Draft, name: str, producers: dict[str, Op]) -> str | None:
    """The x of relu6(x + 3)."""
    op = producers.get(name)
    if op is not None and op.kind == "RELU6":
        op = producers.get(op.inputs[0])
        if op is None or op.attr("activation") != "NONE":
            return None
    elif op is None or op.attr("activation") != "RELU6":
        return None
    constant = constant_operand(draft, op)
    if op.kind != "ADD" or constant is None or not _is(draft, constant, 3):
        return None
    return op.inputs[0] if op.inputs[1] == constant else op.inputs[1]


def _is(draft: Draft, name: str, number: float) -> bool:
    values = draft.constants.get(name)
    return values is not None and values.size == 1 and bool(np.isclose(values.astype(np.float64), number, rtol=1e-6).all())
