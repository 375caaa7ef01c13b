"""Chances of keeping a limit, and the limits that are kept with a chance."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from paceline.errors import LatencyModelError
from paceline.latency_models.calibration import interval
from paceline.latency_models.model import Prediction
from paceline.latency_models.spaces.chance import highest_chance, kept_ms


@st.composite
def predictions(draw: st.DrawFn, confidence: float = 0.9) -> Prediction:
    n, errors = draw(st.integers(1, 6)), draw(st.integers(1, 120))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    found = np.sort(np.clip(draw(st.floats(0.001, 0.3)) * rng.standard_normal(errors), -0.3, None))
    return interval(rng.uniform(0.1, 50, n), found, rng.uniform(1, 3, n), confidence)


@given(predictions(), st.lists(st.floats(0, 200), min_size=2, max_size=20))
def test_a_chance_grows_with_the_limit_and_never_is_certain(prediction: Prediction, limits: list[float]) -> None:
    chances = np.array([prediction.chance(limit) for limit in sorted(limits)])
    assert ((chances >= 0) & (chances < 1)).all()
    assert (np.diff(chances, axis=0) >= 0).all()
    assert chances.max() <= highest_chance(prediction)


@given(predictions(), st.floats(0.01, 0.99))
def test_a_limit_is_kept_with_a_chance_exactly_from_there_on(prediction: Prediction, chance: float) -> None:
    assume(chance <= highest_chance(prediction))
    for i, ms in enumerate(kept_ms(prediction, chance)):
        assert prediction.chance(ms * (1 + 1e-9))[i] >= chance - 1e-12
        assert prediction.chance(ms * (1 - 1e-9))[i] < chance + 1e-12


@given(st.data(), st.floats(0.2, 0.98))
def test_the_high_end_of_an_interval_is_kept_as_often_as_it_promises(data: st.DataObject, confidence: float) -> None:
    prediction = data.draw(predictions(confidence))
    promised = min((1 + confidence) / 2, highest_chance(prediction))
    for i, (low, high) in enumerate(zip(prediction.low, prediction.high, strict=True)):
        assert prediction.chance(high * (1 + 1e-9))[i] >= promised - 1e-12
        assert prediction.chance(low * (1 - 1e-9))[i] <= 1 - promised + 1e-12
    np.testing.assert_allclose(kept_ms(prediction, promised), prediction.high, rtol=1e-12)


def test_the_promise_holds() -> None:
    """Of networks drawn like the calibration ones about this share keeps the limit that is said to be kept with a chance."""
    rng = np.random.default_rng(0)
    for chance in (0.5, 0.8, 0.95):
        kept = []
        for _ in range(300):
            difficulty = rng.uniform(1, 3, 20)
            errors = np.sort(0.05 * rng.standard_normal(39))
            real = 10 * (1 + 0.05 * difficulty * rng.standard_normal(20))
            kept.append(np.mean(real <= kept_ms(interval(np.full(20, 10.0), errors, difficulty, 0.9), chance)))
        assert chance - 0.01 <= np.mean(kept) <= chance + 0.04


def test_a_chance_that_so_few_networks_cannot_show_is_refused() -> None:
    prediction = interval(np.ones(1), np.linspace(-0.1, 0.1, 12), np.ones(1), 0.9)
    assert kept_ms(prediction, 12 / 13) == pytest.approx(1.1)
    with pytest.raises(LatencyModelError, match=r"95\.0% can't be shown by 12 held-out errors, at most 92\.3%.* on 19 measured"):
        kept_ms(prediction, 0.95)
    for impossible in (0.0, 1.0, -1.0, float("nan")):
        with pytest.raises(LatencyModelError, match="between 0 and 1"):
            kept_ms(prediction, impossible)


def test_without_known_errors_a_prediction_is_taken_at_its_word() -> None:
    prediction = Prediction(np.array([1.0, 2.0]), np.array([1.0, 2.0]), np.array([1.0, 2.0]))
    np.testing.assert_array_equal(kept_ms(prediction, 0.99), [1.0, 2.0])
    np.testing.assert_array_equal(prediction.chance(1.5), [1.0, 0.0])
    assert highest_chance(prediction) == 1.0
