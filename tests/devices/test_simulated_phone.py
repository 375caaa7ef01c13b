"""Simulated phones as devices: the protocol, time, heat, clocks, noise, and the same figures from the same seed."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import time
import tomllib
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from paceline.devices.composed import ComposedDevice
from paceline.devices.kinds import simulated
from paceline.devices.simulated.clock import VirtualClock
from paceline.devices.simulated.device import simulated_device
from paceline.devices.simulated.faults import KINDS
from paceline.devices.simulated.phone import FIXED, SimulatedPhone
from paceline.devices.simulated.profile import load_profile
from paceline.devices.testing import DeviceTestSuite
from paceline.errors import ConfigError, DeviceError
from paceline.exporters.operator_models import write_operator
from paceline.measurement import Artifact, Bench, usual_reference
from paceline.store import Store

from samples import conv

MID = load_profile("simulated-mid")
QUICK = Bench(runtime="simulated", batches=3, repeats=1)
FOUR = replace(QUICK, threads=4)


@pytest.fixture(params=["simulated-mid", "simulated-wide"])
def phone(request: pytest.FixtureRequest) -> SimulatedPhone:
    return SimulatedPhone(f"suite-{request.param}", load_profile(request.param), 7)


class TestSimulatedPhone(DeviceTestSuite):
    @pytest.fixture
    def device(self, phone: SimulatedPhone) -> ComposedDevice:
        return simulated_device(phone)

    @pytest.fixture(params=["xnnpack", "builtin", "gpu"])
    def bench(self, request: pytest.FixtureRequest) -> Bench:
        return replace(QUICK, delegate=request.param)

    @pytest.fixture
    def models(self, tmp_path: Path) -> Sequence[Artifact]:
        return [write_operator(spec, tmp_path) for spec in (conv(16, 8, 8, 1), conv(16, 16, 16, 3), conv(112, 96, 192, 3))]


def test_every_row_says_simulated(models: Sequence[Artifact], tmp_path: Path) -> None:
    device = simulated.open_simulated("rows", "simulated-mid", seed=3)
    found = device.measure(models, device.default_bench(), reference=models[0])
    assert device.info.simulated
    assert device.info.kind == "simulated"
    assert device.address == "simulated:rows"
    with Store(tmp_path / "store.db") as store:
        store.add_device(device.info)
        store.add(found)
        for m in found:
            assert m.context["simulated_before"] == m.context["simulated_after"] == "yes"
            assert '"runtime": "simulated"' in m.bench
        rows = store.rows()
        assert len(rows) == len(models)
        assert all(store.devices()[row["device"]].simulated for row in rows)


def test_phones_of_one_profile_may_share_measurements() -> None:
    one, same = (simulated.open_simulated(name, "simulated-mid", seed).info for name, seed in (("one", 1), ("same", 2)))
    other = simulated.open_simulated("other", "simulated-wide", 1).info
    assert one.fingerprint == same.fingerprint != other.fingerprint


_CHILD = """
import json, sys
from pathlib import Path
from paceline.devices.kinds.simulated import open_simulated
from paceline.measurement import Artifact
device = open_simulated("twin", "simulated-mid", int(sys.argv[1]))
models = [Artifact(Path(p), p) for p in sys.argv[2:]]
print(json.dumps([m.samples_ms for m in device.measure(models, device.default_bench(), models[0])]))
"""


def test_the_same_seed_gives_the_same_samples_in_a_second_process(models: Sequence[Artifact]) -> None:
    def samples(seed: int) -> object:
        command = [sys.executable, "-c", _CHILD, str(seed), *(str(a.path) for a in models)]
        return json.loads(subprocess.run(command, capture_output=True, check=True, text=True).stdout)

    device = simulated.open_simulated("twin", "simulated-mid", seed=11)
    own = [m.samples_ms for m in device.measure(models, device.default_bench(), models[0])]
    assert samples(11) == json.loads(json.dumps(own)) != samples(12)


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("profile", ["simulated-mid", "simulated-wide"])
def test_the_estimator_finds_the_truth(models: Sequence[Artifact], profile: str, seed: int) -> None:
    phone = SimulatedPhone("truth", load_profile(profile), seed)
    device = simulated_device(phone)
    bench = device.default_bench()
    found = device.measure(models, bench, reference=models[0])
    usual = usual_reference(found)
    truth = [phone.true_ms(a, bench) for a in models]
    for m, true in zip(found, truth, strict=True):
        assert m.ms_at(usual) / found[0].ms_at(usual) == pytest.approx(true / truth[0], rel=0.01)
        assert m.ms == pytest.approx(true, rel=0.05)
        assert not m.unstable(bench.tolerance)


def test_noise_has_a_floor_a_tail_and_a_slow_drift(models: Sequence[Artifact]) -> None:
    phone = SimulatedPhone("noise", MID, 1)
    phone.settings[FIXED] = "1"
    planned = phone.plan(models[1], QUICK)
    samples = phone.invokes(planned, 20_000) / planned.ms
    low, middle = np.percentile(samples, [1, 50])
    assert middle / low < 1.02
    assert 0.001 < np.mean(samples > 1.5 * middle) < 0.01
    paces = []
    for _ in range(200):
        phone.clock.sleep(MID.noise.drift_s)
        paces.append(float(phone.invokes(planned, 50).min()))
    drift = np.std(np.log(paces))
    assert MID.noise.drift / 2 < drift < 2 * MID.noise.drift
    at_once = np.std(np.log([float(phone.invokes(planned, 50).min()) for _ in range(200)]))
    assert at_once < drift / 4


def test_load_heats_and_throttles_and_rest_cools(models: Sequence[Artifact]) -> None:
    phone = SimulatedPhone("heat", MID, 1)
    phone.settings[FIXED] = "1"
    phone.heat.ambient_c = 30.0
    planned = phone.plan(models[-1], FOUR)
    cool_ms = float(np.median(phone.invokes(planned, 100)))
    before = phone.condition()
    seen, clocks = set[str](), []
    for _ in range(300):
        phone.invokes(planned, int(2000 / planned.ms))
        seen.add(phone.condition()["thermal_status"])
        clocks.append(int(phone.condition()["big_mhz"]))
    hot = phone.condition()
    assert before["thermal_status"] == "0"
    assert {"0", "1"} <= seen
    assert float(hot["celsius"]) > float(before["celsius"]) + 8
    assert float(hot["battery_percent"]) < float(before["battery_percent"]) == 100.0
    assert min(clocks) == round(2900 * MID.heat.steps[int(max(seen)) - 1].clock)
    assert float(np.median(phone.invokes(planned, 100))) > 1.1 * cool_ms
    phone.clock.sleep(1200)
    cooled = phone.condition()
    assert cooled["thermal_status"] == "0"
    assert float(cooled["celsius"]) == pytest.approx(30.0 + 5.5 * 0.4, abs=0.5)
    assert float(cooled["battery_percent"]) > float(hot["battery_percent"])


def test_throttling_has_hysteresis() -> None:
    body = SimulatedPhone("hysteresis", MID, 1).heat
    step = MID.heat.steps[0]
    body.celsius = step.above_c + 0.1
    body.spend(0.01, 0.0)
    assert (body.status, body.clock) == (1, step.clock)
    body.celsius = (step.above_c + step.below_c) / 2
    body.spend(0.01, 0.0)
    assert body.status == 1
    body.celsius = step.below_c - 0.1
    body.spend(0.01, 0.0)
    assert (body.status, body.clock) == (0, 1.0)
    body.celsius = step.below_c + 0.5
    body.spend(0.01, 0.0)
    assert body.status == 0


def test_a_hot_phone_is_waited_for_on_its_own_clock(models: Sequence[Artifact]) -> None:
    phone = SimulatedPhone("waiting", MID, 1)
    device = simulated_device(phone)
    bench = device.default_bench()
    phone.heat.celsius = 50.0
    phone.spend(0.1)
    assert not device.health().ready
    assert "let it cool" in device.health().advice[0]
    before = time.monotonic()
    (m,) = device.measure(models[:1], bench)
    assert time.monotonic() - before < 30
    assert float(m.context["waited_s"]) > 60
    assert m.context["thermal_status_after"] == "0"
    assert m.ms == pytest.approx(phone.true_ms(models[0], bench), rel=0.05)
    phone.battery_wh = 0.1 * MID.battery_wh
    assert any("charge it" in advice for advice in device.health().advice)


def test_without_fixed_performance_the_clock_climbs_to_its_boost(models: Sequence[Artifact]) -> None:
    phone = SimulatedPhone("governor", MID, 1)
    planned = phone.plan(models[1], QUICK)
    samples = phone.invokes(planned, 10_000) / planned.ms
    assert samples[0] > 2.5
    assert np.median(samples[-500:]) == pytest.approx(1 / MID.governor.boost, rel=0.05)
    phone.clock.sleep(1.0)
    assert phone.invokes(planned, 1)[0] > 2.5 * planned.ms
    assert FIXED not in phone.settings
    assert simulated_device(phone).measure(models[1:2], QUICK)[0].ms == pytest.approx(planned.ms, rel=0.05)
    assert FIXED not in phone.settings


def test_batches_keep_to_the_bench(models: Sequence[Artifact]) -> None:
    device = simulated.open_simulated("batches", "simulated-mid", 1)

    def counts(artifact: Artifact, **settings: float) -> set[int]:
        (m,) = device.measure([artifact], replace(QUICK, **settings))  # type: ignore[arg-type]
        return {len(batch) for batch in m.samples_ms}

    assert counts(models[0], max_invokes=70) == {70}
    assert counts(models[-1]) == {50}
    assert counts(models[-1], max_batch_ms=0.01) == {10}


def test_the_operators_make_up_the_profile(models: Sequence[Artifact]) -> None:
    device = simulated.open_simulated("profile", "simulated-mid", 1)
    (operator,) = device.profile(models[-1], QUICK)
    assert (operator.name, operator.delegated) == ("CONV_2D", True)
    (partition,) = device.profile(models[-1], replace(QUICK, delegate="gpu"))
    assert partition.name == "gpu of 1 operators"
    with pytest.raises(DeviceError, match="TFL3"):
        device.profile(Artifact(Path(__file__), "text"), QUICK)


def test_what_a_phone_has_not_is_named(models: Sequence[Artifact]) -> None:
    device = simulated.open_simulated("wrong", "simulated-mid", 1)
    for wrong, reason in (
        ({"delegate": "hexagon"}, "'hexagon' isn't available.*xnnpack, builtin, gpu, nnapi"),
        ({"threads": 9}, "9 threads.*8 CPUs"),
        ({"affinity": (8,)}, "CPU 8"),
        ({"precision": "int4"}, "'int4' isn't available for xnnpack.*fp32, fp16"),
        ({"delegate": "builtin", "precision": "fp16"}, "available: fp32$"),
        ({"options": (("a", "b"),)}, "option 'a'"),
    ):
        with pytest.raises(DeviceError, match=reason):
            device.measure(models[:1], replace(QUICK, **wrong))  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match=r"real_time = 2.*0 \(no waiting\) to 1"):
        simulated.open_simulated("fast", "simulated-mid", 1, real_time=2)


def test_onnx_is_a_value(models: Sequence[Artifact]) -> None:
    device = simulated.open_simulated("onnx", "simulated-mid", 1)
    (m,) = device.measure([replace(models[0], format="onnx")], QUICK)
    assert m.failure is not None
    assert ".onnx" in m.failure.reason


def test_a_virtual_second_takes_the_real_time_it_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    slept: list[float] = []
    monkeypatch.setattr(time, "sleep", slept.append)
    still = VirtualClock()
    still.sleep(3600.0)
    assert (still.monotonic(), slept) == (3600.0, [])
    half = VirtualClock(0.5)
    half.sleep(10.0)
    assert half.monotonic() == 10.0
    assert slept == [5.0]


def test_the_documented_examples_work(
    models: Sequence[Artifact], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    page = (Path(__file__).parents[2] / "docs/simulated.md").read_text(encoding="utf-8")
    (program,), (table,) = (re.findall(rf"```{language}\n(.*?)```", page, re.DOTALL) for language in ("python", "toml"))
    (tmp_path / "model.tflite").write_bytes(models[0].path.read_bytes())
    monkeypatch.chdir(tmp_path)
    exec(program, {})
    figures, waited = capsys.readouterr().out.splitlines()
    found, true = map(float, figures.split())
    assert found == pytest.approx(true, rel=0.05)
    assert float(waited) > 60
    (entry,) = tomllib.loads(table)["device"]
    settings = {name: value for name, value in entry.items() if name not in ("id", "kind")}
    assert simulated.open_simulated(entry["id"], **settings | {"faults": None}).info.simulated
    assert set(settings["faults"]) - {"schedule"} <= set(KINDS)
    assert set(KINDS) <= set(re.findall(r"`(\w+)`", page))
