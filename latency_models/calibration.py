"""From the costs of operators to whole networks: what the sum leaves out, and how wrong the result may be.

Measured alone, every operator pays for one invoke and finds its data in the nearest cache; inside a network it does not. So a
network's latency is fitted as a sum over its operators of `terms(operator) @ scale`, plus a base, by ridge regression on
relative errors, shrunk towards the plain sum. The interval comes from leave-one-out relative residuals (the jackknife of
Barber et al., arXiv 1905.02928), each over the doubt about its network (normalised conformal prediction: Papadopoulos et al.,
2008), so that its coverage holds for networks drawn like the calibration ones and measured with them; `session_noise` widens it
for those that are measured in another session.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from paceline.errors import LatencyModelError
from paceline.latency_models.model import Floats, Prediction

_RIDGE = (1e-5, 1e-4, 1e-3, 1e-2, 1e-1)
_DOUBT = (0.0, 1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0)


@dataclass(frozen=True)
class Calibration:
    """`scale` has one entry per term, the last one the base in milliseconds. `errors` as in Prediction.

    `doubt` is how much worse a network is known than one whose every operator has a row (see `difficulty`).
    """

    scale: Floats
    errors: Floats
    confidence: float
    doubt: float = 0.0

    def predict(self, ms: Floats, doubts: Floats) -> Prediction:
        """`ms`: terms @ scale, shape (networks,). `doubts`: relative standard errors of the networks' sums."""
        return interval(ms, self.errors, difficulty(doubts, self.doubt), self.confidence)


def calibrate(
    terms: Floats, doubts: Floats, ms: Floats, prior: Floats, confidence: float, session_noise: float = 0.0
) -> Calibration:
    """Fits the scale of `terms` (networks, terms) to measured `ms`. `prior` is what the scale is when there are no networks.

    The ridge's strength is the one with the smallest leave-one-out error. `session_noise`: root mean square of the relative
    difference between measurements of the same network in two sessions. Raises LatencyModelError for figures that are not
    positive.
    """
    if not np.all(ms > 0):
        raise LatencyModelError(f"calibration needs positive milliseconds, got {float(np.min(ms))}")
    if len(ms) == 0:
        return Calibration(prior, np.zeros(0), confidence)
    weighted = terms / ms[:, None]  # least squares on relative errors
    size = np.sqrt(np.mean(weighted**2, axis=0)) + 1e-30
    fits = [_ridge(weighted / size, prior * size, strength * len(ms)) for strength in _RIDGE]
    solution, held_out = min(fits, key=lambda fit: float(np.mean(np.abs(fit[1]))))
    doubt = min(_DOUBT, key=lambda d: _surprise(held_out, difficulty(doubts, d)))
    errors = np.sort(held_out / difficulty(doubts, doubt))
    within = math.sqrt(float(np.mean(errors**2)))
    widened = math.hypot(1.0, session_noise / within) if within else 1.0
    return Calibration(solution / size, errors * widened, confidence, doubt)


def difficulty(doubts: Floats, weight: float) -> Floats:
    """1 for a network that the model has no doubts about."""
    return np.sqrt(1 + (weight * doubts) ** 2)


def interval(ms: Floats, errors: Floats, difficulty: Floats, confidence: float) -> Prediction:
    """Half of what is not covered lies on each side. With few `errors` their extremes, with none no width."""
    below, above = margins(errors, confidence)
    return Prediction(ms, ms * (1 + below * difficulty), ms * (1 + above * difficulty), errors, difficulty)


def margins(errors: Floats, confidence: float) -> tuple[float, float]:
    """Relative distance of the interval's ends at difficulty 1."""
    n = len(errors)
    if n == 0:
        return 0.0, 0.0
    rank = min(math.ceil((n + 1) * (1 + confidence) / 2), n)
    return float(errors[n - rank]), float(errors[rank - 1])


def _surprise(errors: Floats, difficulty: Floats) -> float:
    """Of errors that would be normal with a standard deviation proportional to the difficulty: -2 log likelihood per network."""
    return float(np.log(np.mean((errors / difficulty) ** 2) + 1e-30) + 2 * np.mean(np.log(difficulty)))


def _ridge(x: Floats, prior: Floats, strength: float) -> tuple[Floats, Floats]:
    """Weights for x @ w = 1 near `prior`, and the leave-one-out values of measured / predicted - 1."""
    gram = x.T @ x + strength * np.eye(x.shape[1])
    w = prior + np.linalg.solve(gram, x.T @ (1 - x @ prior))
    leverage = np.einsum("ij,jk,ik->i", x, np.linalg.inv(gram), x)
    held_out = 1 - (1 - x @ w) / np.clip(1 - leverage, 1e-6, None)  # prediction over measurement, without that network
    return w, 1 / np.clip(held_out, 1e-6, None) - 1
