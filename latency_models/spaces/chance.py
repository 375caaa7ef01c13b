"""Limits that are kept with a chance: the constraint P(latency <= limit) >= p of a search."""

from __future__ import annotations

import math

import numpy as np

from paceline.errors import LatencyModelError
from paceline.latency_models.model import Floats, Prediction


def highest_chance(prediction: Prediction) -> float:
    """The most that `Prediction.chance` ever says: one held-out error more than there are could always be larger."""
    n = len(prediction.errors)
    return n / (n + 1) if n else 1.0


def kept_ms(prediction: Prediction, chance: float) -> Floats:
    """The milliseconds that each network keeps with that chance: the smallest `limit` with `prediction.chance(limit) >= chance`.

    Shape (networks,). Raises LatencyModelError for a chance that the model's held-out errors are too few to show.
    """
    n = len(prediction.errors)
    if not 0 < chance < 1:
        raise LatencyModelError(f"a chance lies between 0 and 1, got {chance}")
    if n == 0:
        return prediction.ms
    rank = math.ceil(chance * (n + 1) - 1e-9)
    if rank > n:
        needed = math.ceil(chance / (1 - chance) - 1e-9)
        raise LatencyModelError(
            f"a chance of {chance:.1%} can't be shown by {n} held-out errors, at most {highest_chance(prediction):.1%}; "
            f"calibrate on {needed} measured networks or more, or ask for less"
        )
    return np.asarray(prediction.ms * (1 + prediction.errors[rank - 1] * prediction.difficulty))
