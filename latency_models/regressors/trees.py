"""Gradient-boosted trees, the baseline that published latency predictors use (random forests in nn-Meter are their cousins)."""

from __future__ import annotations

from typing import Self

import numpy as np
import numpy.typing as npt
from sklearn.base import BaseEstimator, RegressorMixin
from sklearn.ensemble import GradientBoostingRegressor
from sklearn.utils.validation import check_is_fitted

from paceline.latency_models.model import Floats
from paceline.latency_models.regressors.checks import checked_features, checked_rows

_CELLS = 1 << 22
"""Rows times trees that are predicted at once: some tens of megabytes."""


class TreesRegressor(RegressorMixin, BaseEstimator):  # type: ignore[misc]
    """Stochastic gradient boosting (Friedman 2002) by scikit-learn, on log targets where `relative`.

    Learned: `base_`, what is predicted before the first tree, and the nodes of all trees in a row: `feature_`, `threshold_`,
    `left_`, `right_` (indices of nodes; a leaf leads to itself), `value_`, with `roots_` (trees,) and `depth_`.
    """

    def __init__(
        self,
        relative: bool = False,
        n_estimators: int = 300,
        max_depth: int = 6,
        learning_rate: float = 0.06,
        subsample: float = 0.5,
        max_features: float = 0.3,
        random_state: int = 0,
    ) -> None:
        self.relative = relative
        self.n_estimators = n_estimators
        self.max_depth = max_depth
        self.learning_rate = learning_rate
        self.subsample = subsample
        self.max_features = max_features
        self.random_state = random_state

    def fit(self, X: npt.ArrayLike, y: npt.ArrayLike, sample_weight: npt.ArrayLike | None = None) -> Self:
        features, targets, weights = checked_rows(self, X, y, sample_weight)
        boosting = GradientBoostingRegressor(
            n_estimators=self.n_estimators,
            max_depth=self.max_depth,
            learning_rate=self.learning_rate,
            subsample=self.subsample,
            max_features=self.max_features,
            min_samples_leaf=2,
            random_state=self.random_state,
        )
        self._keep(boosting.fit(features, np.log(targets) if self.relative else targets, weights))
        return self

    def _keep(self, boosting: GradientBoostingRegressor) -> None:
        trees = [stage[0].tree_ for stage in boosting.estimators_]
        sizes = [tree.node_count for tree in trees]
        self.roots_ = np.concatenate([[0], np.cumsum(sizes)[:-1]]).astype(np.int64)
        leaf = np.concatenate([tree.children_left < 0 for tree in trees])
        itself = np.arange(sum(sizes))
        first = np.repeat(self.roots_, sizes)
        self.left_ = np.where(leaf, itself, first + np.concatenate([tree.children_left for tree in trees]))
        self.right_ = np.where(leaf, itself, first + np.concatenate([tree.children_right for tree in trees]))
        self.feature_ = np.where(leaf, 0, np.concatenate([tree.feature for tree in trees]))
        self.threshold_ = np.concatenate([tree.threshold for tree in trees])
        self.value_ = self.learning_rate * np.concatenate([tree.value[:, 0, 0] for tree in trees])
        self.depth_ = int(max(tree.max_depth for tree in trees))
        self.base_ = float(boosting.init_.constant_.ravel()[0])

    def predict(self, X: npt.ArrayLike) -> Floats:
        check_is_fitted(self)
        features = checked_features(self, X).astype(np.float32)  # as scikit-learn's trees compare them
        step = max(1, _CELLS // len(self.roots_))
        sums = [self._sums(features[start : start + step]) for start in range(0, len(features), step)]
        total = self.base_ + np.concatenate(sums)
        return np.exp(total) if self.relative else total

    def _sums(self, features: npt.NDArray[np.float32]) -> Floats:
        nodes = np.broadcast_to(self.roots_, (len(features), len(self.roots_)))
        rows = np.arange(len(features))[:, None]
        for _ in range(self.depth_):
            goes_left = features[rows, self.feature_[nodes]] <= self.threshold_[nodes]
            nodes = np.where(goes_left, self.left_[nodes], self.right_[nodes])
        return np.asarray(self.value_[nodes].sum(axis=1))
