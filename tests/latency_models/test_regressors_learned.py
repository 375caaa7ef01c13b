"""Trees, networks, the hybrid and its intervals: the same figures by other means, and no residual where there is none."""

import numpy as np
import pytest
import torch
from sklearn.ensemble import GradientBoostingRegressor

from paceline.errors import LatencyModelError
from paceline.latency_models.metrics import coverage
from paceline.latency_models.model import Floats
from paceline.latency_models.regressors.conformal import ConformalRegressor
from paceline.latency_models.regressors.hybrid import HybridRegressor
from paceline.latency_models.regressors.linear import LinearRegressor, ProportionalRegressor
from paceline.latency_models.regressors.mlp import MlpRegressor
from paceline.latency_models.regressors.trees import TreesRegressor


def sample(rows: int, noise: float = 0.0, interaction: float = 1.0, seed: int = 0) -> tuple[Floats, Floats]:
    """Additive latencies, times exp(interaction * …) of two columns."""
    rng = np.random.default_rng(seed)
    x = rng.uniform(0, 1, (rows, 6))
    y = 2 + x @ np.array([1.0, 2.0, 0.5, 0.2, 0.0, 3.0])
    return x, y * np.exp(interaction * (x[:, 0] > 0.5) * x[:, 1] + noise * rng.standard_normal(rows))


def error(predicted: Floats, y: Floats) -> float:
    return float(np.mean(np.abs(predicted / y - 1)))


def test_trees_are_those_of_scikit_learn() -> None:
    x, y = sample(300, noise=0.1)
    model = TreesRegressor(relative=True, n_estimators=40, max_depth=4, random_state=3).fit(x, y)
    boosting = GradientBoostingRegressor(
        n_estimators=40, max_depth=4, learning_rate=0.06, subsample=0.5, max_features=0.3, min_samples_leaf=2, random_state=3
    ).fit(x, np.log(y))
    unseen = np.random.default_rng(1).uniform(-1, 2, (1000, 6))
    assert model.predict(unseen) == pytest.approx(np.exp(boosting.predict(unseen)), rel=1e-6)


def test_trees_of_one_leaf() -> None:
    model = TreesRegressor(n_estimators=3).fit(np.ones((5, 2)), np.arange(5.0))
    assert model.predict(np.ones((2, 2))) == pytest.approx(2.0, abs=0.5)


@pytest.mark.parametrize("model", [MlpRegressor(True, epochs=15), HybridRegressor(True, epochs=15)], ids=str)
def test_torch_predicts_the_same_and_has_gradients(model: MlpRegressor | HybridRegressor) -> None:
    x, y = sample(300)
    model.fit(x, y)
    if isinstance(model, HybridRegressor):
        assert model.kept_ > 0
    assert model.torch_predict(torch.tensor(x)).numpy() == pytest.approx(model.predict(x), rel=1e-6)
    point = torch.tensor(x[:5], requires_grad=True)
    model.torch_predict(point).sum().backward()
    assert point.grad is not None
    step = 1e-2
    for column in range(6):
        up, down = x[:5].copy(), x[:5].copy()
        up[:, column] += step
        down[:, column] -= step
        slopes = (model.predict(up) - model.predict(down)) / (2 * step)
        assert point.grad[:, column].numpy() == pytest.approx(slopes, rel=0.05, abs=0.05)


def test_mlp_learns_what_is_no_sum() -> None:
    x, y = sample(900)
    model, linear = MlpRegressor(True, epochs=60).fit(x[:600], y[:600]), LinearRegressor(True).fit(x[:600], y[:600])
    assert error(model.predict(x[600:]), y[600:]) < 0.5 * error(linear.predict(x[600:]), y[600:])


def test_held_out_predictions_did_not_see_their_row() -> None:
    rng = np.random.default_rng(0)
    x, y = rng.standard_normal((200, 20)), rng.standard_normal(200)  # noise: who predicts it has seen it
    model = MlpRegressor(epochs=60).fit(x, y)
    assert np.corrcoef(model.predict(x), y)[0, 1] > 0.8
    assert abs(np.corrcoef(model.held_out_, y)[0, 1]) < 0.25
    assert np.all(np.isnan(MlpRegressor(members=1, epochs=1).fit(x, y).held_out_))


def test_mlp_stands_constant_and_huge_columns() -> None:
    x, y = sample(100)
    x = np.column_stack([x * 1e9, np.full(100, 1e9)])
    model = MlpRegressor(True, epochs=20).fit(x, y)
    assert np.all(np.isfinite(model.predict(x)))
    other = x.copy()
    other[:, -1] = 0
    assert np.array_equal(model.predict(other), model.predict(x))  # a column that was constant says nothing


