"""How wrong a latency model is, beside how wrong any model must be."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.stats import kendalltau, spearmanr

from paceline.latency_models.model import Floats


@dataclass(frozen=True)
class Accuracy:
    """Of one predictor over n networks.

    Mean absolute and root mean square error relative to the measurement, shares within ±5 % and ±10 % (0 to 1), Spearman's rho
    and Kendall's tau-b; `covered` is the share inside their intervals, None for a predictor without any.
    """

    name: str
    mape: float
    within_5: float
    within_10: float
    spearman: float
    n: int
    rmspe: float = float("nan")
    kendall: float = float("nan")
    covered: float | None = None


def accuracy_of(name: str, predicted: Floats, measured: Floats, interval: tuple[Floats, Floats] | None = None) -> Accuracy:
    """`predicted`, `measured` and the ends of the `interval` in milliseconds, shape (networks,). Rank correlations: NaN below 3
    networks, for constants. Intervals without width are none."""
    error = np.abs(predicted - measured) / measured
    ranked = len(measured) > 2 and np.ptp(predicted) > 0 and np.ptp(measured) > 0
    return Accuracy(
        name=name,
        mape=float(error.mean()),
        within_5=float((error <= 0.05).mean()),
        within_10=float((error <= 0.10).mean()),
        spearman=float(spearmanr(predicted, measured).statistic) if ranked else float("nan"),
        n=len(measured),
        rmspe=float(np.sqrt(np.mean(error**2))),
        kendall=float(kendalltau(predicted, measured).statistic) if ranked else float("nan"),
        covered=None if interval is None or (interval[0] == interval[1]).all() else coverage(*interval, measured),
    )


def coverage(low: Floats, high: Floats, measured: Floats) -> float:
    """The share of measurements inside their interval."""
    return float(np.mean((low <= measured) & (measured <= high)))
