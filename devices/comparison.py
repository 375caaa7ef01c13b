"""Is one model slower than another, on the same device? Interleaved batches, fresh processes, an interval of the ratio.

Two copies of one model differ by a percent or so within a process, for as long as it lives (where their memory lies, which
pages share a cache set). So the rounds of one process count once: the interval is taken over several processes.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from scipy.stats import t

from paceline.devices.device import Device
from paceline.errors import DeviceError
from paceline.measurement import Artifact, Bench, Measurement, Progress, silent


@dataclass(frozen=True)
class Comparison:
    """`ratio`: how many times as long the other takes, with its interval at `confidence`; one of `ratios` per process."""

    ratio: float
    low: float
    high: float
    confidence: float
    smallest: float
    ratios: tuple[float, ...]
    first: tuple[Measurement, ...]
    other: tuple[Measurement, ...]

    @property
    def verdict(self) -> Literal["slower", "faster", "no difference"]:
        """Of the other: a difference is called where the interval excludes 1 and the ratio is off by `smallest` or more."""
        if self.low > 1 and self.ratio >= 1 + self.smallest:
            return "slower"
        if self.high < 1 and self.ratio <= 1 / (1 + self.smallest):
            return "faster"
        return "no difference"


def compare(
    device: Device,
    first: Artifact,
    other: Artifact,
    bench: Bench,
    rng: np.random.Generator,
    *,
    processes: int = 8,
    confidence: float = 0.99,
    smallest: float = 0.01,
    progress: Progress = silent,
) -> Comparison:
    """`other` beside `first`. `rng` decides which goes first in each of the `processes` (three or more).

    Raises DeviceError where one of them can't be measured.
    """
    if processes < 3:
        raise DeviceError(f"an interval needs 3 processes or more, not {processes}")
    rounds = replace(bench, agreement=0.0, repeats=0)
    firsts: list[Measurement] = []
    others: list[Measurement] = []
    for i in range(processes):
        swapped = bool(rng.integers(2))
        device.close()
        found = device.measure([other, first] if swapped else [first, other], rounds)
        for m in found:
            if m.failure is not None:
                raise DeviceError(f"{m.subject} can't be measured: {m.failure.reason}")
        a, b = reversed(found) if swapped else found
        firsts.append(a)
        others.append(b)
        progress(i + 1, processes, "comparing")
    device.close()
    return interval(firsts, others, confidence, smallest)


def interval(first: Sequence[Measurement], other: Sequence[Measurement], confidence: float, smallest: float) -> Comparison:
    """Student's t over the processes, on the logarithm of the ratios: a slow-down and its inverse weigh alike."""
    logs = [float(np.median(np.log(b.batch_ms) - np.log(a.batch_ms))) for a, b in zip(first, other, strict=True)]
    middle, n = float(np.mean(logs)), len(logs)
    half = float(t.ppf(0.5 + confidence / 2, n - 1)) * float(np.std(logs, ddof=1)) / math.sqrt(n)
    return Comparison(
        ratio=math.exp(middle),
        low=math.exp(middle - half),
        high=math.exp(middle + half),
        confidence=confidence,
        smallest=smallest,
        ratios=tuple(math.exp(log) for log in logs),
        first=tuple(first),
        other=tuple(other),
    )
