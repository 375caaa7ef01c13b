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
    """Override the three fixtures. `models` are at least two working models, the last the slowest by far.

    `profiles` is False for a device whose runtime has no operator profiler.
    """

    profiles = True

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
        assert device.address
        health = device.health()
        assert health.facts
        assert health.ready or health.advice

    def test_knows_how_to_measure_here(self, device: Device) -> None:
        assert device.info.delegates
        for delegate in device.info.delegates:
            assert device.default_bench(delegate).delegate == delegate
        assert device.default_bench().delegate == device.info.delegates[0]
        with pytest.raises(DeviceError, match="4096 threads"):
            device.default_bench(threads=4096)

    def test_measures_every_model_in_order(self, device: Device, bench: Bench, models: Sequence[Artifact]) -> None:
        found = device.measure(models, bench, reference=models[0])
        assert [m.artifact for m in found] == [a.sha256 for a in models]
        assert [m.subject for m in found] == [a.subject for a in models]
        for m in found:
            assert m.failure is None
            assert m.device == device.info.fingerprint
            assert m.bench == bench.key
            assert min(bench.batches, 3) <= len(m.batch_ms) <= bench.batches + bench.repeats
            assert (len(m.samples_ms), len(m.summaries)) in ((len(m.batch_ms), 0), (0, len(m.batch_ms)))
            assert all(ms > 0 for batch in m.samples_ms for ms in batch)
            assert all(0 < s.min <= s.low <= s.avg <= s.max and s.count > 0 for s in m.summaries)
            assert len(m.reference_ms) == len(m.batch_ms)
            assert 0 < min(m.batch_ms) <= m.ms <= max(m.batch_ms)
            assert m.delegation is not None
            assert any(name.endswith("_before") for name in m.context)
            assert any(name.endswith("_after") for name in m.context)
        assert found[-1].ms > 2 * found[0].ms

    def test_a_broken_model_is_a_value_and_spoils_nothing(
        self, device: Device, bench: Bench, models: Sequence[Artifact], tmp_path: Path
    ) -> None:
        broken = replace(models[0], path=tmp_path / f"broken.{models[0].format}", subject="broken")
        broken.path.write_bytes(b"this is no model" * 8)
        cut = replace(models[0], path=tmp_path / f"cut.{models[0].format}", subject="cut")
        cut.path.write_bytes(models[0].path.read_bytes()[:200])
        first, *bad, last = device.measure([models[0], broken, cut, models[-1]], bench)
        assert first.failure is None
        assert last.failure is None
        for m in bad:
            assert m.failure is not None
            assert m.failure.reason
            assert m.batch_ms == ()

    def test_works_again_after_it_was_closed(self, device: Device, bench: Bench, models: Sequence[Artifact]) -> None:
        device.close()
        device.close()
        assert device.measure(models[:1], bench)[0].failure is None

    def test_what_it_cannot_do_is_an_error_that_names_it(self, device: Device, bench: Bench, models: Sequence[Artifact]) -> None:
        with pytest.raises(DeviceError, match="teleport"):
            device.measure(models[:1], replace(bench, delegate="teleport"))
        with pytest.raises(DeviceError, match="abacus"):
            device.measure(models[:1], replace(bench, runtime="abacus"))

    def test_profiles_operators_or_says_that_it_can_not(self, device: Device, bench: Bench, models: Sequence[Artifact]) -> None:
        if not self.profiles:
            with pytest.raises(DeviceError, match="profile"):
                device.profile(models[-1], bench)
            return
        profile = device.profile(models[-1], bench)
        assert profile
        assert all(op.name and op.ms >= 0 for op in profile)
        assert sum(op.ms for op in profile) > 0
