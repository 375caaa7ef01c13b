"""The Gaussian process of a new device: covariances between architectures, and how well a setting explains measurements."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import scipy.linalg

from paceline.latency_models.model import Floats

_VAGUE = 4.0  # variance of a new device's mean latency, relative to the square of what it is estimated as
_SAMPLE, _RULED_OUT = 200, -15.0


@dataclass(frozen=True)
class Setting:
    """How far a device may be from everything that the known ones do (variances), and how noisy it is (standard deviation), all
    relative to its mean latency, the noise relative to each latency."""

    deviation: float
    """Along the features: what a fitted table learns."""
    interaction: float
    """Along pairs of features, in parts of `deviation`."""
    familiar: bool
    """Whether features matter as they do on the known devices."""
    noise: float


@dataclass(frozen=True)
class PriorView:
    """What a prior says of some architectures, all relative to a device's mean latency.

    `mean`, shape (rows,), is the mean of the known shapes; `spread`, (rows, devices), how each known device differs from it;
    `features`, (rows, features), are standardised, their squares adding up to about 1 per row; `relevance`, (2, features), says
    how much each may matter (mean 1): in general, and going by the known devices.
    """

    mean: Floats
    spread: Floats
    features: Floats
    relevance: Floats

    def rows(self, index: npt.NDArray[np.intp]) -> PriorView:
        return PriorView(self.mean[index], self.spread[index], self.features[index], self.relevance)


def covariance(a: PriorView, b: PriorView, setting: Setting) -> Floats:
    """Between the latencies of architectures `a` and `b`, relative to the device's mean squared: shape (rows of a, rows of b)."""
    weights = a.relevance[int(setting.familiar)]
    alike = 1 / len(weights) + (a.features * weights) @ b.features.T
    own = setting.deviation * (alike + setting.interaction * alike**2)
    return np.asarray(_VAGUE * np.outer(a.mean, b.mean) + a.spread @ b.spread.T + own)


def variance(view: PriorView, setting: Setting) -> Floats:
    """The diagonal of `covariance(view, view, setting)`."""
    weights = view.relevance[int(setting.familiar)]
    alike = 1 / len(weights) + view.features**2 @ weights
    own = setting.deviation * (alike + setting.interaction * alike**2)
    return np.asarray(_VAGUE * view.mean**2 + np.sum(view.spread**2, axis=1) + own)


def factor_of(view: PriorView, setting: Setting) -> Floats:
    """The lower Cholesky factor of the covariance of measurements: latencies and noise."""
    total = covariance(view, view, setting) + np.diag((setting.noise * view.mean) ** 2)
    return np.asarray(scipy.linalg.cholesky(total, lower=True))


def log_likelihood(view: PriorView, ms: Floats, setting: Setting) -> float:
    """The log marginal likelihood of measurements, up to a constant, the device's mean latency being the likeliest (Rasmussen and
    Williams 2006, section 5.4.1)."""
    factor = factor_of(view, setting)
    whitened = scipy.linalg.solve_triangular(factor, ms, lower=True)
    return -len(ms) * math.log(float(np.linalg.norm(whitened))) - float(np.log(np.diag(factor)).sum())


def probabilities(view: PriorView, ms: Floats, settings: Sequence[Setting], chances: Floats) -> Floats:
    """How probable each setting is after the measurements, shape (settings,), from how probable it was before.

    Settings that some of many rows all but rule out are not tried on all of them.
    """
    tried = list(range(len(settings)))
    sample = np.unique(np.linspace(0, len(ms) - 1, min(_SAMPLE, len(ms))).astype(int))
    for rows in (sample,) if len(sample) == len(ms) else (sample, np.arange(len(ms))):
        found = np.full(len(settings), -np.inf)
        found[tried] = [log_likelihood(view.rows(rows), ms[rows], settings[i]) for i in tried] + np.log(chances[tried])
        scores = found - found.max()
        tried = [int(i) for i in np.flatnonzero(scores >= _RULED_OUT)]
    return np.asarray(np.exp(scores) / np.exp(scores).sum())
