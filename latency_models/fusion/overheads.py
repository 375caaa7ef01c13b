"""What a model costs besides its operators: the start of an inference, each delegate partition, and what travels to it and back.

Where a delegate does not tell what single operators take (GPUs, NPUs), a model of one operator shows it together with all this.
An operator repeated n times in one model tells them apart: the slope is the operator, the intercept the rest. The same operators
in another order, so that the delegate takes them in more pieces, tell what a piece costs.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from paceline.graph import OpSpec
from paceline.latency_models.fusion.figures import Estimate, Figure, solved
from paceline.latency_models.fusion.flow import flow_of
from paceline.latency_models.fusion.partitions import hand_overs, moved_mb
from paceline.latency_models.model import Network, Row

_EXACT = Estimate(0.0, 0.0)

_LEAST_MS = 1e-6
"""Rows are positive: what is lost in the errors of the launch is taken for a nanosecond."""


@dataclass(frozen=True)
class Separated:
    """Milliseconds of an operator in the middle of a model, and of everything that one model with it costs besides."""

    operator_ms: Estimate
    launch_ms: Estimate


def separated(repeats: Sequence[int], figures: Sequence[Figure]) -> Separated:
    """From models in which an operator is repeated so many times in a row (see `chain`).

    An operator that the runtime fuses with itself seems to take nothing. Raises LatencyModelError for fewer than two different
    numbers of repetitions.
    """
    columns = np.column_stack([np.array(repeats, float), np.ones(len(repeats))])
    return Separated(*solved(columns, figures, ("the operator", "the launch")))


@dataclass(frozen=True)
class Overheads:
    """Milliseconds of an inference, of each partition, and per 10⁶ bytes that travel to partitions and back.

    `partition_ms` is None where the delegate took every operator that was tried: then `inference_ms` holds one partition. They
    are those of the pace at which the reference operator takes `reference_ms`.
    """

    inference_ms: Estimate
    partition_ms: Estimate | None
    megabyte_ms: Estimate
    reference_ms: float | None = None

    def launch(self, operators: Network, copies: int = 1) -> Estimate:
        """What a model of so many copies of these operators costs besides them, all in one partition."""
        megabytes = copies * moved_mb(flow_of(operators))
        errors = self.inference_ms.error, (self.partition_ms or _EXACT).error, self.megabyte_ms.error * megabytes
        return Estimate(self.inference_ms.value + self.hand_over_ms(megabytes), math.hypot(*errors))

    def hand_over_ms(self, megabytes: float) -> float:
        """Of one partition, to and fro."""
        return (self.partition_ms or _EXACT).value + self.megabyte_ms.value * megabytes

    def own(self, row: Row) -> Row:
        """A measured single-operator model as what its operator adds to a model that has others too."""
        return Row(row.operators, max(row.ms - self.launch(row.operators).value, _LEAST_MS))

    def rows(self, networks: Sequence[Network]) -> list[Row]:
        """A row for each distinct HAND_OVER in `networks`, so that a table of operators has them all."""
        specs = dict.fromkeys(spec for network in networks for spec in hand_overs(network))
        megabytes = [sum(t.bytes for t in (*spec.inputs, *spec.outputs)) / 1e6 for spec in specs]
        return [Row((spec,), max(self.hand_over_ms(mb), _LEAST_MS)) for spec, mb in zip(specs, megabytes, strict=True)]

    def show(self) -> str:
        """For people."""
        partition = "?" if self.partition_ms is None else f"{self.partition_ms}"
        return f"ms per inference {self.inference_ms}, per partition {partition}, per megabyte handed over {self.megabyte_ms}"


@dataclass(frozen=True)
class Probe:
    """A measured model: how often which operator runs in it, in how many partitions, and the 10⁶ bytes at their edges."""

    counts: Mapping[OpSpec, int]
    partitions: int
    megabytes: float
    figure: Figure


def overheads_of(probes: Sequence[Probe], reference_ms: float | None = None) -> Overheads:
    """Least squares over all probes: their operators' own milliseconds and the overheads at once.

    Raises LatencyModelError where the probes don't tell them apart.
    """
    operators = list(dict.fromkeys(spec for p in probes for spec in p.counts))
    columns = {"the inference": [1.0 for _ in probes]}
    columns |= {"a megabyte": [p.megabytes for p in probes]} if any(p.megabytes for p in probes) else {}
    columns |= {"a partition": [float(p.partitions) for p in probes]} if len({p.partitions for p in probes}) > 1 else {}
    own = {spec.key: [float(p.counts.get(spec, 0)) for p in probes] for spec in operators}
    matrix = np.array([*columns.values(), *own.values()]).T
    found = dict(zip(columns, solved(matrix, [p.figure for p in probes], [*columns, *own]), strict=False))
    return Overheads(found["the inference"], found.get("a partition"), found.get("a megabyte", _EXACT), reference_ms)
