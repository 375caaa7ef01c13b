"""Which operators a delegate takes, the partitions that follow, and their hand-overs as operators of the network."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from paceline.errors import LatencyModelError
from paceline.graph import OpSpec
from paceline.latency_models.fusion.flow import CONSTANT, Flow
from paceline.latency_models.model import Network
from paceline.measurement import Delegation, Measurement

HAND_OVER = "HAND_OVER"
"""The kind of the operator that stands for a partition: its inputs travel to the delegate, its outputs back."""


@dataclass(frozen=True)
class Piece:
    """Neighbours in execution order that the delegate takes, or that are left to the CPU: numbers of operators.

    `reads` and `writes` are the tensors at the edges: read from outside, and read by others or results of the network.
    """

    delegated: bool
    operators: range
    reads: tuple[int, ...]
    writes: tuple[int, ...]


def pieces(flow: Flow, taken: Sequence[bool]) -> list[Piece]:
    """The network cut where the delegate begins or ends to take operators. `taken` has one entry for each operator."""
    edges = [0, *(i for i in range(1, len(taken)) if taken[i] != taken[i - 1]), len(taken)]
    found = []
    for start, end in itertools.pairwise(edges):
        inside = range(start, end)
        written = dict.fromkeys(n for i in inside for n in flow.writes[i])
        read = dict.fromkeys(n for i in inside for n in flow.reads[i] if n != CONSTANT and n not in written)
        within = Counter(n for i in inside for n in flow.reads[i])
        asked = tuple(n for n in written if flow.readers[n] > within[n])
        if inside:
            found.append(Piece(taken[start], inside, tuple(read), asked))
    return found


def moved_mb(flow: Flow, taken: Sequence[bool] | None = None) -> float:
    """10⁶ bytes at the edges of all partitions; without `taken` the delegate takes the whole network."""
    cut = [p for p in pieces(flow, taken or [True] * len(flow.operators)) if p.delegated]
    return sum(flow.tensors[n].bytes for p in cut for n in (*p.reads, *p.writes)) / 1e6


def hand_over_of(flow: Flow, piece: Piece) -> OpSpec:
    """A partition's hand-over, as an operator that stands in the network beside the others."""
    return OpSpec(HAND_OVER, tuple(flow.tensors[n] for n in piece.reads), tuple(flow.tensors[n] for n in piece.writes))


def hand_overs(network: Network) -> list[OpSpec]:
    """The hand-overs among the operators that `executed` lists."""
    return [spec for spec in network if spec.kind == HAND_OVER]


def taken_in(delegation: Delegation, operators: Sequence[OpSpec]) -> list[bool]:
    """Which operators of a measured network its delegate took.

    Raises LatencyModelError where the runtime doesn't tell, or left only some operators of one kind without telling which.
    """
    if delegation.left is None:
        raise LatencyModelError(
            f"the runtime doesn't tell which operators {delegation.delegate} left; measure them one by one (taken_alone)"
        )
    left, there = Counter(delegation.left), Counter(kind for spec in operators for kind in _kinds(spec))
    unclear = [kind for kind, count in left.items() if there[kind] not in (0, count)]  # 0: what turns constants into others
    if unclear:
        raise LatencyModelError(
            f"{delegation.delegate} left {left[unclear[0]]} of {there[unclear[0]]} {unclear[0]} operators, but not which; "
            "measure them one by one (taken_alone)"
        )
    return [left.keys().isdisjoint(_kinds(spec)) for spec in operators]


def taken_alone(singles: Mapping[OpSpec, Measurement], operators: Sequence[OpSpec]) -> list[bool]:
    """Which operators the delegate takes, from the measurements of single-operator models.

    Raises LatencyModelError for an operator that wasn't measured, or of which the runtime didn't tell.
    """
    found = []
    for spec in operators:
        measured = singles.get(spec)
        if measured is None or measured.delegation is None:
            why = "it was not measured" if measured is None else "the runtime doesn't tell"
            why = measured.failure.reason if measured and measured.failure else why
            raise LatencyModelError(f"it isn't known whether the delegate takes {spec.key}: {why}; measure it alone")
        found.append(measured.delegation.state == "full")
    return found


def _kinds(spec: OpSpec) -> set[str]:
    """Of the operators in a file that are this one."""
    return {*spec.kind.split("+"), *(["PAD"] if spec.attr("pad") is not None else [])}
