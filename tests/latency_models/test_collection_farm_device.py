"""A device of a farm measures like one that is here."""

from pathlib import Path

import pytest

from paceline.devices.farm.local import LocalFarm
from paceline.devices.farm.parcels import pack
from paceline.devices.simulated.device import simulated_device
from paceline.devices.simulated.phone import SimulatedPhone
from paceline.devices.simulated.profile import load_profile
from paceline.exporters.operator_models import write_operator
from paceline.latency_models.collection.collect import DEVICE_S, REFERENCE, Collector, measure_timed
from paceline.latency_models.collection.farm_device import FarmDevice
from paceline.store import Store

from samples import conv

SPECS = [conv(14, 16, 16 * i, 1) for i in range(1, 5)]


def test_it_measures_like_the_device_itself(tmp_path: Path) -> None:
    found = []
    for name, away in (("here", False), ("away", True)):
        phone = SimulatedPhone(f"{tmp_path.name}-{name}", load_profile("simulated-mid"), seed=4)
        device = simulated_device(phone)
        with LocalFarm({"phone": device}) as farm, Store(tmp_path / f"{name}.sqlite") as store:
            used = FarmDevice(farm.on("phone")) if away else device
            assert (used.info, used.address, used.health()) == (device.info, device.address, device.health())
            before = phone.clock.monotonic()
            collector = Collector(used, used.default_bench("xnnpack"), store, tmp_path / "models", "a table")
            found.append([m.batch_ms for m in collector.operators(SPECS)])
            took = phone.clock.monotonic() - before
            assert took > 0.1
            assert collector.spent_s() == pytest.approx(took, abs=1e-3)  # on the phone's clock
            assert used.profile(write_operator(SPECS[0], tmp_path), collector.bench)[0].ms > 0
    assert found[0] == found[1]


def test_its_calls_travel_to_other_hosts(tmp_path: Path) -> None:
    artifacts = [write_operator(spec, tmp_path) for spec in SPECS]
    phone = simulated_device(SimulatedPhone("x", load_profile("simulated-mid"), seed=4))
    call, sent = pack(measure_timed, (artifacts, phone.default_bench("xnnpack"), write_operator(REFERENCE, tmp_path)), {})
    assert len(call) < 5000
    assert {a.sha256 for a in sent.values()} == {a.sha256 for a in (*artifacts, write_operator(REFERENCE, tmp_path))}


def test_what_the_device_says_of_its_time_is_believed(tmp_path: Path) -> None:
    phone = SimulatedPhone(f"{tmp_path.name}-slow", load_profile("simulated-mid"), seed=4)
    device = simulated_device(phone)
    with LocalFarm({"phone": device}) as farm:
        (told,) = measure_timed(FarmDevice(farm.on("phone")), [write_operator(SPECS[0], tmp_path)], device.default_bench(), None)
    assert float(told.context[DEVICE_S]) == pytest.approx(phone.clock.monotonic(), rel=0.1)
