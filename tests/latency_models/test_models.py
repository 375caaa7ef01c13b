"""Latency models on a device whose truth is known: costs of operators that add up, with an overhead per network."""

from collections.abc import Sequence

import numpy as np
import pytest

from paceline.errors import LatencyModelError
from paceline.graph import OpSpec
from paceline.latency_models.calibration import calibrate
from paceline.latency_models.defaults import compared_models, default_model, table_model
from paceline.latency_models.metrics import accuracy_of, coverage
from paceline.latency_models.model import Row
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


def test_an_unknown_kind_is_named() -> None:
    relu = OpSpec("RELU", SPECS[0].inputs[:1], SPECS[0].inputs[:1])
    for model in (default_model(0), table_model(), named("linear")):
        with pytest.raises(LatencyModelError, match="never saw a RELU"):
            model.fit(rows()).predict([[relu]])


def test_fitting_without_rows_says_what_is_missing() -> None:
    for model in (default_model(0), named("linear")):
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


def test_the_interval_covers_what_it_says() -> None:
    """Over many calibrations: new measurements fall inside about as often as the confidence says."""
    inside = []
    for seed in range(40):
        rng = np.random.default_rng(seed)
        terms = np.column_stack([rng.uniform(0.5, 3.0, 140), np.ones(140)])
        ms = terms @ [1.1, 0.2] * np.exp(0.03 * rng.standard_normal(140))
        fitted = calibrate(terms[:40], np.zeros(40), ms[:40], np.array([1.0, 0.0]), confidence=0.9)
        found = fitted.predict(terms[40:] @ fitted.scale, np.zeros(100))
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
        fits = [calibrate(terms[:40], np.zeros(40), ms[:40], np.array([1.0, 0.0]), 0.9, noise) for noise in (0.0, 0.03)]
        narrow, wide = (fitted.predict(terms[40:] @ fitted.scale, np.zeros(200)) for fitted in fits)
        assert (wide.high > narrow.high).all()
        inside.append(coverage(wide.low, wide.high, other_session[40:]))
    assert 0.87 <= np.mean(inside) <= 0.97


def test_held_out_residuals_are_those_of_refitting_without_the_network() -> None:
    rng = np.random.default_rng(0)
    terms = np.column_stack([rng.uniform(0.5, 3.0, 12), np.ones(12)])
    ms = terms @ [1.2, 0.1] * np.exp(0.05 * rng.standard_normal(12))
    from paceline.latency_models.calibration import _ridge

    weighted = terms / ms[:, None]
    prior = np.array([1.0, 0.0])
    _, held_out = _ridge(weighted, prior, 0.5)
    for i in range(12):
        rest = np.delete(weighted, i, axis=0)
        w = prior + np.linalg.solve(rest.T @ rest + 0.5 * np.eye(2), rest.T @ (1 - rest @ prior))
        assert held_out[i] == pytest.approx(1 / (weighted[i] @ w) - 1, rel=1e-9)


def test_metrics_by_hand() -> None:
    found = accuracy_of("m", np.array([1.04, 2.16, 3.0, 4.8]), np.array([1.0, 2.0, 3.0, 4.0]))
    assert found.mape == pytest.approx((0.04 + 0.08 + 0.0 + 0.2) / 4)
    assert (found.within_5, found.within_10, found.spearman, found.n) == (0.5, 0.75, pytest.approx(1.0), 4)
    assert np.isnan(accuracy_of("m", np.ones(4), np.arange(1.0, 5.0)).spearman)
