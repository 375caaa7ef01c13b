"""The default regressor: a linear trunk, and a residual network that is kept only where held-out rows say so."""

from __future__ import annotations

from typing import Self

import numpy as np
import numpy.typing as npt
import torch
from sklearn.base import BaseEstimator, RegressorMixin
from sklearn.utils.validation import check_is_fitted

from paceline.latency_models.model import Floats
from paceline.latency_models.regressors.checks import checked_features, checked_rows
from paceline.latency_models.regressors.linear import LinearRegressor
from paceline.latency_models.regressors.mlp import MlpRegressor

WEIGHTS = (0.25, 0.5, 0.75, 1.0)
LEAST_GAIN = 1e-4
"""What a residual must improve the mean relative error by: a hundredth of a percent is no reason for a network."""


class HybridRegressor(RegressorMixin, BaseEstimator):  # type: ignore[misc]
    """A robust LinearRegressor, the trunk, times (`relative`) or plus a residual that an MlpRegressor learns.

    Where `relative`, the trunk is linear in the targets or in their logarithms, whichever has the smaller leave-one-out error.
    The residual is learned from the trunk's leave-one-out residuals, so that what the trunk merely memorised isn't taken for a
    lack of signal, and judged by its own held-out predictions: it counts with the weight that makes their mean absolute error
    smallest, and not at all unless that beats the trunk by more than one standard error. A quarter of the `epochs` decides
    whether the whole training is worth its time. Below `least_rows` rows there is no residual.

    Learned: `trunk_`, `residual_` (None if not kept), `kept_`, the weight of the residual (0: the trunk alone), `floor_`, below
    which the trunk isn't followed where `relative` (a tenth of the smallest target), and `held_out_` (rows of positive weight,),
    predictions by models that didn't learn from the row.
    """

    def __init__(
        self,
        relative: bool = False,
        hidden: tuple[int, ...] = (64, 64),
        members: int = 5,
        epochs: int = 60,
        least_rows: int = 50,
        random_state: int = 0,
    ) -> None:
        self.relative = relative
        self.hidden = hidden
        self.members = members
        self.epochs = epochs
        self.least_rows = least_rows
        self.random_state = random_state

    def fit(self, X: npt.ArrayLike, y: npt.ArrayLike, sample_weight: npt.ArrayLike | None = None) -> Self:
        features, targets, weights = checked_rows(self, X, y, sample_weight)
        self.floor_ = float(targets.min()) / 10 if self.relative else -np.inf
        self.trunk_, trunk = self._best_trunk(features, targets, weights)
        self.held_out_, self.kept_, self.residual_ = trunk, 0.0, None
        if len(targets) < self.least_rows:
            return self
        gap = np.log(targets / trunk) if self.relative else targets - trunk
        for epochs in (-(-self.epochs // 4), self.epochs):
            residual = MlpRegressor(False, self.hidden, self.members, epochs, random_state=self.random_state)
            residual.fit(features, gap, weights)
            self.kept_ = self._worth(trunk, residual.held_out_, targets, weights)
            if self.kept_ == 0:
                return self
        self.residual_ = residual
        self.held_out_ = self._joined(trunk, self.kept_ * residual.held_out_)
        return self

    def _best_trunk(self, features: Floats, targets: Floats, weights: Floats) -> tuple[LinearRegressor, Floats]:
        """The trunk, and its held-out predictions."""
        if not self.relative:
            plain = LinearRegressor(robust=True).fit(features, targets, weights)
            return plain, targets - plain.loo_
        trunks = [LinearRegressor(True, True, logarithmic).fit(features, targets, weights) for logarithmic in (False, True)]
        predicted = [np.maximum(targets / (1 + trunk.loo_), self.floor_) for trunk in trunks]
        errors = [weights @ np.abs(ms / targets - 1) for ms in predicted]
        best = int(np.argmin(errors))
        return trunks[best], predicted[best]

    def _worth(self, trunk: Floats, residual: Floats, targets: Floats, weights: Floats) -> float:
        """The best weight of the residual, 0 if no better than the trunk by a standard error."""
        unit = targets if self.relative else float(np.abs(targets).mean()) or 1.0
        before = np.abs(trunk - targets) / unit
        gains = [before - np.abs(self._joined(trunk, weight * residual) - targets) / unit for weight in WEIGHTS]
        means = [float(np.average(gain, weights=weights)) for gain in gains]
        best = int(np.argmax(means))
        error = np.sqrt(np.average((gains[best] - means[best]) ** 2, weights=weights) / len(targets))
        return WEIGHTS[best] if means[best] > max(error, LEAST_GAIN) else 0.0

    def _joined(self, trunk: Floats, residual: Floats) -> Floats:
        return np.asarray(trunk * np.exp(residual) if self.relative else trunk + residual)

    def predict(self, X: npt.ArrayLike) -> Floats:
        check_is_fitted(self)
        features = checked_features(self, X)
        trunk = np.maximum(self.trunk_.predict(features), self.floor_)
        return trunk if self.residual_ is None else self._joined(trunk, self.kept_ * self.residual_.predict(features))

    def torch_predict(self, x: torch.Tensor) -> torch.Tensor:
        """`predict` of a tensor (rows, features), probabilities instead of 0 and 1 among them: (rows,), differentiable."""
        trunk = x.double() @ torch.tensor(self.trunk_.coef_) + self.trunk_.intercept_
        trunk = (trunk.exp() if self.trunk_.logarithmic else trunk).clamp(min=self.floor_)
        if self.residual_ is None:
            return trunk
        residual = self.kept_ * self.residual_.torch_predict(x).double()
        return trunk * residual.exp() if self.relative else trunk + residual
