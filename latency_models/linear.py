"""Linear models: MACs alone, and rates per group of operators for MACs, weights and activations."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Self

import numpy as np
from sklearn.linear_model import LinearRegression

from paceline.errors import LatencyModelError
from paceline.graph import OpSpec
from paceline.latency_models.additive import COST_PRIOR, Additive, cost_terms
from paceline.latency_models.features import group_of, linear_matrix
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
    """Per group of operators (kind, window, stride): a constant, and rates for MACs, bytes of weights and bytes of activations.

    Fitted on the operator rows (none negative), then shifted towards the networks. Raises LatencyModelError for an operator of a
    group it has no row of.
    """

    name = "linear"

    def __init__(self, confidence: float = 0.9) -> None:
        self.confidence = confidence

    def fit(self, rows: Sequence[Row]) -> Self:
        operators = single(rows)
        if not operators:
            raise LatencyModelError("the linear model needs measured operators")
        self.groups_ = sorted({group_of(row.operators[0]) for row in operators})
        terms = self._terms([row.operators[0] for row in operators])
        ms = np.array([row.ms for row in operators])
        regression = LinearRegression(fit_intercept=False, positive=True)
        self.coef_ = regression.fit(terms / ms[:, None], np.ones(len(ms))).coef_  # least squares on relative errors
        self._additive = Additive(cost_terms(self.cost), COST_PRIOR, rows, self.confidence)
        return self

    def cost(self, operators: Sequence[OpSpec]) -> Floats:
        """Milliseconds of each operator alone, shape (operators,)."""
        return np.asarray(self._terms(operators) @ self.coef_)

    def _terms(self, operators: Sequence[OpSpec]) -> Floats:
        check_known(operators, self.groups_, group_of, self.name)
        return linear_matrix(operators, self.groups_)

    def predict(self, networks: Sequence[Network]) -> Prediction:
        return self._additive.predict(networks)

    def operator_ms(self, operators: Sequence[OpSpec]) -> Floats:
        return self._additive.operator_ms(operators)

    @property
    def base_ms(self) -> float:
        return self._additive.base_ms


def check_known(operators: Sequence[OpSpec], known: Sequence[str], group: Callable[[OpSpec], str], model: str) -> None:
    """Raises LatencyModelError for an operator of a group that is not among the `known`."""
    for spec in operators:
        if group(spec) not in known:
            raise LatencyModelError(
                f"the {model} model never saw a {group(spec)} ({spec.key}); it knows {', '.join(known)}. "
                "Measure one and fit again."
            )
