"""A device made of parts: condition, loss, fallback, quarantine, one process at a time."""

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from paceline.devices.composed import ComposedDevice
from paceline.devices.gate import Gate
from paceline.devices.state import DeviceState
from paceline.errors import DeviceError, TransientDeviceError
from paceline.measurement import Artifact, Bench, Delegation, Failure, TransientFailure

from parts import QUICK, Body, Hours, Link, Script

PHONE = Gate(wait_s=100, poll_s=10, refuse=True, throughout=True, quarantine_after=2)


@pytest.fixture
def artifact(tmp_path: Path) -> Artifact:
    (tmp_path / "a.tflite").write_text("a")
    return Artifact(tmp_path / "a.tflite", "a")


@pytest.fixture
def state(tmp_path: Path) -> DeviceState:
    return DeviceState("script:1", tmp_path / "state")


def device(
    state: DeviceState, runner: Script, body: Body | None = None, link: Link | None = None, gate: Gate = PHONE
) -> ComposedDevice:
    return ComposedDevice("phone", "script", link or Link(), body or Body(), runner, gate, state=state, hold_s=0.2, clock=Hours())


def test_it_is_what_its_parts_are(state: DeviceState, artifact: Artifact) -> None:
    phone = device(state, Script({"a": [2.0]}))
    assert dict(phone.info.facts) == {"soc": "script", "script": "1"}
    assert (phone.info.kind, phone.info.delegates, phone.address) == ("script", ("cpu", "gpu"), "script:1")
    assert phone.default_bench() == Bench(runtime="script", delegate="cpu", affinity=(3,))
    assert phone.default_bench("gpu", threads=2).affinity == (2, 3)
    (m,) = phone.measure([artifact], QUICK)
    assert (m.ms, m.median_ms, m.failure) == (2.0, 2.0, None)
    assert (m.context["skin_celsius_before"], m.context["skin_celsius_after"]) == ("30", "30")
    assert phone.health().ready


def test_a_hot_device_is_given_time_to_cool(state: DeviceState, artifact: Artifact) -> None:
    body = Body([50.0, 45.0, 38.0])
    (m,) = device(state, Script({"a": [1.0]}), body).measure([artifact], QUICK)
    assert (m.failure, m.context["waited_s"], m.context["trouble"]) == (None, "20", "too hot: let it cool")
    assert m.context["skin_celsius_before"] == "38"
    assert body.quieted == ["changed", "restored"]


def test_a_device_that_stays_hot_is_refused_or_marked(state: DeviceState, artifact: Artifact) -> None:
    with pytest.raises(TransientDeviceError, match="after 100 s of waiting: too hot"):
        device(state, Script({"a": [1.0]}), Body([50.0])).measure([artifact], QUICK)
    marked = replace(PHONE, refuse=False)
    (m,) = device(state, Script({"a": [1.0]}), Body([50.0]), gate=marked).measure([artifact], QUICK)
    assert (m.failure, m.context["trouble"]) == (None, "too hot: let it cool")


def test_a_round_that_ends_in_trouble_is_repeated(state: DeviceState, artifact: Artifact) -> None:
    """Looks: before; then before and after each round. After the second round it is hot, and cools while it waits."""
    body = Body([30.0, 30.0, 30.0, 30.0, 50.0, 50.0, 30.0])
    (m,) = device(state, Script({"a": [1.0, 9.0, 1.0]}), body).measure([artifact], QUICK)
    assert m.batch_ms == (1.0, 1.0, 1.0)
    assert m.context["restless_rounds"] == "1"


def test_a_lost_device_that_comes_back_loses_nothing(state: DeviceState, artifact: Artifact) -> None:
    runner = Script({"a": [1.0, TransientDeviceError("link cut"), 1.0]})
    (m,) = device(state, runner, link=Link(down=30)).measure([artifact], QUICK)
    assert (m.failure, runner.sessions) == (None, 2)


def test_a_device_that_stays_away_is_a_transient_failure_and_then_in_quarantine(state: DeviceState, artifact: Artifact) -> None:
    runner = Script({"a": [1.0, TransientDeviceError("link cut")]})
    phone = device(state, runner, link=Link(down=10_000))
    for _ in range(2):
        (m,) = phone.measure([artifact], QUICK)
        assert m.failure == TransientFailure("link cut")
    with pytest.raises(
        TransientDeviceError, match=r"quarantine: link cut; mend it, then: paceline devices doctor phone --release"
    ):
        phone.measure([artifact], QUICK)
    assert phone.health().advice == ("in quarantine: link cut",)
    state.release()
    runner.answers["a"] = [1.0]
    assert phone.measure([artifact], QUICK)[0].failure is None


