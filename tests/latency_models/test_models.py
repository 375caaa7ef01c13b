"""Latency models on a device whose truth is known: costs of operators that add up, with an overhead per network."""

from collections.abc import Sequence

import numpy as np
import pytest

from paceline.errors import LatencyModelError
from paceline.graph import OpSpec
from paceline.latency_models.calibration import Errors, _ridge, errors_of, fitted_scale
from paceline.latency_models.defaults import compared_models, default_model, table_model
from paceline.latency_models.metrics import accuracy_of, coverage
from paceline.latency_models.model import Floats, Row
from paceline.latency_models.network_latency import NetworkLatency
from paceline.latency_models.testing import LatencyModelTestSuite, truth

from samples import conv

SPECS = [conv(s, c, 2 * c, k) for s in (8, 16, 24) for c in (8, 16, 32) for k in (1, 3)]
SPECS += [conv(s, c, c, k, depthwise=True) for s in (8, 16, 24) for c in (16, 48) for k in (3, 5)]


def networks(count: int, seed: int) -> list[tuple[OpSpec, ...]]:
    rng = np.random.default_rng(seed)
    return [tuple(SPECS[i] for i in rng.integers(0, len(SPECS), rng.integers(5, 25))) for _ in range(count)]


def rows(count: int = 40, noise: float = 0.0) -> list[Row]:
    rng = np.random.default_rng(1)
    every = [(spec,) for spec in SPECS] + networks(count, 2)
    return [Row(ops, truth(ops) * float(np.exp(noise * rng.standard_normal()))) for ops in every]


class TestTable(LatencyModelTestSuite):
    tolerance = 0.02

    @pytest.fixture
    def model(self) -> NetworkLatency:
        return table_model(strict=True)

    @pytest.fixture
    def rows(self) -> list[Row]:
        return rows()

    @pytest.fixture
    def unseen(self) -> Sequence[tuple[OpSpec, ...]]:
        return networks(30, 3)


class TestInterpolatedTable(TestTable):
    @pytest.fixture
    def model(self) -> NetworkLatency:
        return table_model()


class TestDefault(TestTable):
    additive = False

    @pytest.fixture
    def model(self) -> NetworkLatency:
        return default_model(0)


class TestMlp(TestTable):
    tolerance = 0.05

    @pytest.fixture
    def model(self) -> NetworkLatency:
        return named("mlp")


class TestTrees(TestTable):
    tolerance = 0.07

    @pytest.fixture
    def model(self) -> NetworkLatency:
        return named("trees")


class TestLinear(TestTable):
    tolerance = 0.05

    @pytest.fixture
    def model(self) -> NetworkLatency:
        return named("linear")


class TestMacs(TestTable):
    tolerance = 1.0

    @pytest.fixture
    def model(self) -> NetworkLatency:
        return named("macs only")


def named(name: str, seed: int = 0) -> NetworkLatency:
    return next(model for model in compared_models(seed) if model.name == name)


def test_without_networks_the_table_is_the_plain_sum() -> None:
    table = table_model(strict=True).fit([Row((spec,), float(i + 1)) for i, spec in enumerate(SPECS)])
    found = table.predict([SPECS[:3]])
    assert found.ms[0] == pytest.approx(1 + 2 + 3, rel=1e-12)
    assert (found.low[0], found.high[0]) == (found.ms[0], found.ms[0])


def test_a_missing_row_is_named_with_the_command_that_measures_it() -> None:
    table = table_model(strict=True).fit(rows())
    with pytest.raises(LatencyModelError, match=r"no row for CONV_2D 1x9x9x3 .*2 missing.*paceline"):
        table.predict([[conv(9, 3, 8, 3), conv(10, 3, 8, 3)]])


def test_an_operator_of_a_kind_without_rows_is_guessed_and_marked() -> None:
    relu = OpSpec("RELU", SPECS[0].inputs[:1], SPECS[0].inputs[:1])
    for model in (default_model(0), table_model(), named("linear"), named("mlp")):
        model.fit(rows())
        assert model.sources([relu]) == ["unknown"]
        assert 0 <= model.cost_.predict([relu])[0] < 0.1
        assert model.predict([[SPECS[0], relu]]).ms[0] < 3 * model.predict([[SPECS[0], SPECS[0]]]).ms[0]


