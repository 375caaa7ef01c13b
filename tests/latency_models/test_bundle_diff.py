"""What changed from one bundle to another: found where it is there, and not where there is only noise."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from paceline.devices.kinds.simulated import open_simulated
from paceline.errors import ConfigError
from paceline.latency_models.bundle.bundle import Bundle
from paceline.latency_models.bundle.diff import SESSION_NOISE, diff
from paceline.latency_models.bundle.rows import FailedRow, MeasuredRow
from paceline.latency_models.bundle.stored import paced
from paceline.latency_models.collection.collect import Collector
from paceline.measurement import Bench, DeviceInfo, Measurement
from paceline.store import Store

from samples import conv

PHONE = DeviceInfo("a phone", "adb", {"soc": "X1", "litert": "2.1"})
BENCH = Bench()


def session(
    seed: int, n: int, factors: dict[int, float] | None = None, noise: float = 0.01, drift: float = 1.0, batches: int = 5
) -> Bundle:
    """`n` operators of 1 ms and more: each off by `noise` in this session, each batch by 1 %, all of them slowed by `drift`."""
    rng = np.random.default_rng(seed)
    rows = []
    for i in range(n):
        level = (1 + i) * (factors or {}).get(i, 1.0) * math.exp(noise * rng.standard_normal())
        pace = drift * np.exp(0.02 * rng.standard_normal(batches))
        figures = level * pace * np.exp(0.01 * rng.standard_normal(batches))
        samples = tuple((float(ms),) * 3 for ms in figures)
        m = Measurement(f"op {i}", f"{i:064x}", PHONE.fingerprint, BENCH.key, samples, (), tuple((0.5 * pace).tolist()))
        rows.append(MeasuredRow(m.subject, m.ms, measurement=m, measured_at=float(seed)))
    kept, usual = paced(rows)
    return Bundle(PHONE, BENCH, kept, (), usual)


def test_changes_are_found_and_named_with_their_intervals() -> None:
    factors = {3: 1.2, 50: 1.1, 120: 0.8}
    found = diff(session(1, 200), session(2, 200, factors))
    said = {c.subject: c for c in found.changes if c.verdict != "not shown"}
    assert {"op 3", "op 50", "op 120"} <= set(said)
    assert len(said) <= 5
    assert (said["op 3"].verdict, said["op 120"].verdict) == ("slower", "faster")
    for i, factor in factors.items():
        c = said[f"op {i}"]
        assert c.low < factor < c.high
        assert c.high / c.low < 1.12
    assert found.changes[0].subject == "op 120"
    assert found.session_noise == pytest.approx(0.01 * math.sqrt(2), rel=0.4)


def test_noise_alone_is_seldom_called_a_change() -> None:
    wrong = [any(c.verdict != "not shown" for c in diff(session(s, 50), session(s + 1000, 50)).changes) for s in range(30)]
    assert sum(wrong) <= 5  # 5 % of 30 are 1.5


def test_intervals_cover_the_truth() -> None:
    inside = [c.low <= 1 <= c.high for s in range(20) for c in diff(session(s, 60), session(s + 1000, 60)).changes]
    assert 0.92 <= np.mean(inside) <= 0.985


def test_few_rows_fall_back_on_the_usual_noise_of_sessions() -> None:
    assert diff(session(1, 5), session(2, 5)).session_noise == SESSION_NOISE
    assert diff(session(1, 5), session(2, 5), session_noise=0.2).changes[0].high > 1.3


def test_drift_is_no_change_of_an_operator() -> None:
    found = diff(session(1, 100), session(2, 100, drift=1.15))
    assert found.pace["operator"] == pytest.approx(1.15, rel=0.01)
    assert found.typical == pytest.approx(1.0, abs=0.01)
    assert sum(c.verdict != "not shown" for c in found.changes) <= 3


def test_figures_with_other_references_are_compared_as_they_are() -> None:
    slow = session(2, 30, drift=1.5)
    named = [replace(r, measurement=replace(r.measurement, context={"reference": "b" * 64})) for r in slow.measured]  # type: ignore
    rows, usual = paced(named)
    found = diff(session(1, 30), replace(slow, measured=rows, usual_ms=usual))
    assert found.pace == {}
    assert found.typical == pytest.approx(1.5, rel=0.02)


def test_another_firmware_is_compared_as_it_is() -> None:
    other = session(2, 100, drift=1.15)
    updated = replace(other, device=replace(PHONE, facts={**PHONE.facts, "build": "2"}))
    found = diff(session(1, 100), updated)
    assert found.pace == {}
    assert found.typical == pytest.approx(1.15, abs=0.02)
    assert sum(c.verdict == "slower" for c in found.changes) >= 90


def test_what_only_one_has_and_what_fails_now() -> None:
    before, after = session(1, 4), session(2, 3)
    after = replace(after, failed=(FailedRow("op 3", "crashed"),))
    assert diff(before, after).failing == (("op 3", "crashed"),)
    assert diff(before, after).only_before == ()
    assert diff(after, before).only_after == ("op 3",)


def test_the_newest_of_several_rows_is_compared() -> None:
    a = session(1, 1)
    late = MeasuredRow("op 0", 5.0, measured_at=9.0)
    (change,) = diff(replace(a, measured=(late, *a.measured)), a).changes
    assert change.before_ms == 5.0


def test_tables_without_samples_can_be_compared() -> None:
    rows = [MeasuredRow(f"block {i}", 1.0 + i, count=100, std_ms=0.1) for i in range(30)]
    slow = [replace(row, ms=row.ms * (1.5 if i == 4 else 1.0)) for i, row in enumerate(rows)]
    found = diff(Bundle(PHONE, BENCH, tuple(rows)), Bundle(PHONE, BENCH, tuple(slow)))
    assert [c.subject for c in found.changes if c.verdict == "slower"] == ["block 4"]
    assert found.pace == {}
    bare = [MeasuredRow("net", 1.0)]
    assert diff(Bundle(PHONE, BENCH, tuple(bare)), Bundle(PHONE, BENCH, tuple(bare))).changes[0].verdict == "not shown"


def test_nothing_in_common() -> None:
    found = diff(session(1, 2), Bundle(PHONE, BENCH, ()))
    assert (found.changes, found.only_before) == ((), ("op 0", "op 1"))
    assert math.isnan(found.typical)


def test_two_sessions_of_one_simulated_phone_show_no_difference(tmp_path: Path) -> None:
    """Measured, stored and compared: what a user does. The seed is what differs between the sessions: noise and drift."""
    specs = [conv(size, c, o, k) for size in (14, 7) for c in (16, 32) for o in (32, 64) for k in (1, 3, 5)]
    bundles = []
    for seed in (1, 2):
        device = open_simulated("phone", "simulated-mid", seed)
        with Store(tmp_path / f"{seed}.sqlite") as store:
            bench = Bench(runtime="simulated", delegate=device.info.delegates[0])
            Collector(device, bench, store, tmp_path / "models").operators(specs)
            bundles.append(Bundle.from_store(store, device.info, bench))
    found = diff(bundles[0], bundles[1])
    assert len(found.changes) == len(specs)
    assert [c.verdict for c in found.changes if c.verdict != "not shown"] == []
    assert found.typical == pytest.approx(1.0, abs=0.005)
    assert len(found.pace) == 1


def test_impossible_settings_are_refused() -> None:
    with pytest.raises(ConfigError, match="confidence 2"):
        diff(session(1, 2), session(2, 2), confidence=2)
