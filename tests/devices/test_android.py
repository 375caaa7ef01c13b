"""Android as a System: what its programs print is read right, its settings come back whatever happens."""

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from paceline.devices.state import DeviceState
from paceline.devices.systems import android_text as text
from paceline.devices.systems.android import AndroidLimits, AndroidSystem
from paceline.devices.systems.android_settings import QUIET
from paceline.devices.testing.adb_daemon import AdbDaemon
from paceline.devices.testing.phone import Phone
from paceline.devices.transports.adb import AdbTransport
from paceline.devices.transports.transport import Completed
from paceline.errors import DeviceError, TransientDeviceError

from adb_phones import adb_server, needs_adb, programs

_LINES = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\r"), max_size=80)


_PIECES = (
    *("Temperature{mValue=", "NaN", "1e999", ", mType=0, mName=x, mStatus=0}", "Thermal Status: ", "temperature: ", "level: "),
    *("scale: 0", "-", "7", ":", " ", "\n", "[a]: [b]", "cpu"),
)
_READERS = (text.thermal, text.thermal_zones, text.battery, text.frequencies, text.properties, text.cpu_list)


@pytest.mark.parametrize("reader", _READERS)
@given(said=st.one_of(_LINES, st.lists(st.sampled_from(_PIECES)).map("".join)))
def test_no_text_breaks_a_reader(reader: Callable[[str], object], said: str) -> None:
    reader(said)


@given(parts=st.dictionaries(st.from_regex(r"[a-z]{1,8}", fullmatch=True), _LINES.map(lambda x: x.strip("\n")), min_size=1))
def test_sections_come_apart_as_they_were_put_together(parts: dict[str, str]) -> None:
    said = "".join(f"\n@@paceline {name}\n{output}" for name, output in parts.items())
    assert text.sections(said) == parts


def test_a_batch_is_one_command_of_which_no_part_spoils_another() -> None:
    command = text.batched({"one": "echo 1; exit_is_missing", "two": "printf 2", "none": "false", "three": "echo 3 >&2; echo 3"})
    done = subprocess.run(["sh", "-c", command], capture_output=True, text=True)
    assert text.sections(done.stdout) == {"one": "1", "two": "2", "none": "", "three": "3"}


@given(st.dictionaries(st.from_regex(r"[a-z.]{1,12}", fullmatch=True), st.from_regex(r"[ -~]{0,20}", fullmatch=True)))
def test_properties(values: dict[str, str]) -> None:
    assert text.properties("".join(f"[{name}]: [{value}]\n" for name, value in values.items())) == values


@given(
    st.lists(st.tuples(st.floats(1, 120), st.sampled_from([0, 1, 3, 9])), min_size=1),
    st.integers(0, 6),
    st.lists(st.tuples(st.floats(1, 120), st.sampled_from([0, 3])), max_size=3),
)
def test_the_sensors_count_and_the_hottest_of_a_kind(
    now: list[tuple[float, int]], status: int, cached: list[tuple[float, int]]
) -> None:
    def line(value: float, kind: int) -> str:
        return f"\tTemperature{{mValue={value}, mType={kind}, mName=some, name, mStatus=0}}\n"

    said = f"Thermal Status: {status}\nCached temperatures:\n{''.join(line(*t) for t in cached)}"
    said += (
        f"Current temperatures from HAL:\n{''.join(line(*t) for t in now)}{line(0.0, 0)}{line(float('nan'), 3)}{line(-3.4e38, 1)}"
    )
    found = text.thermal(said)
    assert found.pop("thermal_status") == status
    names = {0: "cpu", 1: "gpu", 3: "skin", 9: "npu"}
    assert found == {f"{names[kind]}_celsius": max(v for v, k in now if k == kind) for kind in {k for _, k in now}}


@pytest.mark.skipif("PACELINE_SAMPLES" not in os.environ, reason="PACELINE_SAMPLES doesn't name the folder of samples")
def test_a_real_phone() -> None:
    said = (Path(os.environ["PACELINE_SAMPLES"]) / "20_dumpsys_thermalservice_a52.txt").read_text()
    assert text.thermal(said) == {"thermal_status": 0, "cpu_celsius": 25.6, "battery_celsius": 23.8, "skin_celsius": 24.7}


def test_thermal_zones_of_either_unit() -> None:
    said = "cpu-0-0-usr 45100\nskin-therm 31\nbattery 29800\ngpuss-0 39000\ntsens_tz_sensor3 50200\npm8350 -273000\ngarbage\n"
    assert text.thermal_zones(said) == {"cpu_celsius": 50.2, "skin_celsius": 31.0, "battery_celsius": 29.8, "gpu_celsius": 39.0}


def test_a_battery() -> None:
    said = "Current Battery Service:\n  AC powered: false\n  USB powered: true\n  level: 90\n  scale: 200\n  temperature: 238\n"
    assert text.battery(said) == {"battery_percent": "45", "battery_celsius": "23.8", "powered": "usb"}
    assert text.battery("  AC powered: false\n") == {"powered": "no"}
    assert text.battery("Can't find service: battery\n") == {}


