"""What a regressor is: scikit-learn's conventions, for milliseconds."""

from __future__ import annotations

from typing import Protocol, Self

import numpy.typing as npt

from paceline.latency_models.model import Floats


class Regressor(Protocol):
    """An estimator by scikit-learn's conventions: settings as constructor parameters, `clone`, what was learned ends with `_`.

    `relative` is a setting of each: errors count relative to the target, which must be positive then. What was learned is plain
    (numbers, texts, arrays, tuples, dicts, other estimators of this package), so that `paceline.latency_models.saving` keeps it.
    """

    def fit(self, X: npt.ArrayLike, y: npt.ArrayLike, sample_weight: npt.ArrayLike | None = None) -> Self:
        """`X` has shape (rows, features), `y` milliseconds, shape (rows,)."""

    def predict(self, X: npt.ArrayLike) -> Floats:
        """Shape (rows,)."""
