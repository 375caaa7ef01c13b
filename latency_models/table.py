"""The lookup table: an operator costs what it was measured to cost."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Self

import numpy as np

from paceline.errors import LatencyModelError
from paceline.graph import OpSpec
from paceline.latency_models.additive import COST_PRIOR, Additive, cost_terms
from paceline.latency_models.model import Floats, Network, Prediction, Row, single


class LookupTable:
    """Exact rows, and what a whole network costs beyond their sum (fitted on the network rows; without any, the plain sum).

    `confidence` is that of the interval, `session_noise` how far measurements of one network in two sessions differ (relative,
    root mean square). Raises LatencyModelError for an operator without a row.
    """

    name = "table"

    def __init__(self, confidence: float = 0.9, session_noise: float = 0.0) -> None:
        self.confidence, self.session_noise = confidence, session_noise

    def fit(self, rows: Sequence[Row]) -> Self:
        self.rows_ = {row.operators[0]: row.ms for row in single(rows)}
        self._additive = Additive(cost_terms(self.cost), COST_PRIOR, rows, self.confidence, self.session_noise)
        return self

    def cost(self, operators: Sequence[OpSpec]) -> Floats:
        """The rows as measured."""
        missing = [spec for spec in operators if spec not in self.rows_]
        if missing:
            raise LatencyModelError(
                f"the table has no row for {missing[0].key} ({len(missing)} missing in all). "
                "Measure it with paceline.latency_models.collect and fit again"
            )
        return np.array([self.rows_[spec] for spec in operators], float)

    def predict(self, networks: Sequence[Network]) -> Prediction:
        return self._additive.predict(networks)

    def operator_ms(self, operators: Sequence[OpSpec]) -> Floats:
        return self._additive.operator_ms(operators)

    @property
    def base_ms(self) -> float:
        return self._additive.base_ms

    @property
    def margins(self) -> tuple[float, float]:
        """Relative distance from a prediction to the ends of its interval."""
        return self._additive.calibration.margins()
