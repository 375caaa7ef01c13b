"""What a search has found, for people and programs."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass

from paceline.graph import macs_of, params_of
from paceline.pipeline.plots import Point
from paceline.pipeline.run import Searched
from paceline.pipeline.search import Evaluated, front

Architecture = dict[str, list[str]]


@dataclass(frozen=True)
class Row:
    """A network of the front: accuracy in the supernet, predicted milliseconds with interval, chance of keeping the limit.

    `also_ms`: milliseconds predicted on each of the other devices. MACs and params are those of what is deployed."""

    key: str
    accuracy: float
    predicted_ms: float
    predicted_low_ms: float
    predicted_high_ms: float
    limit_chance: float
    macs: int
    params: int
    architecture: Architecture
    also_ms: dict[str, float]


def rows_of(searched: Searched) -> list[Row]:
    """The networks within the limits that no other beats in every goal of the recipe, the most accurate first."""
    best = sorted(front(searched.archive), key=lambda member: -member.values["accuracy"])
    archs = [member.arch for member in best]
    found = searched.target.latency.predict(archs)
    also = {other.name: other.latency.predict(archs).ms for other in searched.others}
    chances = found.chance(searched.target.limit.ms)
    rows = []
    for i, member in enumerate(best):
        operators = searched.target.latency.operators.of(member.arch)
        rows.append(
            Row(
                member.arch.key,
                member.values["accuracy"],
                *(float(found.ms[i]), float(found.low[i]), float(found.high[i]), float(chances[i])),
                macs=macs_of(operators),
                params=params_of(operators),
                architecture={choice: list(options) for choice, options in member.arch.picks},
                also_ms={name: float(ms[i]) for name, ms in also.items()},
            )
        )
    return rows


def points_of(searched: Searched, chosen: str) -> dict[str, Point]:
    """Every evaluated network as a point of a picture, by its key; `chosen` is the key of one of them."""
    members = searched.archive.members
    found = searched.target.latency.predict([member.arch for member in members])
    ends = zip(members, found.ms, found.low, found.high, strict=True)
    return {m.arch.key: _point(searched, m, chosen, float(ms), float(low), float(high)) for m, ms, low, high in ends}


def fast_and_accurate(searched: Searched, points: dict[str, Point]) -> list[Point]:
    """Those within the limits that no other beats in both accuracy and latency: the part of a front that a picture can show."""
    feasible = [points[member.arch.key] for member in searched.archive.feasible()]
    found: list[Point] = []
    best = -math.inf
    for point in sorted(feasible, key=lambda p: (p.latency_ms, -p.accuracy)):
        if point.accuracy > best:
            best = point.accuracy
            found.append(point)
    return found


def to_json(rows: list[Row], chosen: str) -> list[dict[str, object]]:
    """As `front.json` holds them; `chosen` is the key of the network that was exported."""
    return [{**asdict(row), "chosen": row.key == chosen} for row in rows]


def _point(searched: Searched, member: Evaluated, chosen: str, ms: float, low: float, high: float) -> Point:
    macs = macs_of(searched.target.latency.operators.of(member.arch))
    accuracy = member.values.get("accuracy", math.nan)
    return Point(member.arch.key, ms, low, high, accuracy, macs, member.arch.key == chosen)
