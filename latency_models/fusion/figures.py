"""Figures with their errors, from the raw batches of measurements, and what follows from several of them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import stats

from paceline.errors import LatencyModelError
from paceline.latency_models.model import Floats
from paceline.measurement import Measurement

CONFIDENCE = 0.99
"""Of every interval here: many questions are asked of one device, and few answers may be wrong by chance."""

_RESOLUTION = 2e-4  # relative; batches that agree better than this agree by chance, or because their clock is coarse


@dataclass(frozen=True)
class Estimate:
    """Milliseconds (or a rate of them), and half the width of the interval."""

    value: float
    error: float

    @property
    def low(self) -> float:
        return self.value - self.error

    @property
    def high(self) -> float:
        return self.value + self.error

    def less(self, other: Estimate) -> Estimate:
        """The difference of two independent ones."""
        return Estimate(self.value - other.value, math.hypot(self.error, other.error))

    def times(self, factor: float) -> Estimate:
        return Estimate(factor * self.value, abs(factor) * self.error)

    def __str__(self) -> str:
        return f"{self.value:.4f} ± {self.error:.4f}"


@dataclass(frozen=True)
class Figure:
    """A measured latency in milliseconds, its standard error, and the degrees of freedom of that."""

    ms: float
    error: float
    freedom: int


def figure_of(m: Measurement, usual_ms: float | None) -> Figure:
    """At the pace at which the reference takes `usual_ms`. The error comes from how far the batches disagree.

    Raises LatencyModelError where the measurement failed or has fewer than three batches.
    """
    if m.failure is not None:
        raise LatencyModelError(f"{m.subject} was not measured: {m.failure.reason}")
    ms = np.array(m.batch_ms)
    if len(ms) < 3:
        raise LatencyModelError(f"{m.subject} was measured in {len(ms)} batches; a figure with an error takes three")
    if m.reference_ms and usual_ms is not None:
        ms = ms / np.array(m.reference_ms) * usual_ms
    low, middle, high = np.percentile(ms, [25, 50, 75])
    deviation = float(high - low) / 1.349  # robust: one disturbed batch in four changes nothing
    error = math.hypot(1.2533 * deviation / math.sqrt(len(ms)), _RESOLUTION * float(middle))
    return Figure(float(middle), error, len(ms) - 1)


def combined(weights: Sequence[float], figures: Sequence[Figure]) -> Estimate:
    """The weighted sum of independent figures, with Welch's interval (Satterthwaite's degrees of freedom)."""
    variances = [(w * f.error) ** 2 for w, f in zip(weights, figures, strict=True)]
    total = sum(variances)
    freedom = total**2 / sum(v**2 / f.freedom for v, f in zip(variances, figures, strict=True))
    width = float(stats.t.ppf((1 + CONFIDENCE) / 2, freedom)) * math.sqrt(total)
    return Estimate(sum(w * f.ms for w, f in zip(weights, figures, strict=True)), width)


def solved(columns: Floats, figures: Sequence[Figure], needed: Sequence[str]) -> list[Estimate]:
    """The coefficients with which `columns`, shape (figures, coefficients), make the figures: weighted least squares.

    `needed` names the coefficients. Where the figures scatter more than their errors say, the intervals grow with them. Raises
    LatencyModelError where the figures don't determine a coefficient.
    """
    errors = np.array([f.error for f in figures])
    x, y = columns / errors[:, None], np.array([f.ms for f in figures]) / errors
    size = np.sqrt((x**2).mean(axis=0)) + 1e-300
    _, singular, axes = np.linalg.svd(x / size, full_matrices=False)
    if len(singular) < x.shape[1] or singular[-1] < 1e-9 * singular[0]:
        name = needed[int(np.abs(axes[-1]).argmax())]
        raise LatencyModelError(f"{len(figures)} measurements don't determine {name}; measure more different models")
    covariance = np.linalg.inv((x / size).T @ (x / size))
    found = covariance @ (x / size).T @ y
    freedom = len(y) - x.shape[1]
    scatter = float(np.sum((y - (x / size) @ found) ** 2)) / freedom if freedom else 1.0
    factor = float(stats.t.ppf((1 + CONFIDENCE) / 2, freedom or 1)) * math.sqrt(max(1.0, scatter))
    widths = factor * np.sqrt(np.diag(covariance))
    return [Estimate(float(v / s), float(w / s)) for v, w, s in zip(found, widths, size, strict=True)]
