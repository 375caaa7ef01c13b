"""The ridge: exact where latencies add up, its leave-one-out errors those of real models, robust where a device has states."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from paceline.errors import LatencyModelError
from paceline.latency_models.model import Floats
from paceline.latency_models.regressors.linear import LinearRegressor, ProportionalRegressor
from paceline.latency_models.regressors.ridge import HUBER, RidgeRows, huber_weights


def networks(rows: int, layers: int = 22, options: int = 9, seed: int = 0) -> tuple[Floats, Floats]:
    """One-hot networks, and latencies that are sums over a table."""
    rng = np.random.default_rng(seed)
    x = (rng.integers(0, options, (rows, layers))[:, :, None] == np.arange(options)).reshape(rows, -1).astype(float)
    return x, 3 + x @ rng.uniform(0.1, 3, layers * options)


@pytest.mark.parametrize("robust", [False, True])
def test_a_table_is_recovered(robust: bool) -> None:
    x, y = networks(1900)
    model = LinearRegressor(relative=True, robust=robust).fit(x[:900], y[:900])
    assert model.predict(x[900:]) == pytest.approx(y[900:], rel=1e-5)
    assert np.abs(model.loo_).max() < 1e-5


@given(seed=st.integers(0, 10**6), layers=st.integers(1, 5), options=st.integers(2, 5), relative=st.booleans())
@settings(max_examples=25, deadline=None)
def test_any_table_is_recovered(seed: int, layers: int, options: int, relative: bool) -> None:
    x, y = networks(40 + 4 * layers * options, layers, options, seed)
    model = LinearRegressor(relative).fit(x, y)
    assert model.predict(x) == pytest.approx(y, rel=1e-5)


@given(seed=st.integers(0, 10**6), rows=st.integers(3, 30), columns=st.integers(1, 40))
@settings(max_examples=25, deadline=None)
def test_the_order_of_columns_does_not_matter(seed: int, rows: int, columns: int) -> None:
    rng = np.random.default_rng(seed)
    x, y, order = rng.standard_normal((rows, columns)), rng.uniform(1, 2, rows), rng.permutation(columns)
    one = LinearRegressor(True, strengths=(1e-3,)).fit(x, y)
    two = LinearRegressor(True, strengths=(1e-3,)).fit(x[:, order], y)
    assert two.predict(x[:, order]) == pytest.approx(one.predict(x), rel=1e-6)


def test_leave_one_out_errors_are_those_of_models_that_left_one_out() -> None:
    rng = np.random.default_rng(0)
    x, y, weights = rng.standard_normal((12, 20)), rng.uniform(1, 2, 12), rng.uniform(0.5, 2, 12)
    rows = RidgeRows(x, y, unit=y, heavy=np.arange(20) < 5)
    fit = rows.best(weights, weights, (1e-2,), (10.0,), 2)
    shares = weights / y**2 / np.sum(weights / y**2)
    for i in range(12):
        rest = np.arange(12) != i
        left = RidgeRows(x[rest], y[rest], y[rest], rows.heavy)
        without = left.best(weights[rest], weights[rest], (1e-2 / (1 - shares[i]),), (10.0,), 2)
        assert fit.errors[i] == pytest.approx(y[i] - (x[i] @ without.coef + without.intercept), rel=1e-6)


def test_more_columns_than_rows_and_constant_columns() -> None:
    x, y = networks(60)
    x = np.column_stack([x, np.full(60, 1e9)])
    model = LinearRegressor(relative=True).fit(x, y)
    assert np.all(np.isfinite(model.coef_))
    assert model.coef_[-1] == 0
    assert np.mean(np.abs(model.predict(x) / y - 1)) < np.std(y) / np.mean(y)


def test_a_row_without_weight_is_no_row() -> None:
    x, y = networks(60, layers=3)
    weights = np.arange(60) >= 20
    poisoned = np.where(weights, y, 1e6)
    with_weights = LinearRegressor(relative=True).fit(x, poisoned, weights)
    assert with_weights.predict(x) == pytest.approx(LinearRegressor(relative=True).fit(x[20:], y[20:]).predict(x))


def test_robust_where_a_third_of_the_rows_was_throttled() -> None:
    x, truth = networks(1400, layers=8)
    rng = np.random.default_rng(1)
    y = truth * np.exp(0.01 * rng.standard_normal(1400)) * np.where(rng.random(1400) < 0.3, 1.8, 1)
    plain, robust = (LinearRegressor(True, robust).fit(x[:400], y[:400]) for robust in (False, True))
    errors = [np.mean(np.abs(model.predict(x[400:]) / truth[400:] - 1)) for model in (plain, robust)]
    assert errors[1] < 0.2 * errors[0]
    assert robust.huber_ < 1.345
    assert np.isinf(plain.huber_)


def test_hubers_constant_follows_the_tails() -> None:
    rng = np.random.default_rng(0)
    every = np.ones(100_000)
    assert huber_weights(rng.standard_normal(100_000), every)[1] >= 3
    assert huber_weights(rng.laplace(size=100_000), every)[1] < 1
    weights, constant = huber_weights(np.array([0.1, -0.1, 0.1, -0.1, 50.0]), np.ones(5))
    assert constant in HUBER
    assert weights[4] < 0.02
    assert huber_weights(np.zeros(5), np.ones(5))[0].tolist() == [1.0] * 5


def test_indicators_yield_to_quantities_that_explain_more() -> None:
    x, _ = networks(400, layers=12)
    rng = np.random.default_rng(1)
    macs = x @ rng.uniform(0.1, 3, x.shape[1])
    y = macs * np.exp(0.1 * rng.standard_normal(400))
    both = np.column_stack([x, macs])
    chosen, fixed = (LinearRegressor(True, indicator_factors=f).fit(both[:130], y[:130]) for f in ((1.0, 100.0, 1e4), (1.0,)))
    errors = [np.mean(np.abs(model.predict(both[130:]) / macs[130:] - 1)) for model in (chosen, fixed)]
    assert chosen.indicator_factor_ > 1
    assert errors[0] < errors[1]


def test_logarithmic() -> None:
    x = np.random.default_rng(0).uniform(0, 3, (200, 3))
    y = np.exp(x @ np.array([1.0, -0.5, 2.0]))
    model = LinearRegressor(relative=True, logarithmic=True).fit(x, y)
    assert model.predict(x) == pytest.approx(y, rel=1e-6)
    with pytest.raises(LatencyModelError, match="relative=True"):
        LinearRegressor(logarithmic=True).fit(x, y)


def test_proportional_is_least_squares_of_relative_errors_on_its_column() -> None:
    rng = np.random.default_rng(0)
    x, y = rng.uniform(1, 5, (50, 3)), rng.uniform(1, 2, 50)
    model = ProportionalRegressor(relative=True, column=1).fit(x, y)
    expected = np.linalg.lstsq(np.column_stack([x[:, 1], np.ones(50)]) / y[:, None], np.ones(50), rcond=None)[0]
    assert [model.slope_, model.intercept_] == pytest.approx(expected)
    assert model.predict([[9.0, 2.0, 9.0]]) == pytest.approx(2 * expected[0] + expected[1])
    assert ProportionalRegressor().fit(np.ones((4, 1)), [1.0, 2, 3, 4]).predict([[1.0]]) == pytest.approx(2.5)
