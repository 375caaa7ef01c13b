"""Everything a search has evaluated."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from pymoo.indicators.hv import HV

from paceline.arch import Arch
from paceline.pipeline.objectives import Objective, feasible


@dataclass(frozen=True)
class Evaluated:
    """An architecture with its values by objective. Values are missing where a cheap objective broke its limit."""

    arch: Arch
    values: Mapping[str, float]
    generation: int


@dataclass(frozen=True)
class Archive:
    """What a search evaluated, in order."""

    objectives: tuple[Objective, ...]
    members: tuple[Evaluated, ...]

    def feasible(self) -> list[Evaluated]:
        return [m for m in self.members if feasible(m.values, self.objectives)]

    def hypervolumes(self) -> list[float]:
        """The volume that the members up to each generation dominate; it never falls.

        Objectives are scaled to [0, 1] over all feasible members, the reference point is 1.1 in each. So figures of one
        archive compare with each other, not with those of another archive.
        """
        generations = max((m.generation for m in self.members), default=-1) + 1
        members = self.feasible()
        if not members:
            return [0.0] * generations
        points = _points(members, self.objectives)
        low = points.min(axis=0)
        extent = points.max(axis=0) - low
        scaled = (points - low) / np.where(extent > 0, extent, 1.0)
        born = np.array([m.generation for m in members])
        volume = HV(ref_point=np.full(scaled.shape[1], 1.1))
        return [float(volume(scaled[born <= g])) if (born <= g).any() else 0.0 for g in range(generations)]


def front(archive: Archive) -> list[Evaluated]:
    """The feasible members that no other feasible member dominates, in the order of evaluation.

    One is dominated by another that is at least as good everywhere and better somewhere.
    """
    members = archive.feasible()
    if not members:
        return []
    points = _points(members, archive.objectives)
    dominated = [bool(((points <= p).all(axis=1) & (points < p).any(axis=1)).any()) for p in points]
    return [m for m, d in zip(members, dominated, strict=True) if not d]


def _points(members: Sequence[Evaluated], objectives: Sequence[Objective]) -> npt.NDArray[np.float64]:
    """(members, objectives), smaller is better."""
    return np.array([[o.sign * m.values[o.name] for o in objectives] for m in members], np.float64)