def test_clusters_are_named_by_their_speed() -> None:
    khz = text.frequencies("2914000: 8\n1704000: 0 1 2 3\n2367000: 4 5\n2367000: 6 7\n")
    assert text.clusters(khz) == {"little": (0, 1, 2, 3), "mid": (4, 5, 6, 7), "big": (8,)}
    assert text.clusters({0: 1}) == {"all": (0,)}
    assert list(text.clusters({0: 1, 1: 2})) == ["little", "big"]
    assert list(text.clusters({i: i for i in range(4)})) == ["little", "mid1", "mid2", "big"]
    assert text.clusters({}) == {}
    assert text.cpu_list("0-3,6\n") == (0, 1, 2, 3, 6)


@dataclass
class Script:
    """A transport that answers the same to everything."""

    said: bytes = b""
    address: str = "adb:script"
    commands: list[str] = field(default_factory=list)

    def run(self, command: str, timeout_s: float) -> Completed:
        self.commands.append(command)
        return Completed(0, self.said, b"")

    def push(self, path: Path, executable: bool = False) -> str:
        raise NotImplementedError

    def pull(self, remote: str, timeout_s: float) -> bytes:
        raise NotImplementedError

    def start(self, command: str) -> subprocess.Popen[bytes]:
        raise NotImplementedError


@pytest.mark.parametrize(
    ("condition", "reason"),
    [
        ({"thermal_status": "2"}, "throttles (thermal status 2, moderate): let it lie in the open"),
        ({"battery_celsius": "38.5"}, "battery has 38.5 °C, more than 38: let"),
        ({"skin_celsius": "41.0"}, "skin has 41 °C, more than 40"),
        ({"battery_percent": "29"}, "battery is at 29 %, less than 30 %: charge it"),
        ({"battery_saver": "on"}, "battery saver slows it down: switch it off"),
    ],
)
def test_trouble_says_what_to_do(tmp_path: Path, condition: dict[str, str], reason: str) -> None:
    system = AndroidSystem(Script(), DeviceState("x", tmp_path))
    fine = {
        "thermal_status": "0",
        "skin_celsius": "40.0",
        "battery_celsius": "38.0",
        "battery_percent": "30",
        "battery_saver": "off",
    }
    assert system.trouble(fine) == system.trouble({}) == ()
    (told,) = system.trouble(fine | condition)
    assert reason in told


def test_a_phone_that_boots_has_no_facts_yet(tmp_path: Path) -> None:
    said = b"\n@@paceline properties\n[sys.boot_completed]: [0]\n@@paceline gpu\n\n@@paceline cpus\n\n@@paceline clocks\n"
    with pytest.raises(TransientDeviceError, match="still booting"):
        AndroidSystem(Script(said), DeviceState("x", tmp_path)).facts()


def test_nothing_is_asked_where_nothing_was_changed(tmp_path: Path) -> None:
    script = Script()
    AndroidSystem(script, DeviceState("x", tmp_path)).restore_leftovers()
    assert not script.commands


# On the imitated phone


@pytest.fixture(scope="module")
def adb() -> Path:
    return next(iter(programs().values()))


@pytest.fixture(scope="module")
def port(adb: Path) -> Iterator[int]:
    with adb_server(adb) as port:
        yield port


@pytest.fixture(scope="module")
def daemon(tmp_path_factory: pytest.TempPathFactory, port: int) -> Iterator[AdbDaemon]:
    with AdbDaemon(tmp_path_factory.mktemp("phone"), Phone()) as daemon:
        yield daemon


@pytest.fixture
def transport(daemon: AdbDaemon, adb: Path, port: int) -> Iterator[AdbTransport]:
    yield AdbTransport(daemon.address, adb, port)
    daemon.faults.clear()


@pytest.fixture
def state(transport: AdbTransport, tmp_path: Path) -> DeviceState:
    return DeviceState(transport.address, tmp_path / "state")


@pytest.fixture
def system(transport: AdbTransport, state: DeviceState) -> AndroidSystem:
    return AndroidSystem(transport, state)


def kept(phone: Phone) -> dict[str, str | None]:
    """The settings that `quiet` changes, as they are now."""
    found = {name: phone.settings[name.split()[0]].get(name.split()[1]) for name in QUIET}
    return found | {"fixed": str(phone.fixed_performance)}


@needs_adb
def test_says_what_it_is(system: AndroidSystem) -> None:
    assert system.facts() == {
        "manufacturer": "Paceline",
        "model": "Imitated Phone",
        "soc": "Paceline I9",
        "build": "paceline/imitated/imitated:14/I9/1:user/test-keys",
        "android": "14",
        "sdk": "34",
        "abis": system.facts()["abis"],
        "gpu": "Paceline, Imitated GPU, OpenGL ES 3.2 v1",
        "cores": "9",
        "clusters": "4 x 1704 MHz + 4 x 2367 MHz + 1 x 2914 MHz",
        "imitated": "1",
    }
    assert system.cpus() == tuple(range(9))
    assert system.clusters() == {"little": (0, 1, 2, 3), "mid": (4, 5, 6, 7), "big": (8,)}


