"""What every device must do, as tests: subclass `DeviceTestSuite` and give it a device."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from paceline.devices.device import Device
from paceline.errors import DeviceError
from paceline.measurement import Artifact, Bench


class DeviceTestSuite:
    """Override the three fixtures. `models` are at least two working models, the last the slowest by far."""

    @pytest.fixture
    def device(self) -> Device:
        raise NotImplementedError

    @pytest.fixture
    def bench(self) -> Bench:
        raise NotImplementedError

    @pytest.fixture
    def models(self) -> Sequence[Artifact]:
        raise NotImplementedError

    def test_says_what_it_is(self, device: Device) -> None:
        assert device.info.name
        assert device.info.facts
        assert len(device.info.fingerprint) == 16
        assert device.health().facts

    def test_measures_every_model_in_order(self, device: Device, bench: Bench, models: Sequence[Artifact]) -> None:
        found = device.measure(models, bench, reference=models[0])
        assert [m.artifact for m in found] == [a.sha256 for a in models]
        assert [m.subject for m in found] == [a.subject for a in models]
        for m in found:
            assert m.failure is None
            assert m.device == device.info.fingerprint
            assert m.bench == bench.key
            assert min(bench.batches, 3) <= len(m.samples_ms) <= bench.batches + bench.repeats
            assert all(ms > 0 for batch in m.samples_ms for ms in batch)
            assert min(m.batch_ms) <= m.ms <= max(m.batch_ms)
        assert found[-1].ms > 2 * found[0].ms

    def test_a_broken_model_is_a_value_and_spoils_nothing(
        self, device: Device, bench: Bench, models: Sequence[Artifact], tmp_path: Path
    ) -> None:
        broken = tmp_path / "broken.tflite"
        broken.write_bytes(b"this is no model" * 8)
        cut = tmp_path / "cut.tflite"
        cut.write_bytes(models[0].path.read_bytes()[:200])
        first, *bad, last = device.measure([models[0], Artifact(broken, "broken"), Artifact(cut, "cut"), models[-1]], bench)
        assert first.failure is None
        assert last.failure is None
        for m in bad:
            assert m.failure is not None
            assert m.failure.reason
            assert m.samples_ms == ()

    def test_what_it_cannot_do_is_an_error_that_names_it(self, device: Device, bench: Bench, models: Sequence[Artifact]) -> None:
        with pytest.raises(DeviceError, match="teleport"):
            device.measure(models[:1], replace(bench, delegate="teleport"))
        with pytest.raises(DeviceError, match="abacus"):
            device.measure(models[:1], replace(bench, runtime="abacus"))

    def test_profiles_operators(self, device: Device, bench: Bench, models: Sequence[Artifact]) -> None:
        profile = device.profile(models[-1], bench)
        assert profile
        assert all(op.name and op.ms >= 0 for op in profile)
        assert sum(op.ms for op in profile) > 0
