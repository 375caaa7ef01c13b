"""Operators that a runtime executes as one: an OpSpec of a composed kind, `CONV_2D+HARD_SWISH`, and back to its operators.

The composed operator reads what its operators read from outside and writes what the last one writes. The first one's attributes
keep their names; those of the second begin with "1.", of the third with "2.". `1.operands` is how many operands the second one
has, `1.reads` which of them is the first one's result, `1.result` that tensor.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from paceline.errors import ExportError
from paceline.graph import AttrValue, OpSpec, TensorSpec, attrs, tensor_text

_LINK = ("operands", "reads", "result")


@dataclass(frozen=True)
class Step:
    """An operator among others. `reads` says which operands are results of earlier ones: (operand, number of that operator)."""

    spec: OpSpec
    reads: tuple[tuple[int, int], ...] = ()


def in_a_row(first: OpSpec, *then: tuple[OpSpec, int]) -> tuple[Step, ...]:
    """Steps of which each reads the result of the one before, as the operand that stands beside it."""
    return (Step(first), *(Step(spec, ((operand, i),)) for i, (spec, operand) in enumerate(then)))


def fused(steps: Sequence[Step]) -> OpSpec:
    """The operators of `in_a_row` as one OpSpec. Raises ExportError where they are no such row."""
    inputs = list(steps[0].spec.inputs)
    constants = list(steps[0].spec.constants)
    values: dict[str, AttrValue] = dict(steps[0].spec.attrs)
    for i, step in enumerate(steps[1:], 1):
        spec, before = step.spec, steps[i - 1].spec
        if len(step.reads) != 1 or step.reads[0][1] != i - 1 or len(before.outputs) != 1:
            raise ExportError(f"{spec.key} can't be fused: it has to read the one result of {before.key}, once, and nothing else")
        operand = step.reads[0][0]
        if not 0 <= operand < len(spec.inputs) or operand in spec.constants or spec.inputs[operand] != before.outputs[0]:
            raise ExportError(f"{spec.key} can't be fused: its operand {operand} is not the result of {before.key}")
        own = [n for n in range(len(spec.inputs)) if n != operand]
        constants += [len(inputs) + at for at, n in enumerate(own) if n in spec.constants]
        inputs += [spec.inputs[n] for n in own]
        linked: dict[str, AttrValue] = {
            "operands": len(spec.inputs),
            "reads": operand,
            "result": tensor_text(before.outputs[0]),
        }
        values |= {f"{i}.{name}": value for name, value in [*spec.attrs, *linked.items()]}
    kind = "+".join(step.spec.kind for step in steps)
    return OpSpec(kind, tuple(inputs), steps[-1].spec.outputs, attrs(**values), tuple(constants))


def steps_of(spec: OpSpec) -> tuple[Step, ...]:
    """The operators that `fused` made one of; any other OpSpec is its only step."""
    kinds = spec.kind.split("+")
    if len(kinds) == 1:
        return (Step(spec),)
    values: list[dict[str, AttrValue]] = [{} for _ in kinds]
    for name, value in spec.attrs:
        number, dot, own = name.partition(".")
        values[int(number) if dot else 0][own or name] = value
    try:
        links = [(int(str(v["operands"])), int(str(v["reads"])), _tensor(str(v["result"]))) for v in values[1:]]
    except (KeyError, ValueError) as e:
        raise ExportError(f"not a fused operator: {spec.key} lacks {e}") from e
    counts = [len(spec.inputs) - sum(operands - 1 for operands, _, _ in links), *(operands for operands, _, _ in links)]
    steps: list[Step] = []
    at = 0
    for i, (kind, count) in enumerate(zip(kinds, counts, strict=True)):
        end = at + count - (i > 0)
        operands = [(spec.inputs[n], n in spec.constants) for n in range(at, end)]
        at = end
        reads: tuple[tuple[int, int], ...] = ()
        if i:
            operands.insert(links[i - 1][1], (links[i - 1][2], False))
            reads = ((links[i - 1][1], i - 1),)
        outputs = (links[i][2],) if i < len(links) else spec.outputs
        given = {name: value for name, value in values[i].items() if not i or name not in _LINK}
        held = tuple(n for n, (_, constant) in enumerate(operands) if constant)
        steps.append(Step(OpSpec(kind, tuple(t for t, _ in operands), outputs, attrs(**given), held), reads))
    return tuple(steps)


def _tensor(text: str) -> TensorSpec:
    return OpSpec.parse(f"TENSOR -> {text}").outputs[0]