def test_fitting_without_rows_says_what_is_missing() -> None:
    for model in (default_model(0), table_model(), named("linear")):
        with pytest.raises(LatencyModelError, match="needs measured operators"):
            model.fit(rows()[len(SPECS) :])
    with pytest.raises(LatencyModelError, match="needs measured networks"):
        named("macs only").fit([])


@pytest.mark.parametrize("name", ["mlp", "trees"])
def test_the_same_seed_gives_the_same_model(name: str) -> None:
    one, two, other = (named(name, seed).fit(rows()).predict(networks(3, 9)).ms for seed in (0, 0, 1))
    assert (one == two).all()
    assert (one != other).any()


@pytest.mark.parametrize("name", ["mlp", "trees", "linear"])
def test_operators_without_a_row_are_judged(name: str) -> None:
    held_out = [spec for i, spec in enumerate(SPECS) if i % 5 == 0]
    known = [row for row in rows() if len(row.operators) == 1 and row.operators[0] not in held_out]
    found = named(name).fit(known).predict_operators(held_out)
    real = np.array([truth((spec,)) for spec in held_out])
    assert np.median(np.abs(found.ms / real - 1)) < 0.25


def calibrated(terms: Floats, ms: Floats, noise: float = 0.0) -> tuple[Floats, Errors]:
    scale, held_out = fitted_scale(terms, terms, ms, np.array([1.0, 0.0]))
    return scale, errors_of(ms, held_out, np.zeros(len(ms)), 0.9, noise)


def test_the_interval_covers_what_it_says() -> None:
    """Over many calibrations: new measurements fall inside about as often as the confidence says."""
    inside = []
    for seed in range(40):
        rng = np.random.default_rng(seed)
        terms = np.column_stack([rng.uniform(0.5, 3.0, 140), np.ones(140)])
        ms = terms @ [1.1, 0.2] * np.exp(0.03 * rng.standard_normal(140))
        scale, errors = calibrated(terms[:40], ms[:40])
        found = errors.around(terms[40:] @ scale, np.zeros(100))
        inside.append(coverage(found.low, found.high, ms[40:]))
    assert 0.87 <= np.mean(inside) <= 0.97


def test_session_noise_widens_the_interval() -> None:
    """A measurement in another session differs by the residual and by the sessions' difference, as independent errors do."""
    inside = []
    for seed in range(40):
        rng = np.random.default_rng(seed)
        terms = np.column_stack([rng.uniform(0.5, 3.0, 240), np.ones(240)])
        ms = terms @ [1.1, 0.2] * np.exp(0.02 * rng.standard_normal(240))
        other_session = ms * np.exp(0.03 * rng.standard_normal(240))
        scale, errors = calibrated(terms[:40], ms[:40])
        _, wider = calibrated(terms[:40], ms[:40], 0.03)
        narrow, wide = (e.around(terms[40:] @ scale, np.zeros(200)) for e in (errors, wider))
        assert (wide.high > narrow.high).all()
        inside.append(coverage(wide.low, wide.high, other_session[40:]))
    assert 0.87 <= np.mean(inside) <= 0.97


def test_doubtful_networks_get_wider_intervals_where_doubts_tell_errors() -> None:
    rng = np.random.default_rng(0)
    doubts = rng.choice([0.0, 0.1], 400)
    truth_ms = np.exp(np.where(doubts > 0, 0.05, 0.01) * rng.standard_normal(400))
    errors = errors_of(truth_ms[:200], np.ones(200), doubts[:200], 0.9)
    found = errors.around(np.ones(200), doubts[200:])
    inside = (found.low <= truth_ms[200:]) & (truth_ms[200:] <= found.high)
    for value in (0.0, 0.1):
        assert 0.8 <= inside[doubts[200:] == value].mean() <= 0.99
    assert (found.high - found.low).max() > 3 * (found.high - found.low).min()


