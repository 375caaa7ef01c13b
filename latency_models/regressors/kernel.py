"""Which operators are alike: the covariance of a Gaussian process, and how well it explains rows that were measured."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Self

import numpy as np
from scipy.linalg import cho_factor, cho_solve
from scipy.linalg.lapack import dpotri
from scipy.optimize import minimize

from paceline.latency_models.model import Floats

_JITTER = 1e-6
_NEAR = 1e-9
"""Keeps a distance of zero from being divided by."""


@dataclass(frozen=True)
class Kernel:
    """The covariance of two rows' targets, a sum of (Rasmussen and Williams 2006, chapters 4 and 5)

    - `shared` times a Matern 3/2 function of their distance, each column in units of its length in `smooth`;
    - `shared_linear` times a linear function, columns in units of `linear`, and `constant`;
    - for rows with the same label also `own` times the first, the second once more, and `own_rough` times the exponential of
      minus their distance in units of `rough`: what jumps from shape to shape, as the choice of a kernel does.

    `noise` is the variance of a measurement of weight 1, `nugget` what no weight makes smaller.
    """

    smooth: tuple[float, ...]
    rough: tuple[float, ...]
    linear: tuple[float, ...]
    shared: float = 0.5
    shared_linear: float = 2.0
    own: float = 0.05
    own_rough: float = 0.01
    constant: float = 0.1
    noise: float = 0.002
    nugget: float = 0.0003

    @classmethod
    def of_columns(cls, features: Floats) -> Self:
        """A start for any matrix: lengths are multiples of each column's standard deviation."""
        spread = features.std(axis=0)
        spread = np.where(spread > _NEAR, spread, 1.0)
        smooth, rough = tuple((4.0 * spread).tolist()), tuple((1.5 * spread).tolist())
        return cls(smooth, rough, linear=smooth)

    def matrix(self, a: Floats, b: Floats, alike: Floats | float) -> Floats:
        """Shape (rows of a, rows of b). `alike`: 1 where their labels are equal, else 0, of that shape."""
        smooth = _matern(_distances(a / np.array(self.smooth), b / np.array(self.smooth)))
        rough = np.exp(-_distances(a / np.array(self.rough), b / np.array(self.rough)))
        linear = (a / np.array(self.linear)) @ (b / np.array(self.linear)).T + self.constant
        own = self.own * smooth + self.own_rough * rough + linear
        return np.asarray(self.shared * smooth + self.shared_linear * linear + alike * own)

    def variances(self, a: Floats) -> Floats:
        """The diagonal of `matrix` of rows with themselves, shape (rows,)."""
        linear = ((a / np.array(self.linear)) ** 2).sum(axis=1) + self.constant
        return np.asarray(self.shared + self.own + self.own_rough + (1 + self.shared_linear) * linear)

    def noises(self, weights: Floats) -> Floats:
        """The variance of each measurement, shape (rows,)."""
        return self.noise / weights + self.nugget + _JITTER

    def refined(
        self, steps: int, features: Floats, targets: Floats, weights: Floats, alike: Floats | float, trust: float
    ) -> Self:
        """The kernel that makes the targets likeliest, found in so many steps (L-BFGS-B) from this one on.

        Targets are centred. `trust`: how many nats it costs to change a parameter by a factor of e.
        """
        start = self._logs()

        def loss(logs: Floats) -> tuple[float, Floats]:
            value, gradient = self._of(logs).surprise(features, targets, weights, alike)
            return value + trust * float(np.sum((logs - start) ** 2)), gradient + 2 * trust * (logs - start)

        bounds = [(log - 4.0, log + 4.0) for log in start]
        found = minimize(loss, start, jac=True, method="L-BFGS-B", bounds=bounds, options={"maxiter": steps, "maxfun": 2 * steps})
        return self._of(found.x)

    def surprise(self, features: Floats, targets: Floats, weights: Floats, alike: Floats | float) -> tuple[float, Floats]:
        """Minus the log likelihood of the targets, and its gradient by the logarithms of all parameters."""
        z1, z2, z3 = (features / np.array(lengths) for lengths in (self.smooth, self.rough, self.linear))
        d1, d2 = _distances(z1, z1), _distances(z2, z2)
        decay, rough = np.exp(-(3**0.5) * d1), np.exp(-d2)
        smooth, products = (1 + 3**0.5 * d1) * decay, z3 @ z3.T
        weight_smooth, weight_linear = self.shared + alike * self.own, self.shared_linear + alike
        covariance = weight_smooth * smooth + alike * self.own_rough * rough + weight_linear * (products + self.constant)
        covariance[np.diag_indices_from(covariance)] += self.noises(weights)
        factor, inverse = factored(covariance)
        solved = cho_solve((factor, True), targets)
        value = 0.5 * float(targets @ solved) + float(np.log(np.diag(factor)).sum())
        slope = 0.5 * (inverse - np.outer(solved, solved))  # of the value by each entry of the covariance
        by_smooth = _squares(slope * weight_smooth * 3 * decay, z1)
        by_rough = _squares(slope * alike * self.own_rough * rough / np.maximum(d2, _NEAR), z2)
        by_linear = -2 * np.einsum("ij,ij->j", (slope * weight_linear) @ z3, z3)
        full = products + self.constant
        scalars = [
            self.shared * np.sum(slope * smooth),
            self.shared_linear * np.sum(slope * full),
            self.own * np.sum(slope * alike * smooth),
            self.own_rough * np.sum(slope * alike * rough),
            self.constant * np.sum(slope * weight_linear),
            self.noise * np.sum(np.diag(slope) / weights),
            self.nugget * np.trace(slope),
        ]
        return value, np.concatenate([by_smooth, by_rough, by_linear, scalars])

    def _logs(self) -> Floats:
        return np.asarray(np.log(np.concatenate([np.atleast_1d(getattr(self, f.name)) for f in fields(self)])))

    def _of(self, logs: Floats) -> Self:
        values, n = np.exp(logs).tolist(), len(self.smooth)
        return type(self)(tuple(values[:n]), tuple(values[n : 2 * n]), tuple(values[2 * n : 3 * n]), *values[3 * n :])


def factored(covariance: Floats) -> tuple[Floats, Floats]:
    """Lower Cholesky factor (zeros above) and inverse of a positive definite matrix."""
    factor = np.tril(cho_factor(covariance, lower=True, check_finite=False)[0])
    lower, _ = dpotri(factor, lower=1)
    inverse = np.tril(lower)
    return factor, inverse + np.tril(inverse, -1).T


def _matern(distances: Floats) -> Floats:
    return np.asarray((1 + 3**0.5 * distances) * np.exp(-(3**0.5) * distances))


def _distances(a: Floats, b: Floats) -> Floats:
    squares = (a**2).sum(axis=1)[:, None] + (b**2).sum(axis=1)[None, :] - 2 * a @ b.T
    return np.asarray(np.sqrt(np.maximum(squares, 0.0)))


def _squares(symmetric: Floats, z: Floats) -> Floats:
    """Sum over rows i, j of symmetric[i, j] * (z[i] - z[j]) ** 2, shape (columns,)."""
    return np.asarray(2 * symmetric.sum(axis=1) @ z**2 - 2 * np.einsum("ij,ij->j", symmetric @ z, z))


def same(a: Sequence[float] | Floats, b: Sequence[float] | Floats) -> Floats:
    """1 where labels are equal, else 0, shape (len(a), len(b))."""
    return np.asarray(np.asarray(a)[:, None] == np.asarray(b)[None, :], float)
