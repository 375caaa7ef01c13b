"""One line of the leaderboard: how well a model did on one device under one protocol, over seeds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

import numpy as np

from paceline.latency_models.metrics import Accuracy
from paceline.measurement import Progress

METRICS = ("spearman", "kendall", "mape", "rmspe", "within_5", "within_10")


@dataclass(frozen=True)
class Result:
    """Means over `seeds`, with their standard deviations in `sd`. `k` is how many measurements of the device were used.

    `noise_floor` is the mean relative difference between two measurements of the same thing (or what the data allow to say
    instead, see the protocol), None where the data can't tell. `covered` is the share of the test inside the intervals of
    confidence 0.9, None for a model without intervals.
    """

    protocol: str
    test: str
    device: str
    k: int
    model: str
    is_default: bool
    seeds: int
    spearman: float
    kendall: float
    mape: float
    rmspe: float
    within_5: float
    within_10: float
    noise_floor: float | None
    covered: float | None = None
    sd: Mapping[str, float] = field(default_factory=dict)


class LeaderboardProtocol(Protocol):
    """A module of this package holds one, as `PROTOCOL`."""

    name: str

    def results(self, data: Path, seeds: int, devices: Sequence[str], progress: Progress) -> list[Result]:
        """`data` is the folder of all public data; `devices` limits the work, () means all that the data hold.

        Raises DataError where the data of this protocol aren't there or aren't what they should be.
        """


def summarised(
    protocol: str,
    test: str,
    device: str,
    k: int,
    model: str,
    is_default: bool,
    accuracies: Sequence[Accuracy],
    noise_floor: float | None,
) -> Result:
    """The Result of a model that was run once for each seed."""
    values = {name: np.array([getattr(a, name) for a in accuracies]) for name in METRICS}
    means = {name: float(v.mean()) for name, v in values.items()}
    sd = {name: float(v.std(ddof=1)) if len(v) > 1 else 0.0 for name, v in values.items()}
    shares = [a.covered for a in accuracies if a.covered is not None]
    covered = float(np.mean(shares)) if shares else None
    return Result(
        protocol, test, device, k, model, is_default, len(accuracies), noise_floor=noise_floor, covered=covered, sd=sd, **means
    )
