"""Which measurements to take on a new device, and what they are worth."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from paceline.errors import LatencyModelError
from paceline.latency_models.model import Floats
from paceline.latency_models.transfer.choice import choose
from paceline.latency_models.transfer.curve import expected_curve, measured_curve
from paceline.latency_models.transfer.prior import DevicePrior, KnownDevice, device_prior

rng = np.random.default_rng(0)
POOL = np.column_stack([rng.multinomial(6, [1 / 3] * 3, size=60), rng.integers(0, 2, (60, 3))]).astype(np.float64)
COSTS = ([3.0, 0.5, 0.1], [1.0, 1.0, 0.3], [2.0, 0.1, 1.0], [1.0, 2.0, 2.0])
KNOWN = [KnownDevice(f"d{i}", POOL, (1 + POOL[:, :3] @ np.array(c)) * (1 + 0.02 * rng.random(60))) for i, c in enumerate(COSTS)]
PRIOR: DevicePrior = device_prior(KNOWN)


def seconds(ms: Floats) -> Floats:
    return 2.0 + 0.3 * ms


def test_the_first_of_many_are_the_choice_of_few() -> None:
    many = choose(PRIOR, POOL, 20)
    assert len(set(many.tolist())) == 20
    np.testing.assert_array_equal(choose(PRIOR, POOL, 5), many[:5])
    np.testing.assert_array_equal(choose(PRIOR, POOL, 15, measured=many[:5]), many[5:])


@settings(max_examples=20, deadline=None)
@given(st.permutations(range(len(POOL))))
def test_the_pools_order_does_not_matter(order: list[int]) -> None:
    chosen = POOL[choose(PRIOR, POOL, 3)]
    again = POOL[order][choose(PRIOR, POOL[order], 3)]
    np.testing.assert_allclose(PRIOR.view(again).mean, PRIOR.view(chosen).mean)


def test_nothing_is_measured_twice_and_the_pool_has_an_end() -> None:
    assert sorted(choose(PRIOR, POOL, len(POOL))) == list(range(len(POOL)))
    assert set(choose(PRIOR, POOL, 50, measured=range(10))) == set(range(10, 60))
    with pytest.raises(LatencyModelError, match="the pool has 60"):
        choose(PRIOR, POOL, 51, measured=range(10))
    with pytest.raises(LatencyModelError, match="the pool has 60"):
        choose(PRIOR, POOL, -1)


def test_equal_architectures_are_measured_last() -> None:
    twice = np.vstack([POOL[:10], POOL[:1]])  # the last is the first again
    first = choose(PRIOR, twice, 8)
    assert not {0, 10} <= set(first.tolist())


def test_costly_measurements_have_to_be_worth_it() -> None:
    best = int(choose(PRIOR, POOL, 1)[0])
    cost = np.ones(len(POOL))
    cost[best] = 100.0
    assert int(choose(PRIOR, POOL, 1, cost=cost)[0]) != best


def test_curves() -> None:
    expected = expected_curve(KNOWN, (3, 10, 30), seconds)
    assert [point.measurements for point in expected] == [3, 10, 30]
    assert expected[0].minutes < expected[1].minutes < expected[2].minutes
    assert expected[0].error > expected[2].error
    assert expected[2].error < 0.02  # the known devices' noise is about 0.5 %

    prior = device_prior(KNOWN[1:])
    picks = choose(prior, POOL, 30)
    ms = KNOWN[0].ms[picks]
    measured = measured_curve(prior, POOL, picks, ms, (3, 10, 30), seconds)
    assert measured[2].minutes == pytest.approx(float(seconds(ms).sum()) / 60)
    assert measured[2].error < measured[0].error
    assert measured[2].error < 0.02


def test_curves_over_counts_that_are_not_there() -> None:
    with pytest.raises(LatencyModelError, match="from 2 to 59"):
        expected_curve(KNOWN, (3, 60), seconds)
    with pytest.raises(LatencyModelError, match="two known devices"):
        expected_curve(KNOWN[:1], (3,), seconds)
    with pytest.raises(LatencyModelError, match="from 2 to 4"):
        measured_curve(PRIOR, POOL, np.arange(4), KNOWN[0].ms[:4], (1,), seconds)
    with pytest.raises(LatencyModelError, match="from 2 to 4"):
        measured_curve(PRIOR, POOL, np.arange(4), KNOWN[0].ms[:4], (), seconds)
