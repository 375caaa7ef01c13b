"""Linear models: MACs alone, and one rate per operator kind for MACs, weights and activations."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Self

import numpy as np
from sklearn.linear_model import LinearRegression

from paceline.errors import LatencyModelError
from paceline.graph import OpSpec
from paceline.latency_models.additive import Additive
from paceline.latency_models.features import matrix
from paceline.latency_models.model import Floats, Network, Prediction, Row, single, whole


class MacsModel:
    """What everybody would use without a device: milliseconds proportional to MACs, plus a base. Fitted on whole networks."""

    name = "macs only"

    def __init__(self, confidence: float = 0.9) -> None:
        self.confidence = confidence

    def fit(self, rows: Sequence[Row]) -> Self:
        networks = whole(rows)
        if not networks:
            raise LatencyModelError("the MACs-only model needs measured whole networks")
        rate = float(np.median([row.ms / max(sum(spec.macs for spec in row.operators), 1) for row in networks]))
        self._additive = Additive(
            lambda operators: np.array([[spec.macs * rate] for spec in operators]).reshape(-1, 1), (1.0,), rows, self.confidence
        )
        return self

    def predict(self, networks: Sequence[Network]) -> Prediction:
        return self._additive.predict(networks)

    def operator_ms(self, operators: Sequence[OpSpec]) -> Floats:
        return self._additive.operator_ms(operators)

    @property
    def base_ms(self) -> float:
        return self._additive.base_ms


class LinearModel:
    """Per operator kind: a constant, and rates for MACs, bytes of weights and bytes of activations.

    Fitted on the operator rows (none negative), then shifted towards the networks. Raises LatencyModelError for an operator of a
    kind it has no row of.
    """

    name = "linear"

    def __init__(self, confidence: float = 0.9) -> None:
        self.confidence = confidence

    def fit(self, rows: Sequence[Row]) -> Self:
        operators = single(rows)
        if not operators:
            raise LatencyModelError("the linear model needs measured operators")
        self.kinds_ = sorted({row.operators[0].kind for row in operators})
        terms = self._terms([row.operators[0] for row in operators])
        ms = np.array([row.ms for row in operators])
        regression = LinearRegression(fit_intercept=False, positive=True)
        self.coef_ = regression.fit(terms / ms[:, None], np.ones(len(ms))).coef_  # least squares on relative errors
        self._additive = Additive(self._terms, self.coef_, rows, self.confidence)
        return self

    def _terms(self, operators: Sequence[OpSpec]) -> Floats:
        check_kinds(operators, self.kinds_, self.name)
        return matrix(operators, self.kinds_)[0]

    def predict(self, networks: Sequence[Network]) -> Prediction:
        return self._additive.predict(networks)

    def operator_ms(self, operators: Sequence[OpSpec]) -> Floats:
        return self._additive.operator_ms(operators)

    @property
    def base_ms(self) -> float:
        return self._additive.base_ms


def check_kinds(operators: Sequence[OpSpec], kinds: Sequence[str], model: str) -> None:
    """Raises LatencyModelError for an operator of another kind."""
    unknown = [spec for spec in operators if spec.kind not in kinds]
    if unknown:
        raise LatencyModelError(
            f"the {model} model never saw a {unknown[0].kind} ({unknown[0].key}); it knows {', '.join(kinds)}. "
            "Measure one and fit again."
        )
