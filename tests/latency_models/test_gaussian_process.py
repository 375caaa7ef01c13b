"""Gaussian processes over operators and over networks."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.gaussian_process import GaussianProcessRegressor as Reference
from sklearn.gaussian_process.kernels import ConstantKernel, Matern, WhiteKernel
from sklearn.utils.estimator_checks import parametrize_with_checks

from paceline.errors import LatencyModelError
from paceline.graph import OpSpec
from paceline.latency_models.network_residual import NetworkResidual, part_of, parts
from paceline.latency_models.regressors.gaussian_process import GaussianProcessRegressor
from paceline.latency_models.regressors.kernel import Kernel, same
from paceline.latency_models.saving import load, save

_UNEQUAL = {"check_sample_weight_equivalence_on_dense_data": "two rows have two nuggets, one row of weight 2 has one"}


def _rows(count: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Features and a label, targets, weights."""
    rng = np.random.default_rng(seed)
    X = np.column_stack([rng.normal(size=(count, 3)), rng.integers(0, 3, count)])
    y = np.exp(np.sin(X[:, 0]) + 0.3 * X[:, 1] + 0.4 * X[:, 3] + 0.02 * rng.normal(size=count))
    return X, y, rng.integers(1, 4, count).astype(float)


@parametrize_with_checks([GaussianProcessRegressor()], expected_failed_checks=lambda estimator: _UNEQUAL)  # type: ignore[untyped-decorator]
def test_it_is_a_scikit_learn_estimator(estimator: GaussianProcessRegressor, check: object) -> None:
    check(estimator)  # type: ignore[operator]


def test_it_predicts_what_scikit_learn_does_with_the_same_kernel() -> None:
    X, y, _ = _rows(60)
    X = X[:, :3]
    kernel = Kernel((1.5, 2.0, 3.0), (1.0,) * 3, (1e6,) * 3, 0.7, 0.0, 0.0, 0.0, constant=0.0, noise=0.01, nugget=0.0)
    reference = Reference(ConstantKernel(0.7) * Matern((1.5, 2.0, 3.0), nu=1.5) + WhiteKernel(0.01 + 1e-6), optimizer=None)
    reference.fit(X[:40], np.log(y[:40]) - np.log(y[:40]).mean())
    mean, sd = reference.predict(X[40:], return_std=True)
    ours, our_sd = GaussianProcessRegressor(relative=True, kernel=kernel).fit(X[:40], y[:40]).predict_sd(X[40:])
    assert ours == pytest.approx(np.exp(mean + np.log(y[:40]).mean()))
    assert our_sd == pytest.approx(np.sqrt(sd**2 - 0.01), rel=1e-3)  # of the latency, not of a measurement of it


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 1000))
def test_the_gradient_of_the_likelihood_is_its_slope(seed: int) -> None:
    X, y, weights = _rows(25, seed)
    features, targets = X[:, :3] - X[:, :3].mean(axis=0), np.log(y) - np.log(y).mean()
    kernel, alike = Kernel.of_columns(features), same(X[:, 3], X[:, 3])
    logs = kernel._logs()
    _, gradient = kernel.surprise(features, targets, weights, alike)
    for i, step in enumerate(1e-4 * np.eye(len(logs))):
        up, down = (kernel._of(logs + sign * step).surprise(features, targets, weights, alike)[0] for sign in (1, -1))
        assert gradient[i] == pytest.approx((up - down) / 2e-4, rel=1e-3, abs=2e-3)


def test_rows_left_out_are_predicted_as_if_never_seen() -> None:
    X, y, weights = _rows(50)
    kernel = Kernel.of_columns(X[:, :3])
    model = GaussianProcessRegressor(kernel=kernel, labelled=True, relative=True).fit(X, y, weights)
    fewer = GaussianProcessRegressor(kernel=kernel, labelled=True, relative=True).fit(X[8:], y[8:], weights[8:])
    without = model.without(range(8))
    assert without.predict(X) == pytest.approx(fewer.predict(X), rel=1e-2)  # but for the mean, which saw all rows
    assert without.predict_sd(X)[1] == pytest.approx(fewer.predict_sd(X)[1], rel=2e-2, abs=1e-4)
    assert without.without(range(8, 16)).predict(X) == pytest.approx(model.without(range(16)).predict(X))
    assert model.held_out()[3] == pytest.approx(model.without([3]).predict(X[3:4])[0])
    assert model.without([]).predict(X) == pytest.approx(model.predict(X))