def test_hybrid_keeps_a_residual_that_helps() -> None:
    x, y = sample(900, noise=0.02)
    model = HybridRegressor(True, epochs=40).fit(x[:600], y[:600])
    trunk = LinearRegressor(True, robust=True).fit(x[:600], y[:600])
    assert model.kept_ >= 0.75
    assert error(model.predict(x[600:]), y[600:]) < 0.5 * error(trunk.predict(x[600:]), y[600:])
    assert error(model.held_out_, y[:600]) == pytest.approx(error(model.predict(x[600:]), y[600:]), rel=0.4)


@pytest.mark.parametrize("noise", [0.0, 0.1])
def test_hybrid_of_a_table_is_the_table(noise: float) -> None:
    x, y = sample(400, noise=noise, interaction=0)
    model = HybridRegressor(True, epochs=20).fit(x, y)
    assert model.kept_ == 0
    assert model.residual_ is None
    assert np.array_equal(model.predict(x), LinearRegressor(True, robust=True).fit(x, y).predict(x))


def test_hybrid_takes_the_trunk_that_fits() -> None:
    x, _ = sample(200)
    model = HybridRegressor(True, epochs=5).fit(x, np.exp(5 * x[:, 0] - 4 * x[:, 1]))
    assert model.trunk_.logarithmic
    assert not HybridRegressor(True, epochs=5).fit(x, 1 + 9 * x[:, 0]).trunk_.logarithmic


def test_hybrid_of_few_rows_and_of_plain_errors() -> None:
    x, y = sample(30)
    assert HybridRegressor(True).fit(x, y).kept_ == 0
    x, y = sample(400)
    plain = HybridRegressor(epochs=40).fit(x, y - 5)
    assert plain.kept_ > 0
    assert np.mean(np.abs(plain.predict(x) - (y - 5))) < 0.5 * np.mean(np.abs(plain.trunk_.predict(x) - (y - 5)))


def test_hybrid_of_nothing_but_zeros() -> None:
    x, _ = sample(60)
    assert HybridRegressor(epochs=4).fit(x, np.zeros(60)).predict(x).tolist() == [0.0] * 60


def test_hybrid_never_predicts_below_its_floor() -> None:
    x = np.linspace(0, 1, 20)[:, None]
    model = HybridRegressor(True).fit(x, 1 + 10 * x[:, 0])
    assert model.predict([[-5.0]])[0] >= 0.1


def noisy(rows: int, seed: int) -> tuple[Floats, Floats]:
    """Errors grow tenfold along the last column."""
    x, y = sample(rows, interaction=0, seed=seed)
    return x, y * np.exp(0.01 * 10 ** x[:, 5] * np.random.default_rng(seed + 1).standard_normal(rows))


@pytest.mark.parametrize("confidence", [0.5, 0.9])
def test_intervals_cover_what_they_say(confidence: float) -> None:
    covered, wide = [], []
    for seed in range(4):
        x, y = noisy(1300, seed)
        model = ConformalRegressor(LinearRegressor(True), confidence).fit(x[:300], y[:300])
        found = model.predict_interval(x[300:])
        covered.append(coverage(found.low, found.high, y[300:]))
        hard = x[300:, 5] > 0.8
        wide.append(np.mean((found.high / found.ms)[hard] - 1) / np.mean((found.high / found.ms)[x[300:, 5] < 0.2] - 1))
        covered.append(coverage(found.low[hard], found.high[hard], y[300:][hard]))
    assert np.mean(covered[::2]) == pytest.approx(confidence, abs=0.03)
    assert np.mean(covered[1::2]) == pytest.approx(confidence, abs=0.1)  # where it is hard, too
    assert min(wide) > 2.5


def test_intervals_and_chances_agree() -> None:
    x, y = noisy(400, 0)
    found = ConformalRegressor(LinearRegressor(True), 0.8).fit(x, y).predict_interval(x)
    chances = [found.chance(limit)[i] for i, limit in enumerate(found.high)]
    assert np.array(chances) == pytest.approx(0.9, abs=0.01)
    assert np.all(found.low < found.ms)
    assert np.all(found.ms < found.high)


def test_intervals_of_few_rows_are_the_extremes() -> None:
    x, y = noisy(6, 0)
    model = ConformalRegressor(ProportionalRegressor(True, column=5), 0.99).fit(x, y)
    found = model.predict_interval(x)
    assert found.high == pytest.approx(found.ms * (1 + found.difficulty * model.errors_[-1]))


def test_a_prediction_that_is_no_latency_is_refused() -> None:
    x = np.array([[0.0], [1.0], [2.0], [3.0], [4.0], [5.0]])
    with pytest.raises(LatencyModelError, match="no latency"):
        ConformalRegressor(ProportionalRegressor()).fit(x, np.exp(3 * x[:, 0]))


def test_the_default_is_the_hybrid() -> None:
    x, y = sample(40)
    assert isinstance(ConformalRegressor(folds=3).fit(x, y).regressor_, HybridRegressor)
