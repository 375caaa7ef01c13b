"""Transfer on devices whose truth is known: costs of eight operators, other for each device."""

from pathlib import Path

import numpy as np
import pytest
from sklearn.base import clone

from paceline.errors import LatencyModelError
from paceline.latency_models.metrics import coverage
from paceline.latency_models.model import Floats
from paceline.latency_models.regressors.linear import LinearRegressor
from paceline.latency_models.saving import load, save
from paceline.latency_models.transfer.choice import choose
from paceline.latency_models.transfer.prior import DevicePrior, KnownDevice, device_prior
from paceline.latency_models.transfer.transfer import TransferRegressor

COSTS = np.random.default_rng(1).uniform(0.1, 3.0, (6, 8))
NEW = 0.5 * COSTS[0] + 0.5 * COSTS[2]  # like some known devices, but none of them


def architectures(count: int, seed: int) -> Floats:
    """How many there are of eight operators, and a few indicators that mean nothing."""
    rng = np.random.default_rng(seed)
    return np.column_stack([rng.integers(0, 4, (count, 8)), rng.integers(0, 2, (count, 4))]).astype(np.float64)


def latency(X: Floats, costs: Floats, noise: float = 0.0, seed: int = 0) -> Floats:
    exact = 20.0 * (1.0 + X[:, :8] @ costs)
    return np.asarray(exact * np.exp(noise * np.random.default_rng(seed).standard_normal(len(X))))


def known(noise: float = 0.02) -> list[KnownDevice]:
    devices = []
    for i, costs in enumerate(COSTS):
        X = architectures(120 + i, i)  # each device measured others
        devices.append(KnownDevice(f"phone {i}", X, latency(X, costs, noise, i) * (i + 1)))
    return devices


@pytest.fixture(scope="module")
def prior() -> DevicePrior:
    return device_prior(known())


POOL = architectures(150, 10)
TEST = architectures(400, 11)


def error(model: TransferRegressor | LinearRegressor, costs: Floats = NEW) -> float:
    truth = latency(TEST, costs)
    return float(np.mean(np.abs(model.predict(TEST) / truth - 1)))


def test_five_chosen_measurements_are_worth_many_random_ones(prior: DevicePrior) -> None:
    ms = latency(POOL, NEW, noise=0.02, seed=5)
    picks = choose(prior, POOL, 5)
    few = error(TransferRegressor(prior).fit(POOL[picks], ms[picks]))
    rng = np.random.default_rng(0)
    randomly = []
    for _ in range(10):
        rows = rng.permutation(len(POOL))[:5]
        randomly.append(error(TransferRegressor(prior).fit(POOL[rows], ms[rows])))
    alone = error(LinearRegressor().fit(POOL[picks], ms[picks]))
    assert few < 0.03
    assert few < np.mean(randomly)
    assert few < 0.5 * alone


def test_error_falls_with_measurements(prior: DevicePrior) -> None:
    odd = np.array([0.1, 0.1, 0.1, 6.0] * 2)  # unlike all known devices
    ms = latency(POOL, odd, noise=0.02, seed=5)
    picks = choose(prior, POOL, 45)
    errors = [error(TransferRegressor(prior).fit(POOL[picks[:k]], ms[picks[:k]]), odd) for k in (3, 12, 45)]
    assert errors[0] > errors[1] > errors[2]
    assert errors[2] < 0.02


def test_no_worse_than_the_device_alone_where_known_devices_mislead() -> None:
    X = architectures(240, 3)
    bent = latency(X, NEW) * np.exp(0.8 * (X[:, 8] != X[:, 9]) * X[:, 10])  # there is nothing of the kind on any known device
    prior = device_prior(known())
    model = TransferRegressor(prior).fit(X[:180], bent[:180])
    table = LinearRegressor().fit(X[:180], bent[:180])
    wrong, wrong_table = (np.mean(np.abs(m.predict(X[180:]) / bent[180:] - 1)) for m in (model, table))
    assert model.kept_ > 0
    assert wrong < wrong_table