def test_refining_makes_rows_likelier_and_new_ones_better_known() -> None:
    rng = np.random.default_rng(0)
    X = rng.normal(size=(200, 6))
    y = np.exp(np.sin(3 * X[:, 0]))  # the other five columns say nothing
    plain = GaussianProcessRegressor(relative=True).fit(X[:120], y[:120])
    refined = GaussianProcessRegressor(relative=True, refine=30, trust=0.05).fit(X[:120], y[:120])
    values, alike = np.log(y[:120]) - np.log(y[:120]).mean(), np.ones((120, 120))
    before, after = (m.kernel_.surprise(m.features_, values, np.ones(120), alike)[0] for m in (plain, refined))
    assert after < before - 10
    errors = [float(np.abs(np.log(m.predict(X[120:]) / y[120:])).mean()) for m in (plain, refined)]
    assert errors[1] < 0.5 * errors[0]


def test_only_some_of_many_rows_are_learned_from() -> None:
    X, y, weights = _rows(80)
    model = GaussianProcessRegressor(labelled=True, max_rows=30, random_state=1).fit(X, y, weights)
    assert len(model.solved_) == 30
    assert model.predict(X[model.rows_]) == pytest.approx(y[model.rows_], rel=0.3)
    assert len(model.without(model.rows_[:5]).solved_) == 25


def test_a_target_that_is_no_latency_is_named() -> None:
    X, y, _ = _rows(10)
    y[4] = 0.0
    with pytest.raises(LatencyModelError, match="row 4"):
        GaussianProcessRegressor(relative=True).fit(X, y)


def test_a_saved_process_predicts_the_same(tmp_path: Path) -> None:
    X, y, weights = _rows(40)
    model = GaussianProcessRegressor(relative=True, labelled=True, refine=5).fit(X, y, weights)
    save(model, tmp_path / "model.zip")
    loaded = load(tmp_path / "model.zip")
    assert np.array_equal(loaded.predict(X), model.predict(X))
    assert loaded.predict_sd(X)[1] == pytest.approx(model.predict_sd(X)[1])


def _networks(count: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Sums of parts (number of operators, MACs, milliseconds of two kinds), and what they add up to."""
    rng = np.random.default_rng(seed)
    first, second = rng.uniform(1, 10, (2, count))
    return np.column_stack([rng.integers(10, 100, count), 1e8 * first, first, second]), first + second


def test_networks_of_like_parts_are_off_by_like_factors() -> None:
    sums, ms = _networks(120, seed=0)
    real = ms * np.where(sums[:, 2] > sums[:, 3], 1.05, 0.97)
    residual = NetworkResidual().fit(sums[:90], ms[:90], real[:90])
    before, after = (np.abs(said / real[90:] - 1).mean() for said in (ms[90:], ms[90:] * residual.factors(sums[90:], ms[90:])))
    assert after < 0.4 * before
    assert residual.held_out_ == pytest.approx(real[:90] / ms[:90], abs=0.06)


def test_noise_is_not_taken_for_a_residual() -> None:
    kept = 0
    for seed in range(5):
        sums, ms = _networks(90, seed)
        real = ms * np.exp(0.03 * np.random.default_rng(seed).normal(size=90))
        residual = NetworkResidual().fit(sums, ms, real)
        kept += residual.process_ is not None
        assert residual.factors(sums, ms) == pytest.approx(np.ones(90), abs=0.06)
    assert kept <= 1


def test_few_networks_have_no_residual() -> None:
    sums, ms = _networks(9, seed=0)
    assert NetworkResidual().fit(sums, ms, 1.1 * ms).factors(sums, ms).tolist() == [1.0] * 9


def test_convolutions_count_by_the_kernels_that_gpus_have_for_them() -> None:
    keys = {
        "CONV_2D 1x1x1x64 @16x1x1x64 @16 -> 1x1x1x16 stride=(1,1)": "FULLY_CONNECTED",
        "CONV_2D 1x8x8x64 @16x1x1x64 @16 -> 1x8x8x16 stride=(1,1)": "CONV_2D 1x1",
        "CONV_2D 1x8x8x64 @64x3x3x8 @64 -> 1x8x8x64 stride=(1,1)": "CONV_2D grouped",
        "CONV_2D 1x8x8x64 @64x3x3x64 @64 -> 1x8x8x64 stride=(1,1)": "CONV_2D",
        "PAD 1x8x8x64 -> 1x9x9x64": "PAD",
    }
    specs = [OpSpec.parse(key) for key in keys]
    assert [part_of(spec) for spec in specs] == list(keys.values())
    found = parts(specs, np.arange(5.0), ["CONV_2D 1x1", "PAD"])
    assert found.tolist() == [[1, s.macs, 1.0 * (i == 1), 4.0 * (i == 4)] for i, s in enumerate(specs)]
