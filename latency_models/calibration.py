"""From the costs of operators to whole networks: what the sum leaves out, and how wrong the result may be.

Measured alone, every operator pays for one invoke and finds its data in the nearest cache; inside a network it does not. So a
network's latency is fitted as a sum over its operators of `terms(operator) @ scale`, plus a base, by ridge regression on
relative errors, shrunk towards the plain sum. The interval comes from leave-one-out relative residuals (the jackknife of
Barber et al., arXiv 1905.02928), so that its coverage holds for networks drawn like the calibration ones
and measured with them; `session_noise` widens it for those that are measured in another session.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from paceline.errors import LatencyModelError
from paceline.latency_models.model import Floats, Prediction

_RIDGE = (1e-5, 1e-4, 1e-3, 1e-2, 1e-1)


@dataclass(frozen=True)
class Calibration:
    """`scale` has one entry per term, the last one the base in milliseconds. `residuals`: measured / predicted - 1, held out."""

    scale: Floats
    residuals: Floats
    confidence: float
    session_noise: float = 0.0
    """Root mean square of the relative difference between measurements of the same network in two sessions."""

    def predict(self, terms: Floats) -> Prediction:
        """`terms` has shape (networks, terms), summed over each network's operators, the last column 1."""
        ms = terms @ self.scale
        below, above = self.margins()
        return Prediction(ms, ms * (1 + below), ms * (1 + above))

    def margins(self) -> tuple[float, float]:
        """Relative distance of the interval's ends, half of what is not covered on each side. With few residuals the extremes."""
        n = len(self.residuals)
        if n == 0:
            return 0.0, 0.0
        rank = min(math.ceil((n + 1) * (1 + self.confidence) / 2), n)
        within = float(np.sqrt(np.mean(self.residuals**2)))
        ordered = np.sort(self.residuals) * math.hypot(1.0, self.session_noise / within if within else 0.0)
        return float(ordered[n - rank]), float(ordered[rank - 1])


def calibrate(terms: Floats, ms: Floats, prior: Floats, confidence: float, session_noise: float = 0.0) -> Calibration:
    """Fits the scale of `terms` (networks, terms) to measured `ms`. `prior` is what the scale is when there are no networks.

    The ridge's strength is the one with the smallest leave-one-out error. Raises LatencyModelError for figures that are not
    positive.
    """
    if not np.all(ms > 0):
        raise LatencyModelError(f"calibration needs positive milliseconds, got {float(np.min(ms))}")
    if len(ms) == 0:
        return Calibration(prior, np.zeros(0), confidence, session_noise)
    weighted = terms / ms[:, None]  # least squares on relative errors
    size = np.sqrt(np.mean(weighted**2, axis=0)) + 1e-30
    fits = [_ridge(weighted / size, prior * size, strength * len(ms)) for strength in _RIDGE]
    solution, held_out = min(fits, key=lambda fit: float(np.mean(np.abs(fit[1]))))
    return Calibration(solution / size, held_out, confidence, session_noise)


def _ridge(x: Floats, prior: Floats, strength: float) -> tuple[Floats, Floats]:
    """Weights for x @ w = 1 near `prior`, and the leave-one-out values of measured / predicted - 1."""
    gram = x.T @ x + strength * np.eye(x.shape[1])
    w = prior + np.linalg.solve(gram, x.T @ (1 - x @ prior))
    leverage = np.einsum("ij,jk,ik->i", x, np.linalg.inv(gram), x)
    held_out = 1 - (1 - x @ w) / np.clip(1 - leverage, 1e-6, None)  # prediction over measurement, without that network
    return w, 1 / np.clip(held_out, 1e-6, None) - 1
