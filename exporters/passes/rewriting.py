"""What passes are made of: looking up producers and readers, merging neighbours, dropping what nothing reads."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace

from paceline.exporters.draft import Draft
from paceline.graph import AttrValue, Op, attrs

FILTER = {"CONV_2D": 1, "DEPTHWISE_CONV_2D": 1, "FULLY_CONNECTED": 1, "TRANSPOSE_CONV": 0}
"""Linear operators: which operand holds the weights; the bias is operand 2."""
DATA = {"TRANSPOSE_CONV": 1}
"""Which operand is the map that is computed with, where it is not the first."""
EACH_ELEMENT = frozenset(
    [
        *("RELU", "RELU6", "RELU_N1_TO_1", "LOGISTIC", "TANH", "HARD_SWISH", "LEAKY_RELU", "ELU", "GELU"),
        *("EXP", "LOG", "SQRT", "RSQRT", "ABS", "NEG", "SQUARE", "SIN", "COS", "FLOOR", "CEIL", "ROUND", "SIGN"),
    ]
)
BINARY = frozenset(["ADD", "SUB", "MUL", "DIV", "MAXIMUM", "MINIMUM", "POW"])

Rule = Callable[[Draft, Op, Op], Op | None]
"""A producer and the operator that reads its result -> one operator that does the work of both, or None."""


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


def with_attrs(op: Op, **values: AttrValue) -> Op:
    return replace(op, attrs=attrs(**{**dict(op.attrs), **values}))


def ints(op: Op, name: str) -> tuple[int, ...]:
    value = op.attr(name)
    assert isinstance(value, tuple)
    return value


def constant_operand(draft: Draft, op: Op) -> str | None:
    """The one constant operand of an operator with two."""
    constants = [t for t in op.inputs if t in draft.constants]
    return constants[0] if len(constants) == 1 and len(op.inputs) == 2 else None


def is_plain(op: Op) -> bool:
    """Whether no activation is fused into the operator."""
    return op.attr("activation", "NONE") == "NONE"


def renamed(draft: Draft, names: dict[str, str]) -> None:
    """Lets every reader of a key of `names` read its value."""
    if names:
        draft.ops = [replace(op, inputs=tuple(names.get(t, t) for t in op.inputs)) for op in draft.ops]
        draft.outputs = tuple(names.get(t, t) for t in draft.outputs)


def remove_dead(draft: Draft) -> None:
    """Drops operators none of whose results is read."""
    needed, kept = set(draft.outputs), []
    for op in reversed(draft.ops):
        if needed.intersection(op.outputs):
            needed.update(op.inputs)
            kept.append(op)
    draft.ops = kept[::-1]
