"""This machine as a device: the whole way from a file to a figure."""

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import replace

import pytest

from paceline.devices.composed import ComposedDevice
from paceline.devices.kinds import DeviceEntry, open_device
from paceline.devices.kinds.local import open_local
from paceline.devices.testing import DeviceTestSuite
from paceline.errors import DeviceError, TransientDeviceError
from paceline.measurement import Artifact, Bench, Delegation

_CPU = (max(os.sched_getaffinity(0)),)
QUICK = Bench(affinity=_CPU, batches=2, min_invokes=10, batch_ms=1.0, warmup_ms=0.5, repeats=1, timeout_s=60.0)


@pytest.fixture(params=["xnnpack", "builtin"])
def bench(request: pytest.FixtureRequest) -> Bench:
    return replace(QUICK, delegate=request.param)


class TestLocalDevice(DeviceTestSuite):
    @pytest.fixture
    def device(self, local: ComposedDevice) -> ComposedDevice:
        return local

    @pytest.fixture
    def bench(self, bench: Bench) -> Bench:
        return bench

    @pytest.fixture
    def models(self, models: Sequence[Artifact]) -> Sequence[Artifact]:
        return models


def test_what_this_machine_has_not_is_named(local: ComposedDevice, models: Sequence[Artifact]) -> None:
    for wrong, reason in (
        ({"delegate": "gpu"}, "delegate 'gpu' isn't available.*xnnpack, builtin"),
        ({"threads": 4096}, "4096 threads"),
        ({"affinity": (4095,)}, "CPU 4095"),
        ({"precision": "int4"}, "int4"),
    ):
        with pytest.raises(DeviceError, match=reason):
            local.measure(models[:1], replace(QUICK, **wrong))


def test_the_profile_says_who_ran_what(local: ComposedDevice, models: Sequence[Artifact]) -> None:
    (delegated,) = local.profile(models[-1], QUICK)
    (own,) = local.profile(models[-1], replace(QUICK, delegate="builtin"))
    assert (delegated.delegated, own.delegated) == (True, False)
    assert own.name == "CONV_2D"


def test_a_measurement_says_what_the_delegate_took(local: ComposedDevice, models: Sequence[Artifact]) -> None:
    delegated, own = (local.measure(models[:1], replace(QUICK, delegate=d))[0].delegation for d in ("xnnpack", "builtin"))
    assert delegated == Delegation("xnnpack", 1, 1, ())
    assert own == Delegation("builtin", 0, 0, ("CONV_2D",))


def test_samples_are_as_many_as_the_bench_allows(local: ComposedDevice, models: Sequence[Artifact]) -> None:
    few = replace(QUICK, min_invokes=10, batch_ms=1000.0, max_invokes=17)
    (m,) = local.measure(models[:1], few)
    assert {len(batch) for batch in m.samples_ms} == {17}
    assert len(m.cpu_share) == len(m.samples_ms)


def test_a_busy_machine_is_refused_where_that_is_asked_for(models: Sequence[Artifact], monkeypatch: pytest.MonkeyPatch) -> None:
    with open_local(refuse=True) as device:
        monkeypatch.setattr(device.system, "trouble", lambda condition: ("busy: stop other programs",))
        with pytest.raises(TransientDeviceError, match="busy: stop other programs"):
            device.measure(models[:1], QUICK)


def test_it_is_a_kind_of_device_with_settings(models: Sequence[Artifact]) -> None:
    entry = DeviceEntry.model_validate({"id": "here", "kind": "local", "python": sys.executable, "refuse": False})
    device = open_device(entry)
    assert (device.info.name, device.info.kind, device.address) == ("here", "local", "local")
    assert device.measure(models[:1], QUICK)[0].failure is None
    device.close()


def test_the_same_machine_has_the_same_fingerprint_in_another_process(local: ComposedDevice) -> None:
    code = "from paceline.devices.kinds.local import open_local; print(open_local().info.fingerprint)"
    other = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True, text=True)
    assert other.stdout.strip() == local.info.fingerprint


def test_devices_do_not_need_torch() -> None:
    code = (
        "import sys, json; import paceline.devices.kinds.local, paceline.devices.kinds.adb, paceline.devices.kinds.simulated, "
        "paceline.devices.hosted, paceline.devices.doctor, paceline.devices.bench; print(json.dumps('torch' in sys.modules))"
    )
    assert json.loads(subprocess.run([sys.executable, "-c", code], capture_output=True, check=True).stdout) is False
