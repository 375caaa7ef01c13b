"""How wrong a regressor is on rows it didn't learn from, as intervals around its predictions."""

from __future__ import annotations

import math
from typing import Self

import numpy as np
import numpy.typing as npt
from sklearn.base import BaseEstimator, RegressorMixin, clone
from sklearn.model_selection import KFold
from sklearn.utils.validation import check_is_fitted

from paceline.errors import LatencyModelError
from paceline.latency_models.model import Floats, Prediction
from paceline.latency_models.regressors.checks import checked_features, checked_rows
from paceline.latency_models.regressors.hybrid import HybridRegressor
from paceline.latency_models.regressors.linear import LinearRegressor
from paceline.latency_models.regressors.regressor import Regressor


class ConformalRegressor(RegressorMixin, BaseEstimator):  # type: ignore[misc]
    """Intervals for any regressor of milliseconds, from the relative errors of `folds` models that each leave rows out.

    The jackknife of Barber et al. (arXiv 1905.02928) over folds, around the model of all rows. (CV+ of the same paper would ask
    every fold's model at each prediction, at `folds` times the cost.) Coverage holds for rows drawn like the learned ones. Errors
    are divided by how difficult a row looks (Papadopoulos et al. 2008: normalised conformal regression): a ridge on the logarithm
    of their size, itself judged by its leave-one-out predictions, within a factor of `spread`.

    Learned: `regressor_` (of all rows), `difficulty_` (a LinearRegressor), `typical_`, the geometric mean of the sizes,
    and `errors_`, sorted: measured / predicted - 1 over difficulty.
    """

    relative = True

    def __init__(
        self,
        regressor: Regressor | None = None,
        confidence: float = 0.9,
        folds: int = 10,
        spread: float = 4.0,
        random_state: int = 0,
    ) -> None:
        self.regressor = regressor
        self.confidence = confidence
        self.folds = folds
        self.spread = spread
        self.random_state = random_state

    def fit(self, X: npt.ArrayLike, y: npt.ArrayLike) -> Self:
        features, targets, _ = checked_rows(self, X, y, None)
        regressor = HybridRegressor(relative=True, random_state=self.random_state) if self.regressor is None else self.regressor
        predicted = np.zeros(len(targets))
        for train, test in KFold(min(self.folds, len(targets)), shuffle=True, random_state=self.random_state).split(features):
            predicted[test] = clone(regressor).fit(features[train], targets[train]).predict(features[test])
        if np.any(predicted <= 0):
            raise LatencyModelError(
                f"{type(regressor).__name__} predicts {predicted.min():g} ms for a row it didn't learn from: no latency. "
                "Use relative=True or a HybridRegressor"
            )
        self.regressor_ = clone(regressor).fit(features, targets)
        errors = targets / predicted - 1
        sizes = np.log(np.abs(errors) + 1e-3 * np.mean(np.abs(errors)) + 1e-15)
        self.typical_ = float(np.exp(np.mean(sizes)))
        inputs = self._inputs(features, predicted)
        self.difficulty_ = LinearRegressor().fit(inputs, sizes)
        self.errors_ = np.sort(errors / self._within(sizes - self.difficulty_.loo_))
        return self

    def predict(self, X: npt.ArrayLike) -> Floats:
        check_is_fitted(self)
        return np.asarray(self.regressor_.predict(checked_features(self, X)))

    def predict_interval(self, X: npt.ArrayLike) -> Prediction:
        """Milliseconds of each row and what covers a measurement with the `confidence`, half of the rest on each side.

        With too few rows for that confidence, the ends are the largest errors seen.
        """
        check_is_fitted(self)
        features = checked_features(self, X)
        ms = self.regressor_.predict(features)
        difficulty = self._within(self.difficulty_.predict(self._inputs(features, ms)))
        n = len(self.errors_)
        rank = min(math.ceil((n + 1) * (1 + self.confidence) / 2), n)
        low = ms * np.maximum(1 + difficulty * self.errors_[n - rank], 0.0)
        return Prediction(ms, low, ms * (1 + difficulty * self.errors_[rank - 1]), self.errors_, difficulty)

    def _inputs(self, features: Floats, ms: Floats) -> Floats:
        return np.column_stack([features, np.log(ms)])

    def _within(self, logs: Floats) -> Floats:
        """Difficulties, 1 for a row of typical size of error."""
        return np.clip(np.exp(logs) / self.typical_, 1 / self.spread, self.spread)
