"""Bundles of one device become one; what doesn't fit together is refused or named."""

from __future__ import annotations

from dataclasses import replace

import pytest

from paceline.errors import DataError
from paceline.latency_models.bundle.bundle import Bundle
from paceline.latency_models.bundle.merge import merge
from paceline.latency_models.bundle.rows import FailedRow, MeasuredRow
from paceline.latency_models.bundle.stored import paced
from paceline.latency_models.regressors.linear import LinearRegressor
from paceline.measurement import Bench, DeviceInfo, Measurement

PHONE = DeviceInfo("a phone", "adb", {"soc": "X1", "build": "1"})
BENCH = Bench()


def row(subject: str, ms: float, at: float, reference: float = 1.0, artifact: str = "a", network: bool = False) -> MeasuredRow:
    m = Measurement(subject, artifact, PHONE.fingerprint, BENCH.key, ((ms,) * 3,) * 3, (), (reference,) * 3)
    return MeasuredRow(subject, m.ms, kind="network" if network else "operator", measurement=m, measured_at=at)


def bundle(*rows: MeasuredRow, failed: tuple[FailedRow, ...] = ()) -> Bundle:
    kept, usual = paced(rows)
    return Bundle(PHONE, BENCH, kept, failed, usual, {"paceline": "1"}, "CC0", "here")


def test_one_bundle_stays_as_it_is() -> None:
    alone = bundle(row("a", 1.0, 1.0), row("b", 2.0, 1.0, 1.1), failed=(FailedRow("c", "refused"),))
    assert merge([alone]).bundle == alone
    assert merge([alone, alone]).bundle == alone
    assert merge([alone, alone]).contradictions == ()


def test_the_newest_row_counts_in_any_order() -> None:
    first, second = bundle(row("a", 1.0, 1.0), row("b", 2.0, 1.0)), bundle(row("a", 1.02, 2.0), row("c", 3.0, 2.0))
    merged = merge([first, second])
    assert [(r.subject, r.ms) for r in merged.bundle.measured] == [("a", 1.02), ("b", 2.0), ("c", 3.0)]
    assert merged.contradictions == ()
    assert merge([second, first]).bundle.measured == merged.bundle.measured


def test_figures_come_to_one_usual_pace() -> None:
    """In the second session the device was half as fast: its reference took twice as long."""
    merged = merge([bundle(row("a", 1.0, 1.0, 1.0), row("b", 1.0, 1.0, 1.0)), bundle(row("c", 2.0, 2.0, 2.0))])
    assert merged.bundle.usual_ms == {"operator": 1.0}
    assert [r.ms for r in merged.bundle.measured] == [1.0, 1.0, 1.0]


def test_contradictions_are_named() -> None:
    first = bundle(row("a", 1.0, 1.0), row("b", 1.0, 1.0), failed=(FailedRow("c", "crashed", measured_at=1.0),))
    second = bundle(row("a", 1.2, 2.0), row("b", 1.04, 2.0), row("c", 3.0, 2.0))
    merged = merge([first, second])
    assert [(c.subject, c.kept, c.dropped) for c in merged.contradictions] == [
        ("a", "1.2 ms", "1 ms"),
        ("c", "3 ms", "fails: crashed"),
    ]
    assert merged.bundle.failed == ()


def test_networks_of_one_name_may_be_different_files() -> None:
    first, second = (
        bundle(row("net", 1.0, 1.0, artifact="a", network=True)),
        bundle(row("net", 9.0, 2.0, artifact="b", network=True)),
    )
    assert [r.ms for r in merge([first, second]).bundle.measured] == [1.0, 9.0]
    assert merge([first, second]).contradictions == ()


def test_origin_licence_and_findings_are_kept() -> None:
    first = replace(bundle(row("a", 1.0, 1.0)), fusion={"rules": 1}).with_model(LinearRegressor())
    second = replace(bundle(row("b", 1.0, 1.0)), origin="there", versions={"paceline": "2"})
    merged = merge([first, second])
    assert (merged.bundle.origin, merged.bundle.licence) == ("here; there", "CC0")
    assert merged.bundle.versions == {"paceline": "1; 2"}
    assert merged.bundle.fusion == {"rules": 1}
    assert merged.bundle.model is None
    assert [c.subject for c in merge([first, replace(second, fusion={"rules": 2})]).contradictions] == ["fusion"]


def test_other_devices_and_benches_are_refused_with_the_reason() -> None:
    mine = bundle(row("a", 1.0, 1.0))
    with pytest.raises(DataError, match=r"not the same device; they differ in build\. Keep one bundle each"):
        merge([mine, replace(mine, device=replace(PHONE, facts={"soc": "X1", "build": "2"}))])
    with pytest.raises(DataError, match=r"different ways: threads \(1 and 4\)\. Keep one"):
        merge([mine, replace(mine, bench=Bench(threads=4))])
    with pytest.raises(DataError, match="nothing to merge"):
        merge([])
