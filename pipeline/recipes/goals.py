"""What a recipe searches for, as data, and as objectives once there is a network to ask."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from paceline.arch import Arch
from paceline.latency_models.space_latency import SpaceLatency
from paceline.pipeline.objectives import LatencyLimit, Objective, macs, params, quality

Figure = Literal["accuracy", "latency", "macs", "params"]


@dataclass(frozen=True)
class Goal:
    """One figure of a network and the direction it is wanted in; `weight` is for searchers that prefer some to others.

    MACs and params are those of the operators that are deployed: BatchNorm folded, branches merged.
    """

    figure: Figure
    direction: Literal["min", "max"]
    weight: float = 1.0


ACCURATE = Goal("accuracy", "max")
FAST = Goal("latency", "min")
FEW_MACS = Goal("macs", "min")


def objectives_of(
    goals: Sequence[Goal], latency: SpaceLatency, limit: LatencyLimit, accuracy: Callable[[Arch], float]
) -> tuple[Objective, ...]:
    """The goals as objectives, all under the latency limit.

    `accuracy` is that of an architecture in the supernet. Where latency is no goal, the limit is a constraint alone: an objective
    that is equal for all who keep it, so that it prefers none of them.
    """
    operators = latency.operators
    timed = limit.objective(latency)
    made = {"accuracy": quality(accuracy), "latency": timed, "macs": macs(operators), "params": params(operators)}
    found = [replace(made[g.figure], goal=g.direction, weight=g.weight) for g in goals]
    if all(g.figure != "latency" for g in goals):
        found.append(Objective("over_limit", over_limit(latency, limit), at_most=0.0, weight=0.0, cheap=True))
    return tuple(found)


def over_limit(latency: SpaceLatency, limit: LatencyLimit) -> Callable[[Arch], float]:
    """By what share of the limit an architecture is above it, at the chance that the limit asks for; 0 where it keeps it."""
    kept = limit.objective(latency)
    return lambda arch: max(0.0, kept.of(arch) / limit.ms - 1.0)
