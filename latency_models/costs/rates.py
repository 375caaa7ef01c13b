"""Milliseconds per amount: what an operator costs where nothing but its amounts is known."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Self

import numpy as np
from scipy.optimize import nnls
from sklearn.base import BaseEstimator

from paceline.graph import OpSpec
from paceline.latency_models.features import AMOUNTS, amounts, kind_of
from paceline.latency_models.model import Floats

_USUAL = np.array([2e-3, 0.1, 0.1, 0.1, 1.0])
"""Milliseconds for an operator, a million MACs, a megabyte of weights, one of activations, a million runs: only their proportions
matter."""

_FEW = 4
"""Rows below which a kind has the rates of all."""

_PULL = 0.3
"""How many rows' worth every rate is pulled towards that of all kinds."""

_LEAST = 0.05
"""No rate is smaller than this share of what it is pulled to: a rate of 0 would make small operators cost nothing."""


class Rates(BaseEstimator):  # type: ignore[misc]
    """For all operators and for each kind: non-negative rates of the `amounts`, least squares on relative errors."""

    def fit(self, operators: Sequence[OpSpec], ms: Floats) -> Self:
        x = amounts(operators)
        self.all_ = _fitted(x, ms, _USUAL, 0.0)
        kinds = np.array([kind_of(spec) for spec in operators])
        members = {str(kind): np.flatnonzero(kinds == kind) for kind in np.unique(kinds)}
        self.kinds_ = {
            kind: _fitted(x[at], ms[at], self.all_, _PULL) if len(at) >= _FEW else self.all_ for kind, at in members.items()
        }
        return self

    def predict(self, operators: Sequence[OpSpec]) -> Floats:
        """Milliseconds, all positive, shape (operators,)."""
        rates = np.array([self.kinds_.get(kind_of(spec), self.all_) for spec in operators]).reshape(-1, len(AMOUNTS))
        return np.asarray((amounts(operators) * rates).sum(axis=1))


def _fitted(x: Floats, ms: Floats, towards: Floats, pull: float) -> Floats:
    towards = towards * np.median(ms / (x @ towards))  # of the same speed, only the proportions pull
    relative = x / ms[:, None]
    weight = np.sqrt(pull * np.mean(relative**2, axis=0))
    rates, _ = nnls(np.vstack([relative, np.diag(weight)]), np.concatenate([np.ones(len(ms)), weight * towards]))
    return np.asarray(np.maximum(rates, _LEAST * towards))
