"""From the costs of operators to whole networks: what the sum leaves out, and how wrong the result may be.

Measured alone, every operator pays for one invoke and finds its data in the nearest cache; inside a network it does not. So a
network's latency is fitted as a sum over its operators of `terms(operator) @ scale`, plus a base, by ridge regression on
relative errors, shrunk towards the plain sum, outliers counting less (Huber 1964). The interval comes from the relative errors
of networks that were held out (the jackknife of Barber et al., arXiv 1905.02928), each over the doubt about its network
(normalised conformal prediction: Papadopoulos et al., 2008), so that its coverage holds for networks drawn like the calibration
ones and measured with them; `session_noise` widens it for those that are measured in another session.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from paceline.errors import LatencyModelError
from paceline.latency_models.model import Floats, Prediction

_RIDGE = (1e-5, 1e-4, 1e-3, 1e-2, 1e-1)
_ROUNDS = 12
_FEW = 5
"""Networks that must have a term for it to be fitted."""

_OUTLIER = 0.05
"""Relative error from which on a network's weight falls."""

_LEAST = 0.1
"""No held-out prediction counts as less than this share of the measurement."""

_DOUBT = (0.0, 1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0)


@dataclass(frozen=True)
class Errors:
    """What is known of a model's errors: `held_out` as `Prediction.errors`. `doubt` is how much worse a network is known than one
    whose every operator has a row (see `difficulty`)."""

    held_out: Floats
    confidence: float
    doubt: float = 0.0

    def around(self, ms: Floats, doubts: Floats) -> Prediction:
        """The intervals around `ms` of networks. `doubts`: relative standard errors of the sums of their operators' costs."""
        return interval(ms, self.held_out, difficulty(doubts, self.doubt), self.confidence)


def errors_of(measured: Floats, predicted: Floats, doubts: Floats, confidence: float, session_noise: float = 0.0) -> Errors:
    """`predicted` holds predictions of networks by models that had not seen them. `session_noise`: root mean square of the
    relative difference between measurements of the same network in two sessions."""
    if len(measured) == 0:
        return Errors(np.zeros(0), confidence)
    relative = measured / predicted - 1
    doubt = min(_DOUBT, key=lambda d: _surprise(relative, difficulty(doubts, d)))
    errors = np.sort(relative / difficulty(doubts, doubt))
    within = math.sqrt(float(np.mean(errors**2)))
    widened = math.hypot(1.0, session_noise / within) if within else 1.0
    return Errors(errors * widened, confidence, doubt)


def fitted_scale(known: Floats, new: Floats, ms: Floats, prior: Floats, positive: Sequence[int] = ()) -> tuple[Floats, Floats]:
    """The scale of terms that fits measured `ms` of networks, shape (terms,), and the predictions of networks held out.

    `known` holds their terms, shape (networks, terms), from all that is known; `new` what they would be for a network that is new
    (equal where nothing is left out). The scale is fitted to both; held out are the networks' `new` terms, with a scale that has
    not seen the network. `prior` is what the scale is when there are no networks, and stays where too few networks have a term or
    where the fit would make one of the `positive` terms negative. The ridge's strength is the one with the smallest held-out
    errors. Raises LatencyModelError for figures that are not positive.
    """
    if not np.all(ms > 0):
        raise LatencyModelError(f"calibration needs positive milliseconds, got {float(np.min(ms))}")
    if len(ms) == 0:
        return prior, np.zeros(0)
    free = np.count_nonzero(known, axis=0) >= min(_FEW, len(ms))
    while True:
        scale, held_out = _best(known, new, ms, prior, free)
        wrong = [i for i in positive if free[i] and scale[i] < 0]
        if not wrong:
            return scale, held_out
        free[wrong] = False


def _best(known: Floats, new: Floats, ms: Floats, prior: Floats, free: npt.NDArray[np.bool_]) -> tuple[Floats, Floats]:
    """The same with a fixed choice of the terms that are fitted."""
    fixed = [1 - terms[:, ~free] @ prior[~free] / ms for terms in (known, new)]  # what the others leave to explain
    weighted = np.stack([known[:, free], new[:, free]]) / ms[:, None]  # least squares on relative errors
    size = np.sqrt(np.mean(weighted**2, axis=(0, 1))) + 1e-30
    x, targets = np.concatenate(weighted / size), np.concatenate(fixed)
    fits = [_ridge(x, targets, prior[free] * size, strength * len(ms)) for strength in _RIDGE]
    solution, rests = min(fits, key=lambda fit: float(np.mean(np.abs(fit[1] - fixed[1]))))
    scale = prior.copy()
    scale[free] = solution / size
    return scale, np.maximum(1 - fixed[1] + rests, _LEAST) * ms


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


def _ridge(x: Floats, target: Floats, prior: Floats, strength: float) -> tuple[Floats, Floats]:
    """Weights near `prior` with which x @ w is the target, but for outliers (Huber's loss by reweighting). The first half of x
    are the networks as they are known, the second the same as they were new: also returns x @ w of these, each with the weights
    that its own two rows have no part in."""
    trust = np.ones(len(x))
    for _ in range(_ROUNDS):
        gram = (x.T * trust) @ x + strength * np.eye(x.shape[1])
        w = prior + np.linalg.solve(gram, x.T @ (trust * (target - x @ prior)))
        used, trust = trust, np.minimum(1.0, _OUTLIER / np.maximum(np.abs(target - x @ w), 1e-12))
    inverse = np.linalg.inv(gram)
    networks = len(x) // 2
    held_out = np.zeros(networks)
    for i in range(networks):
        both = [i, i + networks]
        pair, root = x[both], np.sqrt(used[both])
        left = np.eye(2) - root[:, None] * (pair @ inverse @ pair.T) * root  # what is left of the residuals' freedom
        step = inverse @ (pair.T * root) @ np.linalg.solve(left + 1e-9 * np.eye(2), root * (target[both] - pair @ w))
        held_out[i] = x[i + networks] @ (w - step)
    return w, held_out
