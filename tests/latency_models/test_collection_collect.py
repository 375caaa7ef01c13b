"""Collecting rows: once, at once, again after a transient failure."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from paceline.devices.device import Health
from paceline.errors import LatencyModelError, StoreError
from paceline.latency_models.collection import collect
from paceline.latency_models.collection.collect import Collector, rows_of
from paceline.measurement import Artifact, Bench, DeviceInfo, Failure, Measurement, OpTime, TransientFailure
from paceline.store import Store

from samples import conv

SPECS = [conv(8, c, c, 1) for c in range(1, 81)]


@dataclass
class Scripted:
    """A device that fails as it is told: the subject's failures come first, then a figure."""

    failures: dict[str, list[Failure]] = field(default_factory=dict)
    calls: Counter[str] = field(default_factory=Counter)
    info: DeviceInfo = field(default_factory=lambda: DeviceInfo("scripted", "scripted", {"kind": "test"}, simulated=True))

    def health(self) -> Health:
        return Health(True, {})

    def measure(self, artifacts: Sequence[Artifact], bench: Bench, reference: Artifact | None = None) -> list[Measurement]:
        found = []
        for a in artifacts:
            script = self.failures.get(a.subject, [])
            failure = script[self.calls[a.subject]] if self.calls[a.subject] < len(script) else None
            self.calls[a.subject] += 1
            samples = () if failure else ((1.0, 1.0),)
            found.append(Measurement(a.subject, a.sha256, self.info.fingerprint, bench.key, samples, failure=failure))
        return found

    def profile(self, artifact: Artifact, bench: Bench) -> list[OpTime]:
        return []


def test_everything_is_measured_once_and_stored_group_by_group(tmp_path: Path) -> None:
    device = Scripted()
    seen: list[tuple[int, int]] = []
    with Store(tmp_path / "s.sqlite") as store:
        collector = Collector(device, Bench(), store, tmp_path / "operators")
        collector.operators([*SPECS, *SPECS], lambda done, total, note="": seen.append((done, len(store.rows()))))
        assert set(device.calls.values()) == {1}
        assert [stored for _, stored in seen] == [0, collect.GROUP, 2 * collect.GROUP, len(SPECS)]
        again = collector.operators(SPECS)
    assert set(device.calls.values()) == {1}
    assert [m.subject for m in again] == [spec.key for spec in SPECS]


def test_a_crash_is_tried_again_and_a_refusal_is_not(tmp_path: Path) -> None:
    crash, refusal = TransientFailure("the worker ended with signal SIGSEGV"), Failure("unknown operator")
    once, always, never = (spec.key for spec in SPECS[:3])
    device = Scripted({once: [crash], always: [crash] * 99, never: [refusal] * 99})
    with Store(tmp_path / "s.sqlite") as store:
        collector = Collector(device, Bench(), store, tmp_path / "operators")
        first, second, third, *rest = collector.operators(SPECS[:6])
        assert (first.failure, second.failure, third.failure) == (None, crash, refusal)
        assert all(m.failure is None for m in rest)
        assert (device.calls[once], device.calls[always], device.calls[never]) == (2, collect.TRIES, 1)
        collector.operators(SPECS[:6])  # another run: what failed transiently has another chance, the rest is known
        assert (device.calls[once], device.calls[always], device.calls[never]) == (2, 2 * collect.TRIES, 1)


def test_rows_need_a_measurement(tmp_path: Path) -> None:
    failed = Measurement("x", "a" * 64, "d", "b", failure=Failure("unknown operator"))
    with pytest.raises(LatencyModelError, match="not one of 2 measurements succeeded; the first: unknown operator"):
        rows_of([failed, failed], [[SPECS[0]], [SPECS[1]]], None)


def test_a_folder_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with Store(tmp_path / "s.sqlite") as store, pytest.raises(StoreError, match="file/operators"):
        Collector(Scripted(), Bench(), store, tmp_path / "file" / "operators").operators(SPECS[:1])
