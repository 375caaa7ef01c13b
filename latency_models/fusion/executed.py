"""A network as what is really executed: fused operators as one, and the hand-overs to the delegate's partitions."""

from __future__ import annotations

from collections.abc import Sequence

from paceline.exporters.fused_operators import fused, in_a_row
from paceline.graph import Graph, OpSpec
from paceline.latency_models.fusion.flow import CONSTANT, Flow, flow_of
from paceline.latency_models.fusion.fusions import Fusions
from paceline.latency_models.fusion.partitions import hand_over_of, pieces


def executed(network: Graph | Sequence[OpSpec], fusions: Fusions, taken: Sequence[bool] | None = None) -> list[OpSpec]:
    """The units that a runtime executes for `network`, in order: operators, or several fused into one (`fused_operators`).

    An operator is fused with the one whose result it alone reads, the latest where there are several, if `fusions` has that rule;
    rows of three and more follow from their pairs. With `taken`, which says of each operator whether the delegate takes it,
    nothing is fused across the edge of a partition, and every partition of the delegate adds a HAND_OVER in front of it.
    `flow_of` tells how a list of operators is understood.
    """
    flow = flow_of(network)
    homes = _homes(flow, fusions, taken)
    members: dict[int, list[tuple[int, int]]] = {}
    for at, home in enumerate(homes):
        first = at
        while (before := homes[first]) is not None:
            first = before[0]
        members.setdefault(first, []).append((at, home[1] if home else 0))
    at_end = {its[-1][0]: _unit(flow, its) for its in members.values()}
    starts = {p.operators[0]: hand_over_of(flow, p) for p in pieces(flow, taken) if p.delegated} if taken is not None else {}
    found = []
    for at in range(len(flow.operators)):
        found += [units[at] for units in (starts, at_end) if at in units]
    return found


def _homes(flow: Flow, fusions: Fusions, taken: Sequence[bool] | None) -> list[tuple[int, int] | None]:
    """For each operator the one before it in its unit, and which operand that one's result is."""
    piece_of = {i: n for n, p in enumerate(pieces(flow, taken)) for i in p.operators} if taken is not None else {}
    found = []
    for at, (spec, reads) in enumerate(zip(flow.operators, flow.reads, strict=True)):
        homes = []
        for operand, n in enumerate(reads):
            producer = flow.producers.get(n, CONSTANT)
            if producer == CONSTANT or flow.readers[n] != 1 or piece_of.get(producer) != piece_of.get(at):
                continue
            before = flow.operators[producer]
            if len(before.outputs) == 1 and fusions.fuse(before, spec, operand):
                homes.append((producer, operand))
        found.append(max(homes, default=None))
    return found


def _unit(flow: Flow, members: Sequence[tuple[int, int]]) -> OpSpec:
    """The members of a row, each with the operand that reads the one before it."""
    (first, _), *then = members
    return fused(in_a_row(flow.operators[first], *((flow.operators[at], operand) for at, operand in then)))
