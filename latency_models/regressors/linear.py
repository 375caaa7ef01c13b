"""Linear regressors: ridge, which on one-hot columns is the fitted lookup table, and one column alone (MACs)."""

from __future__ import annotations

from typing import Self

import numpy as np
import numpy.typing as npt
from sklearn.base import BaseEstimator, RegressorMixin
from sklearn.utils.validation import check_is_fitted

from paceline.errors import LatencyModelError
from paceline.latency_models.model import Floats
from paceline.latency_models.regressors.checks import checked_features, checked_rows, standardisation
from paceline.latency_models.regressors.ridge import RidgeRows, huber_weights

STRENGTHS = tuple(float(s) for s in np.logspace(-10, 1, 23))
INDICATOR_FACTORS = (1.0, 10.0, 100.0, 10_000.0)


class LinearRegressor(RegressorMixin, BaseEstimator):  # type: ignore[misc]
    """Ridge regression on standardised columns; collinear columns and more columns than rows are welcome.

    Indicators (columns of only 0 and 1, which say *what* something is) are penalised more than quantities (*how much*) by one of
    the `indicator_factors`: whether a table of items or their physics is to be trusted is for held-out rows to say. This factor
    and the strength of the penalty are those with the smallest leave-one-out error, which has a closed form (Allen's PRESS).

    `robust`: Huber's loss by iterated weights, for rows that were measured in several states of a device (throttled, disturbed);
    its constant is the most efficient one for the residuals. `logarithmic`, for relative errors only: the logarithms of the
    targets are linear. `random_state` changes nothing: all is deterministic.

    Learned: `coef_` (features,), `intercept_`, `strength_`, `indicator_factor_`, `huber_` (infinite: plain squares), and `loo_`
    (rows of positive weight,): each row's residual in the model of the other rows, measured / predicted - 1 where `relative`,
    else measured - predicted.
    """

    def __init__(
        self,
        relative: bool = False,
        robust: bool = False,
        logarithmic: bool = False,
        strengths: tuple[float, ...] = STRENGTHS,
        indicator_factors: tuple[float, ...] = INDICATOR_FACTORS,
        random_state: int = 0,
    ) -> None:
        self.relative = relative
        self.robust = robust
        self.logarithmic = logarithmic
        self.strengths = strengths
        self.indicator_factors = indicator_factors
        self.random_state = random_state

    def fit(self, X: npt.ArrayLike, y: npt.ArrayLike, sample_weight: npt.ArrayLike | None = None) -> Self:
        if self.logarithmic and not self.relative:
            raise LatencyModelError("LinearRegressor(logarithmic=True) is for relative errors: set relative=True as well")
        features, targets, counts = checked_rows(self, X, y, sample_weight)
        targets = np.log(targets) if self.logarithmic else targets
        unit = targets if self.relative and not self.logarithmic else np.ones(len(targets))
        mean, scale = standardisation(features, counts / unit**2)
        indicators = np.all((features == 0) | (features == 1), axis=0)
        rows = RidgeRows((features - mean) / scale, targets, unit, indicators)
        weights, power, self.huber_ = counts, 1 if self.robust else 2, float("inf")
        for _ in range(2 if self.robust else 1):  # which penalties are best depends on which rows count
            best = rows.best(weights, counts, self.strengths, self.indicator_factors, power)
            for _ in range(3 if self.robust else 0):
                outlying, self.huber_ = huber_weights(best.errors / unit, counts)
                weights = counts * outlying
                best = rows.best(weights, counts, (best.strength,), (best.factor,), power)
        self.strength_, self.indicator_factor_ = best.strength, best.factor
        self.coef_ = best.coef / scale
        self.intercept_ = best.intercept - float(mean @ self.coef_)
        if self.logarithmic:
            self.loo_ = np.expm1(best.errors)
        else:
            self.loo_ = best.errors / (targets - best.errors) if self.relative else best.errors
        return self

    def predict(self, X: npt.ArrayLike) -> Floats:
        check_is_fitted(self)
        sums = np.asarray(checked_features(self, X) @ self.coef_ + self.intercept_)
        return np.exp(sums) if self.logarithmic else sums


class ProportionalRegressor(RegressorMixin, BaseEstimator):  # type: ignore[misc]
    """Least squares on one column of the features, MACs say: y = slope_ * x + intercept_. The comparison every model must win."""

    def __init__(self, relative: bool = False, column: int = 0, random_state: int = 0) -> None:
        self.relative = relative
        self.column = column
        self.random_state = random_state

    def fit(self, X: npt.ArrayLike, y: npt.ArrayLike, sample_weight: npt.ArrayLike | None = None) -> Self:
        features, targets, weights = checked_rows(self, X, y, sample_weight)
        weights = weights / targets**2 if self.relative else weights
        column = features[:, self.column]
        center, middle = np.average(column, weights=weights), np.average(targets, weights=weights)
        spread = float(weights @ (column - center) ** 2)
        self.slope_ = float(weights @ ((column - center) * (targets - middle))) / spread if spread > 0 else 0.0
        self.intercept_ = float(middle - self.slope_ * center)
        return self

    def predict(self, X: npt.ArrayLike) -> Floats:
        check_is_fitted(self)
        return np.asarray(checked_features(self, X)[:, self.column] * self.slope_ + self.intercept_)

    def __sklearn_tags__(self):  # type: ignore[no-untyped-def]  # scikit-learn's Tags
        tags = super().__sklearn_tags__()
        tags.regressor_tags.poor_score = True
        return tags