def test_held_out_predictions_are_those_of_refitting_without_the_network() -> None:
    rng = np.random.default_rng(0)
    x = np.column_stack([rng.uniform(0.5, 3.0, 12), np.ones(12)])
    noisy = x * np.exp(0.005 * rng.standard_normal((12, 2)))
    both, prior, target = np.concatenate([x, noisy]), np.array([1.0, 0.0]), np.concatenate([x @ [1.2, 0.1]] * 2)
    _, held_out = _ridge(both, target, prior, 0.01)
    for i in range(12):
        rest = np.delete(np.arange(24), [i, i + 12])
        w = prior + np.linalg.solve(both[rest].T @ both[rest] + 0.01 * np.eye(2), both[rest].T @ (target - both @ prior)[rest])
        assert held_out[i] == pytest.approx(noisy[i] @ w, rel=1e-6)


def test_one_network_in_a_wrong_unit_does_not_move_the_others() -> None:
    measured = rows(40)
    wrong = [Row(r.operators, r.ms * 8) if i == len(SPECS) + 3 else r for i, r in enumerate(measured)]
    clean, robust = (table_model(strict=True).fit(r).predict(networks(20, 5)).ms for r in (measured, wrong))
    assert np.abs(robust / clean - 1).max() < 0.03


def test_contributions_add_up_to_the_prediction() -> None:
    model = default_model(0).fit(rows(40, noise=0.03))
    for network in networks(5, 8):
        added, base = model.contributions(network)
        assert added.shape == (len(network),)
        assert added.sum() + base == pytest.approx(model.predict([network]).ms[0], rel=1e-9)


def test_no_contribution_is_negative() -> None:
    """Where each operator of a network takes less than alone, by as much for all, the cheapest ones add less than nothing."""
    alone = {spec: truth((spec,)) for spec in SPECS}
    saved = 2 * min(alone.values())
    some = [*networks(40, 2), *networks(5, 8)]
    fast = [Row(ops, max(sum(alone[spec] for spec in ops) - saved * len(ops), 1e-3)) for ops in some]
    model = table_model(strict=True).fit([*(Row((spec,), ms) for spec, ms in alone.items()), *fast])
    assert min(model.operator_ms(network).min() for network in some) < 0
    for network in some:
        added, base = model.contributions(network)
        assert min(added.min(), base) >= 0
        assert added.sum() + base == pytest.approx(model.predict([network]).ms[0], rel=1e-9)


def test_sums_of_addends_are_predictions() -> None:
    for model in (default_model(0), table_model(strict=True)):
        model.fit(rows(40, noise=0.03))
        some = networks(5, 8)
        found = model.of_sums(np.array([model.addends(network).sum(axis=0) for network in some]))
        expected = model.predict(some)
        np.testing.assert_allclose(found.ms, expected.ms, rtol=1e-12)
        np.testing.assert_allclose(found.high, expected.high, rtol=1e-12)


def test_no_network_is_faster_than_half_of_the_fastest_for_its_operators() -> None:
    """Networks so large that the fitted base is far below zero say nothing about small ones."""
    sums = {network * 60: 60 * sum(truth((spec,)) for spec in network) for network in networks(60, 2)}
    large = [Row(network, 1.2 * ms - 3.0) for network, ms in sums.items() if ms > 20]
    model = table_model(strict=True).fit([Row((s,), truth((s,))) for s in SPECS] + large)
    assert model.base_ms < -0.5
    fastest = min((1.2 * ms - 3.0) / ms for ms in sums.values() if ms > 20)
    assert model.predict([SPECS[:1] * 2]).ms[0] == pytest.approx(fastest * truth(SPECS[:1]))


def test_metrics_by_hand() -> None:
    found = accuracy_of("m", np.array([1.04, 2.16, 3.0, 4.8]), np.array([1.0, 2.0, 3.0, 4.0]))
    assert found.mape == pytest.approx((0.04 + 0.08 + 0.0 + 0.2) / 4)
    assert (found.within_5, found.within_10, found.spearman, found.n) == (0.5, 0.75, pytest.approx(1.0), 4)
    assert np.isnan(accuracy_of("m", np.ones(4), np.arange(1.0, 5.0)).spearman)
