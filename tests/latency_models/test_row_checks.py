"""Rows that can't be right are named, exactly these."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from paceline.errors import LatencyModelError
from paceline.graph import OpSpec, TensorSpec
from paceline.latency_models.model import Row
from paceline.latency_models.row_checks import checked
from paceline.latency_models.testing import truth

from samples import conv

SIZES = ((112, 16), (56, 24), (28, 48), (28, 96), (14, 96), (14, 192), (7, 160), (7, 320))
SPECS: list[OpSpec] = [
    *(conv(size, c, 2 * c, 1) for size, c in SIZES),
    *(conv(size, c, c, 1) for size, c in SIZES),
    *(conv(size, c, c, 3) for size, c in SIZES),
    *(conv(size, c, c + 16, 3) for size, c in SIZES),
    *(conv(size, c, c, 3, depthwise=True) for size, c in SIZES),
    *(conv(size, c + 8, c + 8, 3, depthwise=True) for size, c in SIZES),
    *(
        OpSpec("ADD", (TensorSpec((1, s, s, c)),) * 2, (TensorSpec((1, s, s, c)),))
        for size, c in SIZES
        for s in (size, size // 2)
    ),
]
COUNT = len(SPECS)
SEVENS = [conv(size, c, c, 7, depthwise=True) for size, c in SIZES]


def rows_of(seed: int, noise: float = 0.03) -> list[Row]:
    rng = np.random.default_rng(seed)
    return [Row((spec,), truth([spec]) * math.exp(noise * rng.standard_normal())) for spec in SPECS]


POISON = st.sampled_from([math.nan, math.inf, -math.inf, 0.0, -1.0, "high", "low"])


@given(seed=st.integers(0, 1000), poison=st.dictionaries(st.integers(0, COUNT - 1), POISON, max_size=COUNT // 10))
@settings(max_examples=40, deadline=None)
def test_exactly_the_poisoned_rows_are_named(seed: int, poison: dict[int, float | str]) -> None:
    rows = rows_of(seed)
    for at, how in poison.items():
        ms = rows[at].ms * {"high": 100.0, "low": 0.01}[how] if isinstance(how, str) else how
        rows[at] = Row(rows[at].operators, ms)
    found = checked(rows)
    assert {flag.row for flag in found.flagged} == set(poison)
    for flag in found.flagged:
        assert flag.subject == SPECS[flag.row].key
        assert flag.doubt == ("outlier" if isinstance(poison[flag.row], str) else "no latency")
    assert list(found.rows) == [row for i, row in enumerate(rows) if i not in poison]


def test_networks_are_judged_by_their_operators() -> None:
    rng = np.random.default_rng(0)
    networks = [tuple(SPECS[i] for i in rng.integers(0, COUNT, 20)) for _ in range(12)]
    rows = rows_of(0) + [Row(network, truth(network)) for network in networks]
    assert checked(rows).flagged == ()
    rows[COUNT + 3] = Row(networks[3], 50 * truth(networks[3]))
    (flag,) = checked(rows).flagged
    assert (flag.row, flag.doubt, flag.subject) == (COUNT + 3, "outlier", "a network of 20 operators")
    assert "above what its operators let expect" in flag.reason


@pytest.mark.parametrize("count", [1, 2])
def test_a_small_group_that_is_off_is_named_although_it_agrees(count: int) -> None:
    rows = rows_of(0) + [Row((spec,), 100 * truth([spec])) for spec in SEVENS[:count]]
    assert [flag.row for flag in checked(rows).flagged] == list(range(COUNT, COUNT + count))


def test_a_slow_kernel_is_believed() -> None:
    rows = rows_of(0) + [Row((spec,), 100 * truth([spec])) for spec in SEVENS]
    assert checked(rows).flagged == ()


@pytest.mark.parametrize(("factor", "unit"), [(1000.0, "microseconds, divide"), (0.001, "seconds, multiply")])
def test_another_unit_is_recognised(factor: float, unit: str) -> None:
    with pytest.raises(LatencyModelError, match=rf"hardly milliseconds.*If they are {unit} them by 1000"):
        checked([Row(row.operators, factor * row.ms) for row in rows_of(0)])


@pytest.mark.parametrize(("macs_per_ms", "launch"), [(1e6, 4e-4), (2e7, 2e-3), (4e8, 0.3), (3e5, 0.05)])
def test_devices_of_all_speeds_are_believed(macs_per_ms: float, launch: float) -> None:
    """A fast server, a phone, its GPU, a single-board computer."""
    rows = [Row((spec,), launch + spec.macs / macs_per_ms + 1e-3 * sum(t.bytes for t in spec.inputs) / 1e6) for spec in SPECS]
    assert checked(rows).flagged == ()


def test_contradictions_are_named() -> None:
    rows = [*rows_of(0), Row((SPECS[5],), 2 * truth([SPECS[5]])), Row((SPECS[7],), 1.01 * truth([SPECS[7]]))]
    found = checked(rows)
    assert [(flag.row, flag.doubt) for flag in found.flagged] == [(5, "contradiction"), (COUNT, "contradiction")]
    assert f"other rows of the same say {rows[COUNT].ms:.4g} ms" in found.flagged[0].reason
    rows.append(Row((SPECS[5],), truth([SPECS[5]])))
    assert [flag.row for flag in checked(rows).flagged] == [COUNT]  # two against one


def test_a_row_can_be_refused() -> None:
    rows = rows_of(0)
    rows[4] = Row(rows[4].operators, math.nan)
    with pytest.raises(LatencyModelError) as e:
        checked(rows, refuse=True)
    assert f"row 4, {SPECS[4].key}: nan ms, that is no latency (1 such rows). Measure it again or leave it out" in str(e.value)
    assert checked([], refuse=True).rows == ()
