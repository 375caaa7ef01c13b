"""Gaussian process regression: a table that interpolates between shapes as far as shapes are alike."""

from __future__ import annotations

from collections.abc import Iterator
from copy import copy
from typing import Self

import numpy as np
import numpy.typing as npt
from sklearn.base import BaseEstimator, RegressorMixin
from sklearn.utils.validation import check_is_fitted

from paceline.latency_models.model import Floats
from paceline.latency_models.regressors.checks import checked_features, checked_rows
from paceline.latency_models.regressors.kernel import Kernel, factored, same

_SOME = 300
"""Rows that a kernel is refined on."""

_BLOCK = 1 << 22
"""Entries of the covariance that are predicted from at once: some tens of megabytes."""


class GaussianProcessRegressor(RegressorMixin, BaseEstimator):  # type: ignore[misc]
    """Gaussian process regression (Rasmussen and Williams 2006, chapter 2), of log targets where `relative`.

    `kernel` says which rows are alike (None: from the columns' spread; see `Kernel`), and is made to fit the rows better in
    `refine` steps, on at most 300 of them, at the price of `trust` (see `Kernel.refined`). With `labelled` the last column
    is no number but a label. Beyond `max_rows` a random part of the rows is learned from, since time grows with their cube.

    Learned: `kernel_`, `mean_` and `scale_` of the targets, the rows (`rows_` says which of those given, `features_` relative to
    `center_`, `labels_`, `weights_`, `targets_`) and `solved_`, the inverse of their covariance times the targets, shape (rows,).
    """

    _inverse: Floats | None = None

    def __init__(
        self,
        relative: bool = False,
        kernel: Kernel | None = None,
        labelled: bool = False,
        refine: int = 0,
        trust: float = 0.5,
        max_rows: int = 2500,
        random_state: int = 0,
    ) -> None:
        self.relative = relative
        self.kernel = kernel
        self.labelled = labelled
        self.refine = refine
        self.trust = trust
        self.max_rows = max_rows
        self.random_state = random_state

    def fit(self, X: npt.ArrayLike, y: npt.ArrayLike, sample_weight: npt.ArrayLike | None = None) -> Self:
        rows, targets, self.weights_ = checked_rows(self, X, y, sample_weight)
        rng = np.random.default_rng(self.random_state)
        self.rows_ = np.arange(len(rows))
        if len(rows) > self.max_rows:
            self.rows_ = np.sort(rng.choice(len(rows), self.max_rows, replace=False))
            rows, targets, self.weights_ = rows[self.rows_], targets[self.rows_], self.weights_[self.rows_]
        values = np.log(targets) if self.relative else targets
        self.mean_ = float(np.average(values, weights=self.weights_))
        spread = float(np.sqrt(np.average((values - self.mean_) ** 2, weights=self.weights_)))
        self.scale_ = 1.0 if self.relative or spread == 0 else spread
        self.targets_ = (values - self.mean_) / self.scale_
        features, self.labels_ = self._split(rows)
        self.center_ = features.mean(axis=0)
        self.features_ = features - self.center_
        self.kernel_ = self._kernel(rng)
        self._inverse = None
        self.solved_ = self._inverted() @ self.targets_
        return self

    def predict(self, X: npt.ArrayLike) -> Floats:
        """Shape (rows,)."""
        return self._unscaled(np.concatenate([covariance @ self.solved_ for _, covariance in self._blocks(X)]))

    def predict_sd(self, X: npt.ArrayLike) -> tuple[Floats, Floats]:
        """Predictions and their standard deviations (relative ones where `relative`), shape (rows,) each."""
        means, variances = [], []
        for features, covariance in self._blocks(X):
            explained = np.einsum("ij,ij->i", covariance @ self._inverted(), covariance)
            means.append(covariance @ self.solved_)
            variances.append(np.maximum(self.kernel_.variances(features) - explained, 0.0))
        return self._unscaled(np.concatenate(means)), np.sqrt(np.concatenate(variances)) * self.scale_

    def held_out(self) -> Floats:
        """What is predicted for each learned row without this row (ibid., equation 5.12), shape (rows,)."""
        check_is_fitted(self)
        return self._unscaled(self.targets_ - self.solved_ / np.diag(self._inverted()))

    def without(self, part: npt.ArrayLike) -> Self:
        """A fitted copy as if `fit` had not been given these of its rows (indices); the kernel stays as it is."""
        check_is_fitted(self)
        gone = np.isin(self.rows_, part)
        other = copy(self)
        other._inverse = None
        other.rows_, other.targets_, other.weights_ = self.rows_[~gone], self.targets_[~gone], self.weights_[~gone]
        other.features_, other.labels_ = self.features_[~gone], self.labels_[~gone]
        of_gone = self._inverted()[gone]
        errors = np.linalg.solve(of_gone[:, gone], self.solved_[gone])
        other.solved_ = (self.solved_ - errors @ of_gone)[~gone]  # the inverse of a part of a matrix, by blocks
        return other

    def _blocks(self, X: npt.ArrayLike) -> Iterator[tuple[Floats, Floats]]:
        """Features, and their covariance with the rows that were learned from."""
        check_is_fitted(self)
        features, labels = self._split(checked_features(self, X))
        step = max(1, _BLOCK // len(self.targets_))
        for start in range(0, len(features), step):
            some = features[start : start + step] - self.center_
            yield some, self.kernel_.matrix(some, self.features_, self._alike(labels[start : start + step]))

    def _kernel(self, rng: np.random.Generator) -> Kernel:
        kernel = Kernel.of_columns(self.features_) if self.kernel is None else self.kernel
        if not self.refine:
            return kernel
        n = len(self.targets_)
        some = np.arange(n) if n <= _SOME else np.sort(rng.choice(n, _SOME, replace=False))
        alike = same(self.labels_[some], self.labels_[some])
        return kernel.refined(self.refine, self.features_[some], self.targets_[some], self.weights_[some], alike, self.trust)

    def _inverted(self) -> Floats:
        """The inverse of the rows' covariance, kept but not saved: it has the size of the rows squared."""
        if self._inverse is None:
            covariance = self.kernel_.matrix(self.features_, self.features_, self._alike(self.labels_))
            covariance[np.diag_indices_from(covariance)] += self.kernel_.noises(self.weights_)
            _, self._inverse = factored(covariance)
        return self._inverse

    def _split(self, rows: Floats) -> tuple[Floats, Floats]:
        return (rows[:, :-1], rows[:, -1]) if self.labelled else (rows, np.zeros(len(rows)))

    def _alike(self, labels: Floats) -> Floats:
        return same(labels, self.labels_)

    def _unscaled(self, values: Floats) -> Floats:
        values = values * self.scale_ + self.mean_
        return np.exp(values) if self.relative else values