@needs_adb
def test_says_how_it_feels(system: AndroidSystem, daemon: AdbDaemon) -> None:
    found = system.condition()
    assert found["thermal_status"] == "0"
    assert {"skin_celsius", "cpu_celsius", "battery_celsius", "little_mhz", "mid_mhz", "big_mhz", "load"} <= found.keys()
    assert (found["battery_percent"], found["powered"], found["battery_saver"]) == ("80", "no", "off")
    assert system.trouble(found) == ()
    daemon.phone.thermal_override = 3
    daemon.phone.settings["global"]["low_power"] = "1"
    try:
        assert len(system.trouble(system.condition())) == 2
    finally:
        daemon.phone.thermal_override = None
        del daemon.phone.settings["global"]["low_power"]


@needs_adb
def test_holds_still_and_is_as_before_afterwards(system: AndroidSystem, daemon: AdbDaemon, state: DeviceState) -> None:
    before = kept(daemon.phone)
    with system.quiet():
        assert kept(daemon.phone) == dict(QUIET) | {"fixed": "True"}
        assert system.condition()["fixed_performance"] == "on"
        assert state.changed_settings()["global stay_on_while_plugged_in"] == "0"
    assert kept(daemon.phone) == before
    assert state.changed_settings() == {}
    assert "fixed_performance" not in system.condition()
    with pytest.raises(ZeroDivisionError), system.quiet():
        _ = 1 / 0
    assert kept(daemon.phone) == before


@needs_adb
def test_a_link_that_is_lost_meanwhile_leaves_the_journal(
    system: AndroidSystem, daemon: AdbDaemon, state: DeviceState, transport: AdbTransport
) -> None:
    def lose() -> None:
        daemon.faults.drop_after = 0
        transport.run("true", 10.0)

    before = kept(daemon.phone)
    with pytest.raises(TransientDeviceError, match="was lost"), system.quiet():
        lose()
    assert kept(daemon.phone) in (before, dict(QUIET) | {"fixed": "True"})
    system.restore_leftovers()
    assert kept(daemon.phone) == before
    assert state.changed_settings() == {}


@needs_adb
@pytest.mark.parametrize("when", ["before", "after"])
def test_what_a_killed_process_left_is_restored(
    daemon: AdbDaemon, adb: Path, port: int, state: DeviceState, system: AndroidSystem, when: str
) -> None:
    """The child is killed right before, or after, its changes reached the phone."""
    before = kept(daemon.phone)
    code = (
        "import os, signal\n"
        "from pathlib import Path\n"
        "from paceline.devices.state import DeviceState\n"
        "from paceline.devices.systems.android import AndroidSystem\n"
        "from paceline.devices.transports.adb import AdbTransport\n"
        f"transport = AdbTransport({daemon.address!r}, Path({str(adb)!r}), {port})\n"
        "run = transport.run\n"
        "def deadly(command, timeout_s):\n"
        f"    done = None if {when == 'before'} and 'put' in command else run(command, timeout_s)\n"
        "    if 'put' in command: os.kill(os.getpid(), signal.SIGKILL)\n"
        "    return done\n"
        "transport.run = deadly\n"
        f"with AndroidSystem(transport, DeviceState({state.address!r}, Path({str(state.folder.parent)!r}))).quiet(): pass\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.returncode == -signal.SIGKILL, done.stderr
    assert (kept(daemon.phone) == before) == (when == "before")
    assert set(state.changed_settings()) == {*QUIET, "fixed_performance"}
    system.restore_leftovers()
    assert kept(daemon.phone) == before
    assert state.changed_settings() == {}


@needs_adb
def test_a_phone_that_refuses_says_so(daemon: AdbDaemon, state: DeviceState, transport: AdbTransport) -> None:
    """Without a fixed-performance mode, and with a setting that it keeps to itself."""

    def run(command: str, timeout_s: float) -> Completed:
        return send(
            command.replace("cmd power", "cmd nothing").replace("settings put system screen_brightness ", ": "), timeout_s
        )

    send, transport.run = transport.run, run  # type: ignore[method-assign]
    system = AndroidSystem(transport, state)
    with system.quiet():
        found = system.condition()
    assert found["fixed_performance"] == "unavailable"
    assert found["settings_refused"] == "screen_brightness"
    assert state.changed_settings() == {}
    state.remember_setting("system screen_brightness", "77")
    with pytest.raises(DeviceError, match=r"screen_brightness \(128, was 77\); restore them by hand"):
        system.restore_leftovers()
    assert set(state.changed_settings()) == {"system screen_brightness"}


def test_limits_are_settings(tmp_path: Path) -> None:
    system = AndroidSystem(Script(), DeviceState("x", tmp_path), AndroidLimits(thermal_status=1, battery_percent=10))
    assert system.trouble({"thermal_status": "1", "battery_percent": "12"}) == ()
