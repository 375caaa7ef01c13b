"""The latency models by name: the default one, and those that it is compared with."""

from __future__ import annotations

from paceline.latency_models.costs.by_class import ByClassCost
from paceline.latency_models.costs.hybrid import HybridCost
from paceline.latency_models.costs.macs import MacsCost
from paceline.latency_models.costs.regressed import RegressedCost
from paceline.latency_models.costs.similar import SimilarCost
from paceline.latency_models.costs.table import TableCost
from paceline.latency_models.features import RateFeatures, ShapeFeatures
from paceline.latency_models.network_latency import NetworkLatency
from paceline.latency_models.regressors.linear import LinearRegressor
from paceline.latency_models.regressors.mlp import MlpRegressor
from paceline.latency_models.regressors.trees import TreesRegressor


def default_model(seed: int, confidence: float = 0.9, session_noise: float = 0.0) -> NetworkLatency:
    """Exact rows where there are any, what the rows let expect where there are none."""
    return NetworkLatency(
        HybridCost(ByClassCost(SimilarCost(random_state=seed))), residual=True, confidence=confidence, session_noise=session_noise
    )


def table_model(confidence: float = 0.9, session_noise: float = 0.0, strict: bool = False) -> NetworkLatency:
    """The lookup table. `strict` is for a space whose every operator was measured: an operator without a row is refused."""
    return NetworkLatency(TableCost(strict), folds=0 if strict else 5, confidence=confidence, session_noise=session_noise)


def macs_model(confidence: float = 0.9, folds: int = 5) -> NetworkLatency:
    """Multiply-accumulates alone."""
    return NetworkLatency(MacsCost(), folds=folds, overheads=False, confidence=confidence)


def compared_models(seed: int, folds: int = 5) -> list[NetworkLatency]:
    """What the default is compared with: regressions on shapes, and MACs alone. `folds` as in NetworkLatency."""
    costs = (
        _mlp(seed),
        RegressedCost(TreesRegressor(relative=True, random_state=seed), ShapeFeatures(), "trees"),
        RegressedCost(LinearRegressor(relative=True), RateFeatures(), "linear"),
    )
    return [*(NetworkLatency(cost, folds=folds) for cost in costs), macs_model(folds=folds)]


def _mlp(seed: int) -> RegressedCost:
    return RegressedCost(MlpRegressor(relative=True, random_state=seed), ShapeFeatures(), "mlp")
