"""Rows expire when an update or a drift makes them wrong: only what moved is measured again."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from paceline.devices.simulated.device import simulated_device
from paceline.devices.simulated.phone import SimulatedPhone
from paceline.devices.simulated.profile import Profile, load_profile
from paceline.errors import LatencyModelError
from paceline.exporters.operator_models import write_operator
from paceline.graph import OpSpec, TensorSpec
from paceline.latency_models.bundle.bundle import Bundle
from paceline.latency_models.bundle.rows import MeasuredRow
from paceline.latency_models.collection.collect import Collector
from paceline.latency_models.collection.expiry import CARRIED, changes_of, renew, stale
from paceline.latency_models.features import group_of
from paceline.measurement import Artifact, DeviceInfo
from paceline.store import Store

from samples import conv

SPECS: list[OpSpec] = [
    *(conv(size, c, c + 8, 1) for size, c in ((56, 32), (28, 64), (14, 128), (14, 200), (7, 256))),
    *(conv(size, c, c, 3) for size, c in ((28, 24), (28, 48), (14, 64), (14, 96), (7, 128))),
    *(conv(size, c, c, 3, depthwise=True) for size, c in ((112, 32), (56, 64), (56, 96), (28, 128), (28, 192))),
    *(OpSpec("ADD", (TensorSpec((1, s, s, 96)),) * 2, (TensorSpec((1, s, s, 96)),)) for s in (56, 48, 40, 32, 28)),
]
DEPTHWISE = {spec.key for spec in SPECS if spec.kind == "DEPTHWISE_CONV_2D"}


class Bed:
    """A phone, its table, and the same phone after an update."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.store, self._phones = folder, Store(folder / "s.sqlite"), 0
        self.profile = load_profile("simulated-mid")

    def phone(self, change: Callable[[Profile], Profile] = lambda profile: profile, seed: int = 1) -> Collector:
        self._phones += 1
        phone = SimulatedPhone(f"{self.folder.name}-{self._phones}", change(self.profile), seed)
        device = simulated_device(phone)
        return Collector(device, device.default_bench("xnnpack"), self.store, self.folder / "models", "a table")

    def table(self, collector: Collector) -> Bundle:
        collector.operators(SPECS)
        return Bundle.from_store(self.store, collector.device.info, collector.bench)


@pytest.fixture
def bed(tmp_path: Path) -> Bed:
    return Bed(tmp_path)


def updated(profile: Profile) -> Profile:
    return replace(profile, facts={**profile.facts, "system": "simulated Android 17"})


def slower_depthwise(profile: Profile) -> Profile:
    delegate = profile.delegates["xnnpack"]
    slower = replace(delegate, efficiency={**delegate.efficiency, "depthwise": delegate.efficiency["depthwise"] * 0.6})
    return updated(replace(profile, delegates={**profile.delegates, "xnnpack": slower}))


def slower_memory_and_cores(profile: Profile) -> Profile:
    slower = tuple(replace(c, gmacs=0.8 * c.gmacs, gb_s=0.8 * c.gb_s) for c in profile.clusters)
    return updated(replace(profile, clusters=slower))


def test_an_update_that_changes_nothing_keeps_every_row(bed: Bed) -> None:
    earlier = bed.table(bed.phone())
    after = bed.phone(updated, seed=2)
    expiry = stale(earlier, after)
    assert (expiry.moved, expiry.stale) == ((), ())
    assert len(expiry.held) == len(SPECS)
    assert expiry.pace == pytest.approx(1.0, abs=0.04)
    assert expiry.changes["system"] == ("simulated Android 15", "simulated Android 17")
    assert expiry.why.endswith("no group moved beyond noise")
    probed = after.spent_s()
    renew(expiry, after)
    assert after.spent_s() == probed  # nothing was measured
    now = {m.subject: m for m in after.operators(SPECS)}
    assert after.spent_s() == probed
    carried = [m for m in now.values() if CARRIED in m.context]
    assert {m.context[CARRIED] for m in carried} == {earlier.device.fingerprint}
    assert len(carried) + 2 * 4 == len(SPECS)  # two of each of the four groups were probed


def test_only_what_moved_is_measured_again(bed: Bed) -> None:
    earlier = bed.table(bed.phone())
    after = bed.phone(slower_depthwise, seed=2)
    expiry = stale(earlier, after)
    (moved,) = expiry.moved
    assert moved.group == group_of(next(spec for spec in SPECS if spec.key in DEPTHWISE))
    assert 1.1 < moved.ratio < 1.7
    assert {row.subject for row in expiry.stale} == DEPTHWISE
    assert "1 of 4 groups moved" in expiry.why
    renew(expiry, after)
    now = {m.subject: m for m in after.operators(SPECS)}
    assert {subject for subject, m in now.items() if CARRIED in m.context}.isdisjoint(DEPTHWISE)
    old = {row.subject: row.ms for row in earlier.measured}
    for subject in DEPTHWISE:
        assert now[subject].ms > 1.05 * old[subject]


def test_a_slower_device_keeps_nothing(bed: Bed) -> None:
    expiry = stale(bed.table(bed.phone()), bed.phone(slower_memory_and_cores, seed=2))
    assert expiry.pace == pytest.approx(1.25, rel=0.05)
    assert len(expiry.stale) == len(SPECS)
    assert expiry.held == ()
    assert "the whole device" in expiry.why


def test_the_drift_probe_of_an_unchanged_device(bed: Bed) -> None:
    phone = bed.phone()
    earlier = bed.table(phone)
    expiry = stale(earlier, phone)
    assert expiry.changes == {}
    assert expiry.stale == ()
    assert expiry.why == "the same software; no group moved beyond noise"
    wrong = replace(earlier, measured=tuple(_slower(row) if row.subject in DEPTHWISE else row for row in earlier.measured))
    expiry = stale(wrong, phone)
    assert {row.subject for row in expiry.stale} == DEPTHWISE
    before = phone.known(_artifacts(phone))
    renew(expiry, phone)
    after = phone.known(_artifacts(phone))
    again = {after[sha].subject for sha in after if after[sha].samples_ms != before[sha].samples_ms}
    assert again == DEPTHWISE


def test_another_device_or_another_way_of_measuring_is_refused(bed: Bed) -> None:
    phone = bed.phone()
    earlier = bed.table(phone)
    with pytest.raises(LatencyModelError, match=r"'other' was simulated-mid \(model\) .* simulated-wide: another device"):
        changes_of(earlier.device, _info("simulated-wide"))
    with pytest.raises(LatencyModelError, match=r"was adb .kind. in the earlier table, now it is simulated"):
        changes_of(DeviceInfo("x", "adb", {}), earlier.device)
    with pytest.raises(LatencyModelError, match="measured otherwise"):
        stale(replace(earlier, bench=replace(earlier.bench, threads=2)), phone)
    with pytest.raises(LatencyModelError, match="no samples of operators to compare with"):
        stale(replace(earlier, measured=()), phone)


def _slower(row: MeasuredRow) -> MeasuredRow:
    m = row.measurement
    assert m is not None
    return replace(row, measurement=replace(m, samples_ms=tuple(tuple(0.8 * ms for ms in batch) for batch in m.samples_ms)))


def _artifacts(phone: Collector) -> list[Artifact]:
    return [write_operator(spec, phone.folder) for spec in SPECS]


def _info(profile: str) -> DeviceInfo:
    return simulated_device(SimulatedPhone("other", load_profile(profile), 1)).info