@pytest.mark.parametrize(("k", "least"), [(6, 0.7), (40, 0.84)])
def test_intervals_cover(prior: DevicePrior, k: int, least: float) -> None:
    picks = choose(prior, POOL, k)
    covered = []
    for seed in range(6):
        costs = NEW * np.random.default_rng(seed).uniform(0.7, 1.4, 8)
        ms = latency(POOL, costs, 0.05, seed)
        found = TransferRegressor(prior).fit(POOL[picks], ms[picks]).predict_interval(TEST)
        assert np.all(found.low < found.ms)
        assert np.all(found.ms < found.high)
        covered.append(coverage(found.low, found.high, latency(TEST, costs, 0.05, seed + 100)))
    assert least < np.mean(covered) < 0.99


def test_chance_of_a_limit(prior: DevicePrior) -> None:
    picks = choose(prior, POOL, 30)
    found = TransferRegressor(prior).fit(POOL[picks], latency(POOL, NEW, 0.03)[picks]).predict_interval(TEST)
    middle = float(np.median(found.ms))
    chance = found.chance(middle)
    assert np.all(chance[found.ms < 0.7 * middle] > 0.9)
    assert np.all(chance[found.ms > 1.4 * middle] < 0.1)


def test_unit_of_time_does_not_matter(prior: DevicePrior) -> None:
    ms = latency(POOL, NEW, 0.02)[:25]
    model = TransferRegressor(prior).fit(POOL[:25], ms)
    scaled = TransferRegressor(prior).fit(POOL[:25], 1000 * ms)
    np.testing.assert_allclose(scaled.predict(TEST), 1000 * model.predict(TEST), rtol=1e-6)
    np.testing.assert_allclose(scaled.held_out_, model.held_out_, rtol=1e-6, atol=1e-9)


def test_held_out_errors_are_those_of_models_without_the_row() -> None:
    one = device_prior(known()[:2], settings=[s for s in device_prior(known()).settings if s.noise == 0.06][:1])
    X, ms = POOL[:9], latency(POOL[:9], NEW, 0.05)
    model = TransferRegressor(one).fit(X, ms)
    left_out = []
    for row in range(len(X)):
        rest = np.arange(len(X)) != row
        left_out.append(ms[row] / TransferRegressor(one).fit(X[rest], ms[rest]).predict(X[row : row + 1])[0] - 1)
    np.testing.assert_allclose(model.held_out_, left_out, rtol=1e-8)


def test_saved_and_loaded(prior: DevicePrior, tmp_path: Path) -> None:
    model = TransferRegressor(prior).fit(POOL[:30], latency(POOL, NEW, 0.02)[:30])
    save(model, tmp_path / "model.zip")
    again = load(tmp_path / "model.zip")
    np.testing.assert_array_equal(again.predict(TEST), model.predict(TEST))
    np.testing.assert_array_equal(again.predict_interval(TEST).high, model.predict_interval(TEST).high)


def test_a_clone_is_not_fitted_but_keeps_what_is_known(prior: DevicePrior) -> None:
    model = TransferRegressor(prior, confidence=0.8).fit(POOL[:8], latency(POOL, NEW)[:8])
    copy = clone(model)
    assert not hasattr(copy, "X_")
    assert copy.confidence == 0.8
    np.testing.assert_allclose(copy.fit(POOL[:8], latency(POOL, NEW)[:8]).predict(TEST), model.predict(TEST))


@pytest.mark.parametrize("bad", [0.0, -1.0, np.nan, np.inf])
def test_latencies_that_are_none(prior: DevicePrior, bad: float) -> None:
    ms = latency(POOL[:8], NEW)
    ms[3] = bad
    with pytest.raises(LatencyModelError, match="row 3"):
        TransferRegressor(prior).fit(POOL[:8], ms)
    devices = known()
    devices[1].ms[7] = bad
    with pytest.raises(LatencyModelError, match="phone 1: row 7"):
        device_prior(devices)


def test_known_devices_that_do_not_fit_together() -> None:
    with pytest.raises(LatencyModelError, match="no known device"):
        device_prior([])
    with pytest.raises(LatencyModelError, match="different names"):
        device_prior([known()[0], known()[0]])
    narrow = KnownDevice("other", POOL[:, :5], latency(POOL, NEW))
    with pytest.raises(LatencyModelError, match="other"):
        device_prior([known()[0], narrow])


def test_one_known_device_is_enough() -> None:
    one = device_prior(known()[:1])
    ms = latency(POOL, COSTS[0])
    assert error(TransferRegressor(one).fit(POOL[:5], 3 * ms[:5]), COSTS[0]) == pytest.approx(2, abs=0.1)  # three times as slow