def test_unstable_figures_end_in_quarantine_too_and_good_ones_start_the_count_again(
    state: DeviceState, artifact: Artifact, tmp_path: Path
) -> None:
    (tmp_path / "b.tflite").write_text("b")
    both = [artifact, Artifact(tmp_path / "b.tflite", "b")]
    runner = Script({"a": [1.0], "b": [1.0]})
    phone = device(state, runner)
    for wild in (True, False, True, True):
        jumps = [1.0, 2.0, 4.0, 8.0] if wild else [1.0]
        runner.answers.update({"a": [*jumps], "b": [*jumps]})
        assert phone.measure(both, QUICK)[0].failure is None
    with pytest.raises(TransientDeviceError, match="none of 2 figures was stable"):
        phone.measure(both, QUICK)


@pytest.mark.parametrize(
    ("delegation", "reason"),
    [
        (Delegation("gpu", 0, 0, ("CONV_2D",)), "delegate 'gpu' took no operator: silent fallback to the CPU"),
        (None, "delegate 'gpu' doesn't say whether it ran the model"),
    ],
)
def test_a_gpu_figure_of_the_cpu_is_none(
    state: DeviceState, artifact: Artifact, delegation: Delegation | None, reason: str
) -> None:
    phone = device(state, Script({"a": [1.0]}, delegation))
    (m,) = phone.measure([artifact], replace(QUICK, delegate="gpu"))
    assert (m.failure, m.samples_ms) == (Failure(reason), ())
    assert phone.measure([artifact], QUICK)[0].failure is None


def test_partial_delegation_is_told(state: DeviceState, artifact: Artifact) -> None:
    partial = Delegation("gpu", 2, 5, ("ARG_MAX",))
    (m,) = device(state, Script({"a": [1.0]}, partial)).measure([artifact], replace(QUICK, delegate="gpu"))
    assert (m.delegation, partial.state, m.failure) == (partial, "partial", None)


def test_what_it_cannot_do_is_named(state: DeviceState, artifact: Artifact) -> None:
    phone = device(state, Script({"a": [1.0]}))
    for wrong, reason in (
        ({"runtime": "litert"}, "use 'script'"),
        ({"delegate": "npu"}, "available: cpu, gpu"),
        ({"affinity": (9,)}, "CPU 9 isn't available.*usable: 0, 1, 2, 3"),
        ({"threads": 5}, "5 threads"),
    ):
        with pytest.raises(DeviceError, match=reason):
            phone.measure([artifact], replace(QUICK, **wrong))
    (m,) = phone.measure([replace(artifact, format="onnx")], QUICK)
    assert m.failure == Failure("runtime 'script' doesn't run .onnx files")


def test_only_one_process_measures_on_a_device(state: DeviceState, artifact: Artifact) -> None:
    code = (
        "import sys; from pathlib import Path; from paceline.devices.state import DeviceState\n"
        f"with DeviceState('script:1', Path({str(state.folder.parent)!r})).held(0):\n"
        "    print('held', flush=True); sys.stdin.read()"
    )
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, stdin=subprocess.PIPE, text=True) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == "held\n"
        with pytest.raises(TransientDeviceError, match=f"device script:1 is held by process {other.pid}"):
            device(state, Script({"a": [1.0]})).measure([artifact], QUICK)
        other.kill()
    assert device(state, Script({"a": [1.0]})).measure([artifact], QUICK)[0].failure is None


def test_changed_settings_are_remembered_until_restored(state: DeviceState) -> None:
    state.remember_setting("brightness", "120")
    state.remember_setting("brightness", "0")
    state.remember_setting("mode", "off")
    again = DeviceState("script:1", state.folder.parent)
    assert again.changed_settings() == {"brightness": "120", "mode": "off"}
    again.forget_setting("mode")
    assert state.changed_settings() == {"brightness": "120"}


def test_a_reference_that_cannot_be_measured_is_an_error(state: DeviceState, artifact: Artifact, tmp_path: Path) -> None:
    (tmp_path / "r.tflite").write_text("r")
    phone = device(state, Script({"a": [1.0], "r": [Failure("unsupported")]}))
    with pytest.raises(DeviceError, match="reference operator can't be measured: unsupported"):
        phone.measure([artifact], QUICK, Artifact(tmp_path / "r.tflite", "r"))
