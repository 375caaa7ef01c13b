"""How wrong a latency model is, beside how wrong any model must be."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.stats import spearmanr

from paceline.latency_models.model import Floats


@dataclass(frozen=True)
class Accuracy:
    """Of one predictor over n networks: mean absolute percentage error, shares within ±5 % and ±10 % (0 to 1), Spearman's rho."""

    name: str
    mape: float
    within_5: float
    within_10: float
    spearman: float
    n: int


def accuracy_of(name: str, predicted: Floats, measured: Floats) -> Accuracy:
    """`predicted` and `measured` in milliseconds, shape (networks,). Spearman's rho is NaN below 3 networks and for constants."""
    error = np.abs(predicted - measured) / measured
    ranked = len(measured) > 2 and np.ptp(predicted) > 0 and np.ptp(measured) > 0
    rank = float(spearmanr(predicted, measured).statistic) if ranked else float("nan")
    return Accuracy(name, float(error.mean()), float((error <= 0.05).mean()), float((error <= 0.10).mean()), rank, len(measured))


def coverage(low: Floats, high: Floats, measured: Floats) -> float:
    """The share of measurements inside their interval."""
    return float(np.mean((low <= measured) & (measured <= high)))
