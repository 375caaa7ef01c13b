"""A regressor on the code of an architecture: for spaces whose whole networks were measured, and whose operators need not be."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Protocol, Self, runtime_checkable

import numpy as np
import numpy.typing as npt
from sklearn.base import BaseEstimator, clone
from sklearn.model_selection import KFold, cross_val_predict
from torch import Tensor

from paceline.arch import Arch, Space
from paceline.errors import LatencyModelError
from paceline.latency_models.calibration import interval
from paceline.latency_models.model import Prediction
from paceline.latency_models.regressors.linear import LinearRegressor
from paceline.latency_models.regressors.regressor import Regressor
from paceline.latency_models.spaces.codes import Codes, checked, encode_all, one_hot
from paceline.latency_models.spaces.relaxed import Form, topk_st

_BLOCK = 1 << 11  # architectures at a time: their features stay in the cache
_SLIGHTLY, _EQUAL = 0.05, 1e-4  # no device repeats itself better than the latter


@runtime_checkable
class IntervalRegressor(Regressor, Protocol):
    """ConformalRegressor and TransferRegressor, say."""

    def predict_interval(self, X: npt.ArrayLike) -> Prediction: ...


@runtime_checkable
class DifferentiableRegressor(Regressor, Protocol):
    """MlpRegressor, say."""

    def torch_predict(self, x: Tensor) -> Tensor:
        """`predict` of a tensor (rows, features), differentiable; shape (rows,)."""


class CodeLatency(BaseEstimator):  # type: ignore[misc]
    """`regressor` on `Space.encode(arch)`; a relaxed path can be judged where it has a gradient (DifferentiableRegressor).

    What it gets wrong is known from `folds`-fold cross-validation: `error_`, its mean relative error, beside `ridge_error_`, that
    of a ridge on the same code, which is a fitted table. Where the ridge is clearly better (by more than one standard error of
    the mean difference, a twentieth of its own error, and 0.01 %), `kept_` is False, and predictions are refused. Intervals are
    the regressor's own where it makes some (IntervalRegressor), else those of the held-out errors, of this `confidence`.
    """

    def __init__(
        self, space: Space, regressor: Regressor, *, folds: int = 5, confidence: float = 0.9, random_state: int = 0
    ) -> None:
        self.space, self.regressor = space, regressor
        self.folds, self.confidence, self.random_state = folds, confidence, random_state

    def fit(self, archs: Sequence[Arch], ms: npt.ArrayLike) -> Self:
        """`ms` has shape (archs,). Raises LatencyModelError for figures that are not positive or fewer than the folds."""
        codes, measured = encode_all(self.space, archs), np.asarray(ms, float)
        if measured.shape != (len(archs),) or len(archs) < self.folds:
            raise LatencyModelError(
                f"{len(archs)} architectures with milliseconds of shape {measured.shape}; at least {self.folds} are needed, "
                "with one figure each"
            )
        if not (np.isfinite(measured) & (measured > 0)).all():
            wrong = int(np.flatnonzero(~(np.isfinite(measured) & (measured > 0)))[0])
            raise LatencyModelError(f"architecture {wrong} has {measured[wrong]} ms; leave out what could not be measured")
        folds = KFold(self.folds, shuffle=True, random_state=self.random_state)
        held_out = cross_val_predict(self.regressor, codes, measured, cv=folds)
        if (held_out <= 0).any():
            raise LatencyModelError(
                f"{type(self.regressor).__name__} predicts {held_out.min():.3g} ms for an architecture it has not seen; "
                "measure more architectures, or set relative=True"
            )
        ridge = cross_val_predict(LinearRegressor(relative=True), codes, measured, cv=folds)
        error, ridge_error = np.abs(held_out / measured - 1), np.abs(ridge / measured - 1)
        worse = error - ridge_error
        self.error_, self.ridge_error_ = float(error.mean()), float(ridge_error.mean())
        chance = worse.std(ddof=1) / np.sqrt(len(worse))
        self.kept_ = bool(worse.mean() <= max(chance, _SLIGHTLY * self.ridge_error_, _EQUAL))
        self.errors_ = np.sort(measured / held_out - 1)
        self.regressor_: Regressor = clone(self.regressor).fit(codes, measured)
        return self

    def predict(self, archs: Sequence[Arch]) -> Prediction:
        """Of each architecture, shape (archs,). Raises SpaceError for one of another space, LatencyModelError if not `kept_`."""
        return self.predict_encoded(encode_all(self.space, archs))

    def predict_codes(self, codes: Codes) -> Prediction:
        """The same for option numbers, shape (archs, choices), where every choice takes exactly one option."""
        return self._predict(one_hot(self.space, codes[start : start + _BLOCK]) for start in range(0, len(codes), _BLOCK))

    def predict_encoded(self, encoded: npt.NDArray[np.generic]) -> Prediction:
        """The same for 0/1 weights as `Space.encode` gives them, shape (archs, width), in any dtype."""
        blocks = [slice(start, start + _BLOCK) for start in range(0, len(encoded), _BLOCK)]
        return self._predict(checked(self.space, encoded[block], block.start) for block in blocks)

    def expected_ms(self, path: Mapping[str, Tensor], form: Form = topk_st) -> Tensor:
        """The latency of a relaxed path, a differentiable scalar: the mean over the codes that `form` makes of it.

        Raises LatencyModelError for a path of another space, for a regressor without a gradient, and where it is not `kept_`.
        """
        self._check_kept()
        if not isinstance(self.regressor_, DifferentiableRegressor):
            raise LatencyModelError(f"{type(self.regressor).__name__} has no gradient; take MlpRegressor or HybridRegressor")
        return self.regressor_.torch_predict(form(self.space, path)).mean()

    def _predict(self, blocks: Iterable[npt.NDArray[np.floating]]) -> Prediction:
        self._check_kept()
        found = [self._of_block(block) for block in blocks]
        if not found:
            return interval(np.zeros(0), self.errors_, np.zeros(0), self.confidence)
        ms, low, high, difficulty = (
            np.concatenate([getattr(part, name) for part in found]) for name in ("ms", "low", "high", "difficulty")
        )
        return Prediction(ms, low, high, found[0].errors, difficulty)

    def _of_block(self, block: npt.NDArray[np.floating]) -> Prediction:
        if isinstance(self.regressor_, IntervalRegressor):
            return self.regressor_.predict_interval(block)
        return interval(self.regressor_.predict(block), self.errors_, np.ones(len(block)), self.confidence)

    def _check_kept(self) -> None:
        if not self.kept_:
            raise LatencyModelError(
                f"{type(self.regressor).__name__} errs by {self.error_:.2%} on architectures it has not seen, a ridge on the "
                f"same code by {self.ridge_error_:.2%}; take LinearRegressor or HybridRegressor, or measure more architectures"
            )
