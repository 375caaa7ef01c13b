"""What a recipe searches for, as data, and as objectives once there is a network to ask."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from paceline.arch import Arch
from paceline.pipeline.objectives import Objective, macs, params, quality
from paceline.pipeline.targets import Target

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


def objectives_of(goals: Sequence[Goal], targets: Sequence[Target], accuracy: Callable[[Arch], float]) -> tuple[Objective, ...]:
    """The goals as objectives, all under the latency limits of all targets; latency, where it is a goal, is that of the first.

    `accuracy` is that of an architecture in the supernet.
    """
    first, *others = targets
    operators = first.latency.operators
    timed = first.limit.objective(first.latency)
    made = {"accuracy": quality(accuracy), "latency": timed, "macs": macs(operators), "params": params(operators)}
    found = [replace(made[g.figure], goal=g.direction, weight=g.weight) for g in goals]
    constrained = targets if all(g.figure != "latency" for g in goals) else others
    return (*found, *(target.constraint() for target in constrained))
