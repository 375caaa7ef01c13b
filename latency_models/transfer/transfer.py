"""A regressor for a new device that starts from what the known devices have in common."""

from __future__ import annotations

import math
from typing import Self

import numpy as np
import numpy.typing as npt
import scipy.linalg
from scipy.stats import t as student
from sklearn.base import BaseEstimator, RegressorMixin, clone
from sklearn.model_selection import KFold
from sklearn.utils.validation import check_is_fitted, validate_data

from paceline.latency_models.model import Floats, Prediction
from paceline.latency_models.regressors.checks import check_positive
from paceline.latency_models.regressors.hybrid import HybridRegressor
from paceline.latency_models.transfer.prior import DevicePrior
from paceline.latency_models.transfer.process import PriorView, covariance, factor_of, probabilities, variance

_LIKELY = 1e-2  # what weighs less than this part of the most likely setting changes no figure
_ALONE_ROWS, _FOLDS = 20, 5
_SHARES = (0.25, 0.5, 0.75, 1.0)


class TransferRegressor(RegressorMixin, BaseEstimator):  # type: ignore[misc]
    """Gaussian process regression from `prior` with noise proportional to the latency, in closed form.

    How far the device is from the known ones and how noisy it is are not chosen but averaged over: each of the prior's settings
    weighs what its chance and its marginal likelihood make of it. The device's mean latency has a closed form. With few rows the
    known devices speak, with many the device's own. A HybridRegressor that knows this device alone is mixed in with the weight
    that held-out rows give it, and not at all unless it makes the errors there smaller by more than one standard error; only its
    training and the folds depend on `random_state`.

    Learned: `settings_` with their `weights_`; `alone_`, the model of this device alone, and its share `kept_` (None and 0 where
    it doesn't help); `held_out_` (rows,), each row's measured / predicted - 1 where it was left out; and what predictions need.
    """

    def __init__(self, prior: DevicePrior, confidence: float = 0.9, random_state: int = 0) -> None:
        self.prior = prior
        self.confidence = confidence
        self.random_state = random_state

    def fit(self, X: npt.ArrayLike, y: npt.ArrayLike) -> Self:
        """`X` has shape (rows, features) with the columns of the known devices, `y` milliseconds, from 2 rows on.

        Raises LatencyModelError for milliseconds that are not positive and finite.
        """
        ms = np.asarray(y, dtype=np.float64)
        check_positive(ms)
        features, ms = validate_data(self, X, ms, dtype=np.float64, y_numeric=True, ensure_min_samples=2)
        view = self.prior.view(features)
        likely = probabilities(view, ms, self.prior.settings, self.prior.chances)
        kept = [int(i) for i in np.argsort(-likely, kind="stable") if likely[i] >= _LIKELY * likely.max()]
        self.X_ = features
        self.settings_ = [self.prior.settings[i] for i in kept]
        self.weights_ = likely[kept] / likely[kept].sum()
        self.least_ms_ = 0.1 * float(ms.min())
        left_out, deviation = self._fit_process(view, ms)
        left_out = self._fit_alone(view, ms, left_out, deviation)
        self.held_out_ = ms / left_out - 1
        self.errors_ = self._errors((ms - left_out) / deviation)
        return self

    def _fit_process(self, view: PriorView, ms: Floats) -> tuple[Floats, Floats]:
        """Each row's prediction and its standard deviation where it is left out (Rasmussen and Williams 2006, section 5.4.2)."""
        duals, means, variances = [], [], []
        for setting in self.settings_:
            factor = factor_of(view, setting)
            dual = scipy.linalg.cho_solve((factor, True), ms)
            precision = np.diag(scipy.linalg.cho_solve((factor, True), np.eye(len(ms))))
            duals.append(dual)
            means.append(ms - dual / precision)
            variances.append(float(ms @ dual) / len(ms) / precision)
        self.duals_ = np.array(duals)
        self.mean_squares_ = self.duals_ @ ms / len(ms)  # of the device's mean latency, under each setting
        mean, variance = self._mixed(np.array(means), np.array(variances))
        return np.maximum(mean, self.least_ms_), np.sqrt(variance)

    def _fit_alone(self, view: PriorView, ms: Floats, left_out: Floats, deviation: Floats) -> Floats:
        """What is predicted of each row left out once the device's own model has got its share."""
        self.alone_, self.kept_ = None, 0.0
        if len(ms) < _ALONE_ROWS:
            return left_out
        alone = HybridRegressor(random_state=self.random_state)
        relative = 1 / view.mean**2  # weights: errors count relative to what latencies are expected to be
        other = np.zeros_like(ms)
        for learned, held_out in KFold(_FOLDS, shuffle=True, random_state=self.random_state).split(self.X_):
            model = clone(alone).fit(self.X_[learned], ms[learned], relative[learned])
            other[held_out] = np.maximum(model.predict(self.X_[held_out]), self.least_ms_)
        before = np.abs(ms - left_out) / deviation
        gains = [before - np.abs(ms - left_out - share * (other - left_out)) / deviation for share in _SHARES]
        best = int(np.argmax([gain.mean() for gain in gains]))
        if gains[best].mean() <= gains[best].std() / math.sqrt(len(ms)):
            return left_out
        self.kept_ = _SHARES[best]
        self.alone_ = alone.fit(self.X_, ms, relative)
        return left_out + self.kept_ * (other - left_out)

    def _errors(self, scores: Floats) -> Floats:
        if (len(scores) + 1) * (1 - self.confidence) / 2 >= 1:
            return np.sort(scores)
        # Too few rows for both ends: their size, at least what the process expects, and the shape of a t-distribution.
        size = max(float(np.sqrt(np.mean(scores**2))), 1.0)
        return np.asarray(size * student.ppf(np.arange(1, 200) / 200, len(scores)))

    def predict(self, X: npt.ArrayLike) -> Floats:
        """Milliseconds, shape (rows,), never below a tenth of the fastest measurement."""
        check_is_fitted(self)
        view, own = self._views(X)
        means = [covariance(view, own, setting) @ dual for setting, dual in zip(self.settings_, self.duals_, strict=True)]
        return self._joined(self.weights_ @ np.array(means), X)

    def predict_interval(self, X: npt.ArrayLike) -> Prediction:
        """With conformal intervals: leave-one-out errors, each relative to the process's own standard deviation there."""
        check_is_fitted(self)
        view, own = self._views(X)
        means, variances = [], []
        for setting, dual, square in zip(self.settings_, self.duals_, self.mean_squares_, strict=True):
            with_own = covariance(own, view, setting)
            explained = np.sum(scipy.linalg.solve_triangular(factor_of(own, setting), with_own, lower=True) ** 2, axis=0)
            uncertain = np.maximum(variance(view, setting) - explained, 0.0) + (setting.noise * view.mean) ** 2
            means.append(dual @ with_own)
            variances.append(square * uncertain)
        mean, spread = self._mixed(np.array(means), np.array(variances))
        ms = self._joined(mean, X)
        difficulty = np.sqrt(spread) / ms
        n = len(self.errors_)
        rank = min(math.ceil((n + 1) * (1 + self.confidence) / 2), n)
        low = np.maximum(ms * (1 + self.errors_[n - rank] * difficulty), 0.0)
        return Prediction(ms, low, ms * (1 + self.errors_[rank - 1] * difficulty), self.errors_, difficulty)

    def _joined(self, mean: Floats, X: npt.ArrayLike) -> Floats:
        mean = np.maximum(mean, self.least_ms_)
        if self.alone_ is None:
            return mean
        alone = np.maximum(self.alone_.predict(X), self.least_ms_)
        return np.asarray(mean + self.kept_ * (alone - mean))

    def _mixed(self, means: Floats, variances: Floats) -> tuple[Floats, Floats]:
        """Mean and variance of the mixture of settings; both arguments have shape (settings, rows)."""
        mean = self.weights_ @ means
        return mean, self.weights_ @ (variances + (means - mean) ** 2)

    def _views(self, X: npt.ArrayLike) -> tuple[PriorView, PriorView]:
        features = validate_data(self, X, dtype=np.float64, reset=False)
        return self.prior.view(features), self.prior.view(self.X_)
