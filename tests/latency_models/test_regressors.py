"""What all regressors keep: scikit-learn's contract, errors that name the row, the same figures in every process and file."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sklearn.utils.estimator_checks import parametrize_with_checks

from paceline.errors import LatencyModelError
from paceline.latency_models.model import Floats
from paceline.latency_models.regressors.conformal import ConformalRegressor
from paceline.latency_models.regressors.hybrid import HybridRegressor
from paceline.latency_models.regressors.linear import LinearRegressor, ProportionalRegressor
from paceline.latency_models.regressors.mlp import MlpRegressor
from paceline.latency_models.regressors.trees import TreesRegressor
from paceline.latency_models.saving import load, save

WEIGHTS = "check_sample_weight_equivalence_on_dense_data"
TWICE = "leaving out a row that counts twice leaves out both; the strength of the penalty, or the folds, depend on that"
EXPECTED = {
    LinearRegressor: {WEIGHTS: TWICE},
    HybridRegressor: {WEIGHTS: TWICE},
    TreesRegressor: {WEIGHTS: "each tree sees a random half of the rows"},
    MlpRegressor: {
        WEIGHTS: "rows come in random batches",
        "check_methods_subset_invariance": "products of float32 matrices round otherwise for another number of rows (1e-7)",
    },
}
QUICK = [
    LinearRegressor(),
    ProportionalRegressor(),
    TreesRegressor(n_estimators=20),
    MlpRegressor(epochs=20),
    HybridRegressor(epochs=20),
]


@parametrize_with_checks(QUICK, expected_failed_checks=lambda model: EXPECTED.get(type(model), {}))
def test_scikit_learn_contract(estimator: Any, check: Any) -> None:
    check(estimator)


def relative_models() -> list[Any]:
    return [
        LinearRegressor(relative=True),
        LinearRegressor(relative=True, robust=True),
        LinearRegressor(relative=True, logarithmic=True),
        ProportionalRegressor(relative=True),
        TreesRegressor(relative=True, n_estimators=10),
        MlpRegressor(relative=True, epochs=10),
        HybridRegressor(relative=True, epochs=10),
        ConformalRegressor(LinearRegressor(relative=True)),
    ]


def measured(rows: int = 120, seed: int = 0) -> tuple[Floats, Floats]:
    """Positive latencies with an interaction, from quantities and indicators."""
    rng = np.random.default_rng(seed)
    x = np.column_stack([rng.uniform(0, 2, (rows, 4)), rng.random((rows, 3)) < 0.4])
    return x, 1 + x @ np.array([1.0, 0.5, 2.0, 0.0, 0.3, 0.1, 0.0]) + 2 * x[:, 0] * x[:, 4]


@pytest.mark.parametrize("model", relative_models(), ids=str)
@pytest.mark.parametrize("poison", [0.0, -1.0, float("nan"), float("inf")])
def test_a_poisoned_target_is_named(model: Any, poison: float) -> None:
    x, y = measured()
    y[17] = poison
    with pytest.raises(LatencyModelError, match=rf"row 17 has the target {poison:g} \(1 of 120 rows"):
        model.fit(x, y)


@pytest.mark.parametrize("model", relative_models(), ids=str)
def test_a_file_predicts_the_same(model: Any, tmp_path: Path) -> None:
    x, y = measured()
    model.fit(x, y)
    save(model, tmp_path / "model")
    again = load(tmp_path / "model")
    assert np.array_equal(again.predict(x), model.predict(x))
    if isinstance(model, ConformalRegressor):
        assert np.array_equal(again.predict_interval(x).high, model.predict_interval(x).high)


@pytest.mark.parametrize("model", relative_models(), ids=str)
def test_relative_models_do_not_know_the_unit(model: Any) -> None:
    x, y = measured()
    ms = model.fit(x, y).predict(x)
    seconds = model.fit(x, y / 1024).predict(x)
    assert seconds * 1024 == pytest.approx(ms, rel=1e-3)
