"""Ridge regression with its leave-one-out errors, for all strengths of the penalty at once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from paceline.latency_models.model import Floats

HUBER = (0.35, 0.5, 0.7, 1.0, 1.345, 2.0, 3.0, float("inf"))
"""Where squares turn into absolute values, in standard deviations; 1.345 is the textbook's."""


@dataclass(frozen=True)
class Ridge:
    """`coef` (columns,) for the columns given; `errors` (rows,): measured minus what the model of the other rows says."""

    coef: Floats
    intercept: float
    strength: float
    factor: float
    errors: Floats


@dataclass(frozen=True)
class RidgeRows:
    """Standardised columns (rows, columns), targets (rows,), and the unit (rows,) in which each target's errors count.

    Columns that are `heavy` (columns,) are penalised `factor` times more than the others.
    """

    columns: Floats
    targets: Floats
    unit: Floats
    heavy: npt.NDArray[np.bool_]

    def best(self, weights: Floats, counts: Floats, strengths: Sequence[float], factors: Sequence[float], power: int) -> Ridge:
        """The fit of the rows weighted by `weights` with the least leave-one-out errors: to the `power`, weighted by `counts`."""
        if not self.heavy.any() or self.heavy.all():
            factors = factors[:1]
        fits = []
        for factor in factors:
            coefs, intercepts, errors = self._fits(weights, strengths, factor)
            scores = counts @ np.abs(errors / self.unit[:, None]) ** power
            i = int(np.argmin(scores))
            fits.append((float(scores[i]), Ridge(coefs[:, i], float(intercepts[i]), float(strengths[i]), factor, errors[:, i])))
        return min(fits, key=lambda fit: fit[0])[1]

    def _fits(self, weights: Floats, strengths: Sequence[float], factor: float) -> tuple[Floats, Floats, Floats]:
        """Coefficients (columns, strengths), intercepts (strengths,), leave-one-out errors (rows, strengths)."""
        root = np.sqrt(weights) / self.unit
        root /= np.linalg.norm(root)
        lighter = np.where(self.heavy, 1 / np.sqrt(factor), 1.0)
        center, middle = root**2 @ self.columns, float(root**2 @ self.targets)
        scaled = root[:, None] * (self.columns - center) * lighter
        values = root * (self.targets - middle)
        variances, directions = np.linalg.eigh(scaled.T @ scaled)
        turned = scaled @ directions
        inverse = 1 / (np.maximum(variances, 0)[:, None] + np.asarray(strengths))
        solutions = (turned.T @ values)[:, None] * inverse
        leverages = (root**2)[:, None] + turned**2 @ inverse  # the first term is the intercept's
        errors = (values[:, None] - turned @ solutions) / np.maximum(1 - leverages, 1e-12) / root[:, None]
        coefs = lighter[:, None] * (directions @ solutions)
        return coefs, middle - center @ coefs, errors


def huber_weights(errors: Floats, counts: Floats) -> tuple[Floats, float]:
    """Weights (rows,) of iterated least squares for Huber's loss, and its constant: of those in HUBER the most efficient one,
    by the ratio of E[psi^2] to E[psi']^2 (Huber 1964) over the `errors`, each counted `counts` times."""
    size = np.abs(errors) / max(weighted_median(np.abs(errors), counts) / 0.6745, 1e-300)
    variances = [
        np.average(np.minimum(size, c) ** 2, weights=counts) / np.average(size < c, weights=counts) ** 2
        if np.any(size < c)
        else np.inf
        for c in HUBER
    ]
    constant = HUBER[int(np.argmin(variances))]
    return np.minimum(1.0, constant / np.maximum(size, 1e-300)), constant


def weighted_median(values: Floats, weights: Floats) -> float:
    """The smallest value at or below which lies half of the weight."""
    order = np.argsort(values)
    cumulated = np.cumsum(weights[order])
    return float(values[order[np.searchsorted(cumulated, cumulated[-1] / 2)]])
