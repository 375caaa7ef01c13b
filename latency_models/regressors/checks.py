"""What every regressor checks of the rows it is given."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
from sklearn.utils.validation import check_array, validate_data

from paceline.errors import LatencyModelError
from paceline.latency_models.model import Floats


def check_positive(y: npt.ArrayLike) -> None:
    """Raises LatencyModelError naming the first row whose target isn't positive and finite."""
    targets = np.asarray(y, dtype=np.float64)
    bad = np.flatnonzero(~(np.isfinite(targets) & (targets > 0)))
    if len(bad):
        raise LatencyModelError(
            f"row {bad[0]} has the target {targets.ravel()[bad[0]]:g} ({len(bad)} of {targets.size} rows are like this), but "
            "errors relative to a target need it positive and finite. Drop these rows, or measure them again"
        )


def checked_rows(
    estimator: Any, X: npt.ArrayLike, y: npt.ArrayLike, sample_weight: npt.ArrayLike | None
) -> tuple[Floats, Floats, Floats]:
    """Features (rows, features), targets (rows,) and weights (rows,) of the rows whose weight is not 0.

    Raises LatencyModelError naming the row where `estimator.relative` and a target isn't positive and finite, ValueError (by
    scikit-learn's conventions) for everything else that can't be learned from.
    """
    if estimator.relative:
        check_positive(y)
    features, targets = validate_data(estimator, X, y, dtype=np.float64, y_numeric=True, ensure_min_samples=2)
    targets = np.asarray(targets, dtype=np.float64)
    if sample_weight is None:
        return features, targets, np.ones(len(targets))
    weights = check_array(sample_weight, dtype=np.float64, ensure_2d=False, input_name="sample_weight")
    if weights.ndim == 0:
        weights = np.full(len(targets), float(weights))
    if weights.shape != targets.shape or np.any(weights < 0) or not np.any(weights > 0):
        raise ValueError(
            f"sample_weight {weights.shape} isn't one weight for each of {len(targets)} rows (none negative, not all zero)"
        )
    kept = weights > 0
    return features[kept], targets[kept], weights[kept]


def checked_features(estimator: Any, X: npt.ArrayLike) -> Floats:
    """Features (rows, features) as many as were learned from. Raises ValueError by scikit-learn's conventions."""
    return np.asarray(validate_data(estimator, X, dtype=np.float64, reset=False))


def standardisation(features: Floats, weights: Floats) -> tuple[Floats, Floats]:
    """Weighted mean and standard deviation of each column, (features,) each; infinite for a constant one, which says nothing."""
    shares = weights / weights.sum()
    mean = shares @ features
    scale = np.sqrt(shares @ (features - mean) ** 2)
    return mean, np.where(scale > 1e-9 * np.abs(mean), scale, np.inf)
