"""Everything a search has evaluated."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from pymoo.indicators.hv import HV

from paceline.arch import Arch
from paceline.errors import ConfigError, DataError
from paceline.pipeline.objectives import Objective, feasible

Floats = npt.NDArray[np.float64]

_REFERENCE = 1.1


@dataclass(frozen=True)
class Evaluated:
    """An architecture with its values by objective. Values are missing where a cheap objective broke its limit."""

    arch: Arch
    values: Mapping[str, float]
    generation: int


@dataclass(frozen=True)
class Scale:
    """Which value of each objective, by name, becomes 0 and which becomes 1: the larger, the worse.

    Hypervolumes compare only on one scale, so searches that are to be compared are given the same.
    """

    best: Mapping[str, float]
    worst: Mapping[str, float]

    @classmethod
    def of(cls, values: Sequence[Mapping[str, float]], objectives: Sequence[Objective]) -> Scale:
        """The best and the worst of each objective in `values`, such as those of a known Pareto front."""
        if not values:
            raise ConfigError("a scale needs the values of one architecture or more")
        points = _points(values, objectives)
        ends = points.min(axis=0), points.max(axis=0)
        best, worst = ({o.name: o.sign * float(v) for o, v in zip(objectives, end, strict=True)} for end in ends)
        return cls(best, worst)

    def apply(self, values: Sequence[Mapping[str, float]], objectives: Sequence[Objective]) -> Floats:
        """Shape (values, objectives), each 0 at the best and 1 at the worst value, below and above beyond them."""
        low, high = _points([self.best, self.worst], objectives)
        return np.asarray((_points(values, objectives) - low) / np.where(high > low, high - low, 1.0))


def hypervolume(values: Sequence[Mapping[str, float]], objectives: Sequence[Objective], scale: Scale) -> float:
    """The volume that these values dominate, up to 1.1 in each objective of `scale`; what is worse than that adds nothing.

    Limits are not looked at: give it the values of feasible architectures.
    """
    if not values:
        return 0.0
    points = scale.apply(values, objectives)
    return float(HV(ref_point=np.full(points.shape[1], _REFERENCE))(points[non_dominated(points)]))


@dataclass(frozen=True)
class Archive:
    """What a search evaluated, in order."""

    objectives: tuple[Objective, ...]
    members: tuple[Evaluated, ...]

    def feasible(self) -> list[Evaluated]:
        return [m for m in self.members if feasible(m.values, self.objectives)]

    def hypervolumes(self, scale: Scale | None = None) -> list[float]:
        """The volume that the feasible members up to each generation dominate; it never falls.

        Without a `scale`, objectives range over the feasible members themselves: figures of one archive compare with each other,
        not with those of another archive.
        """
        generations = max((m.generation for m in self.members), default=-1) + 1
        members = self.feasible()
        if not members:
            return [0.0] * generations
        scale = Scale.of([m.values for m in members], self.objectives) if scale is None else scale
        born: list[list[Mapping[str, float]]] = [[] for _ in range(generations)]
        for m in members:
            born[m.generation].append(m.values)
        volumes: list[float] = []
        best: list[Mapping[str, float]] = []
        for values in born:
            merged = best + values
            kept = non_dominated(_points(merged, self.objectives)) if merged else np.zeros(0, bool)
            changed = bool(kept[len(best) :].any())
            best = [v for v, k in zip(merged, kept, strict=True) if k]
            volumes.append(hypervolume(best, self.objectives, scale) if changed else volumes[-1] if volumes else 0.0)
        return volumes

    def to_json(self) -> str:
        """The names of the objectives and every member; `from_json` reads it."""
        members = [{"arch": dict(m.arch.picks), "values": dict(m.values), "generation": m.generation} for m in self.members]
        return json.dumps({"objectives": [o.name for o in self.objectives], "members": members})

    @classmethod
    def from_json(cls, text: str, objectives: Sequence[Objective]) -> Archive:
        """Raises DataError for a text that `to_json` didn't write, ConfigError for other objectives than it was written with."""
        try:
            read = json.loads(text)
            names = read["objectives"]
            members = [
                Evaluated(
                    Arch(tuple((str(choice), tuple(map(str, taken))) for choice, taken in m["arch"].items())),
                    {str(name): float(value) for name, value in m["values"].items()},
                    int(m["generation"]),
                )
                for m in read["members"]
            ]
        except (ValueError, KeyError, TypeError, AttributeError) as e:
            raise DataError(f"this is no archive of a search ({type(e).__name__}: {e}); write one with Archive.to_json") from e
        if names != [o.name for o in objectives]:
            raise ConfigError(
                f"the archive has objectives {names}, not {[o.name for o in objectives]}; give those it was made with"
            )
        return cls(tuple(objectives), tuple(members))


def front(archive: Archive) -> list[Evaluated]:
    """The feasible members that no other feasible member dominates, in the order of evaluation.

    One is dominated by another that is at least as good everywhere and better somewhere.
    """
    members = archive.feasible()
    if not members:
        return []
    kept = non_dominated(_points([m.values for m in members], archive.objectives))
    return [m for m, k in zip(members, kept, strict=True) if k]


def non_dominated(points: Floats) -> npt.NDArray[np.bool_]:
    """Which of `points`, shape (points, objectives), smaller is better, no other point dominates."""
    dominated = [bool(((points <= p).all(axis=1) & (points < p).any(axis=1)).any()) for p in points]
    return ~np.array(dominated, bool)


def _points(values: Sequence[Mapping[str, float]], objectives: Sequence[Objective]) -> Floats:
    """(values, objectives), smaller is better."""
    return np.array([[o.sign * v[o.name] for o in objectives] for v in values], np.float64).reshape(len(values), len(objectives))
