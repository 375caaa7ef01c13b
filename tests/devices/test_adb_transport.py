"""The adb transport against a device-side daemon, with the real adb programs; and over AOSP's adbd where it is built."""

import os
import stat
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from paceline.devices.testing.adb_daemon import AdbDaemon, RealAdbd
from paceline.devices.testing.adb_daemon.link import OLD
from paceline.devices.testing.transports import TransportTestSuite
from paceline.devices.transports.adb import AdbTransport
from paceline.devices.transports.adb_client import FoundDevice, devices_found, parse_devices
from paceline.devices.transports.transport import CommandTimeoutError
from paceline.errors import DeviceError, TransientDeviceError

from adb_phones import adb_server, children_of, disconnect, kill_server, needs_adb, programs

FOLDER = "/data/local/tmp/paceline"
_S = 30.0

once = pytest.mark.parametrize("adb", list(programs())[:1], indirect=True)
"""For what takes seconds and doesn't depend on the adb."""

pytestmark = needs_adb


@pytest.fixture(scope="module", params=programs())
def adb(request: pytest.FixtureRequest) -> Path:
    return programs()[request.param]


@pytest.fixture(scope="module")
def port(adb: Path) -> Iterator[int]:
    with adb_server(adb) as port:
        yield port


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory, port: int) -> Iterator[AdbDaemon]:
    with AdbDaemon(tmp_path_factory.mktemp("phone")) as daemon:
        yield daemon


@pytest.fixture
def phone(shared: AdbDaemon) -> Iterator[AdbDaemon]:
    yield shared
    shared.faults.clear()


@pytest.fixture
def transport(phone: AdbDaemon, adb: Path, port: int) -> AdbTransport:
    return AdbTransport(phone.address, adb, port)


def stored(phone: AdbDaemon) -> set[str]:
    """The files in the work folder."""
    folder = phone.path(FOLDER)
    return {path.name for path in folder.iterdir()} if folder.exists() else set()


class TestAdbTransport(TransportTestSuite):
    @pytest.fixture
    def transport(self, transport: AdbTransport) -> AdbTransport:
        return transport

    @pytest.fixture
    def cut(self, phone: AdbDaemon) -> Callable[[], None]:
        return phone.cut


@pytest.fixture(scope="module")
def real(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RealAdbd]:
    with RealAdbd(Path(os.environ["PACELINE_ADBD"]), tmp_path_factory.mktemp("adbd")) as adbd:
        yield adbd


@pytest.mark.skipif("PACELINE_ADBD" not in os.environ, reason="PACELINE_ADBD doesn't name an adbd (tests/devices/build_adbd.sh)")
class TestOverRealAdbd(TransportTestSuite):
    @pytest.fixture
    def transport(self, real: RealAdbd, adb: Path, port: int) -> AdbTransport:
        return AdbTransport(real.address, adb, port, folder=real.base + FOLDER)

    @pytest.fixture
    def cut(self, real: RealAdbd, adb: Path, port: int) -> Callable[[], None]:
        return lambda: disconnect(adb, port, real.address)


def test_a_push_that_is_cut_leaves_nothing(phone: AdbDaemon, transport: AdbTransport, tmp_path: Path) -> None:
    path = tmp_path / "model.tflite"
    path.write_bytes(os.urandom(3_000_000))
    before = stored(phone)
    phone.faults.once(drop_push_after=1_000_000)
    with pytest.raises(TransientDeviceError, match=r"model\.tflite on its way"):
        transport.push(path)
    assert stored(phone) == before
    assert transport.pull(transport.push(path), _S) == path.read_bytes()


def test_a_full_disk_is_named_with_what_is_free(phone: AdbDaemon, transport: AdbTransport, tmp_path: Path) -> None:
    path = tmp_path / "model.tflite"
    path.write_bytes(os.urandom(100_000))
    before = stored(phone)
    phone.faults.disk_free = 1000
    with pytest.raises(DeviceError, match=r"100000 bytes\) doesn't fit .*: \d+ kB are free in /data.*delete something") as raised:
        transport.push(path)
    assert not isinstance(raised.value, TransientDeviceError)
    phone.faults.clear()
    assert stored(phone) == before
    transport.push(path)


def test_a_push_that_arrives_changed_is_noticed(phone: AdbDaemon, transport: AdbTransport, tmp_path: Path) -> None:
    path = tmp_path / "model.tflite"
    path.write_bytes(os.urandom(10_000))
    before = stored(phone)
    phone.faults.once(corrupt_push=True)
    with pytest.raises(TransientDeviceError, match=r"arrived on .* changed"):
        transport.push(path)
    assert stored(phone) == before
    assert transport.pull(transport.push(path), _S) == path.read_bytes()


def test_a_pull_that_arrives_changed_is_noticed(transport: AdbTransport, adb: Path, port: int, tmp_path: Path) -> None:
    (tmp_path / "model").write_bytes(b"x" * 5000 + os.urandom(8).hex().encode())
    remote = transport.push(tmp_path / "model")
    liar = tmp_path / "adb"
    liar.write_text(
        f'#!/bin/bash\nif [[ "$*" == *xxx* || "$*" == *cat* ]]; then {adb} "$@" | sed s/xxxx/xyxx/; else exec {adb} "$@"; fi\n'
    )
    liar.chmod(0o755)
    with pytest.raises(TransientDeviceError, match="arrived changed"):
        AdbTransport(transport.serial, liar, port).pull(remote, _S)


def test_a_pull_that_is_cut_is_no_file(phone: AdbDaemon, transport: AdbTransport, tmp_path: Path) -> None:
    (tmp_path / "model").write_bytes(os.urandom(500_000))
    remote = transport.push(tmp_path / "model")
    phone.faults.once(shell_truncate=100_000)
    with pytest.raises(TransientDeviceError, match="was lost"):
        transport.pull(remote, _S)


@pytest.mark.parametrize("size", [0, 10, 50, 4000])
def test_half_an_output_is_no_result(phone: AdbDaemon, transport: AdbTransport, size: int) -> None:
    transport.run(":", _S)
    phone.faults.once(shell_truncate=size)
    with pytest.raises(TransientDeviceError, match="the answer to `seq 1 10000` was lost"):
        transport.run("seq 1 10000", _S)
    assert transport.run("seq 1 10000", _S).out.splitlines()[-1] == b"10000"


def test_a_reported_exit_code_is_not_believed(phone: AdbDaemon, transport: AdbTransport) -> None:
    phone.faults.shell_exit = 0
    assert transport.run("exit 3", _S).code == 3


def test_a_hang_ends_at_the_deadline_and_nothing_runs_on(phone: AdbDaemon, transport: AdbTransport) -> None:
    transport.run(":", _S)
    with pytest.raises(CommandTimeoutError, match=r"longer than .* s on .*was ended there"):
        transport.run("sleep 51234 & sleep 51235", 1)
    assert not children_of("sleep 5123")


@once
def test_a_phone_that_runs_nothing_any_more_is_not_waited_for(phone: AdbDaemon, transport: AdbTransport) -> None:
    transport.run(":", _S)
    phone.faults.shell_hang = True
    with pytest.raises(CommandTimeoutError, match=r"longer than .*doesn't answer"):
        transport.run("echo on", 1)
    phone.faults.clear()
    assert transport.run("echo on", _S).text == "on"


def test_what_a_cut_command_left_is_ended_before_the_next(phone: AdbDaemon, transport: AdbTransport) -> None:
    command = "trap '' HUP; (trap '' HUP; setsid sleep 61234) & echo on; sleep 61235"
    later = threading.Timer(1.0, phone.cut)
    later.start()
    with pytest.raises(TransientDeviceError, match="was lost"):
        transport.run(command, _S)
    later.join()
    transport.run(":", _S)
    assert not children_of("sleep 6123")


def test_a_server_that_is_killed_in_mid_run(transport: AdbTransport, adb: Path, port: int) -> None:
    transport.run(":", _S)
    later = threading.Timer(0.5, kill_server, (adb, port))
    later.start()
    with pytest.raises(TransientDeviceError, match=f"{transport.serial} is not connected, the answer to .* was lost"):
        transport.run("sleep 71234", _S)
    later.join()
    assert transport.run("echo on", _S).text == "on"
    assert not children_of("sleep 71234")


@once
def test_a_reboot_in_mid_run(phone: AdbDaemon, transport: AdbTransport) -> None:
    later = threading.Timer(0.5, phone.reboot)
    later.start()
    with pytest.raises(TransientDeviceError, match="was lost"):
        transport.run("sleep 81234", _S)
    later.join()
    assert transport.run("echo on", _S).text == "on"
    assert not children_of("sleep 81234")


@once
@pytest.mark.parametrize(("fault", "match"), [({"auth": "deny"}, "accept the dialog"), ({"offline": True}, "is offline: look")])
def test_a_phone_that_cannot_be_used_says_why(tmp_path: Path, adb: Path, port: int, fault: dict[str, object], match: str) -> None:
    with AdbDaemon(tmp_path) as daemon:
        for name, value in fault.items():
            setattr(daemon.faults, name, value)
        transport = AdbTransport(daemon.address, adb, port, wait_s=1.5)
        with pytest.raises(TransientDeviceError, match=match) as raised:
            transport.run("echo on", _S)
        assert daemon.address in str(raised.value)
        found = {device.serial: device for device in devices_found(adb, port)}[daemon.address]
        assert found.state in ("unauthorized", "offline")
        assert found.remedy
        daemon.faults.clear()
        daemon.cut()
        assert AdbTransport(daemon.address, adb, port).run("echo on", _S).text == "on"


@once
def test_a_phone_that_is_not_there(adb: Path, port: int) -> None:
    with pytest.raises(TransientDeviceError, match="device R5CT10 is not connected: replug the cable"):
        AdbTransport("R5CT10", adb, port, wait_s=0.2).run("echo on", _S)
    with pytest.raises(TransientDeviceError, match=r"127\.0\.0\.1:9 is not connected: look whether it is on"):
        AdbTransport("127.0.0.1:9", adb, port, wait_s=0.2).run("echo on", _S)


def test_an_adb_that_is_not_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(DeviceError, match=r"there is no adb at .*pip install"):
        AdbTransport("x", tmp_path / "adb")
    (tmp_path / "adb").write_text("")
    with pytest.raises(DeviceError, match=r"can't run .*Permission denied.*pip install"):
        AdbTransport("x", tmp_path / "adb").run("true", _S)
    monkeypatch.setenv("PATH", "/nonexistent")
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(DeviceError, match=r"adb isn't installed.*apt-get install adb"):
        AdbTransport("x")


def test_files_that_nobody_uses_are_removed(phone: AdbDaemon, adb: Path, port: int, tmp_path: Path) -> None:
    folder = phone.path(FOLDER)
    folder.mkdir(parents=True, exist_ok=True)
    long_ago, an_hour_ago = time.time() - 8 * 86400, time.time() - 4000
    for name, at in (("old", long_ago), ("crashed.partial", an_hour_ago), ("fresh", an_hour_ago)):
        (folder / name).write_bytes(b"")
        os.utime(folder / name, (at, at))
    path = tmp_path / "model"
    path.write_bytes(os.urandom(100))
    os.utime(path, (long_ago, long_ago))
    remote = AdbTransport(phone.address, adb, port).push(path)
    assert AdbTransport(phone.address, adb, port).push(path) == remote
    left = stored(phone)
    assert {"fresh", remote.rsplit("/", 1)[1]} <= left
    assert not {"old", "crashed.partial"} & left
    assert not phone.path(remote).stat().st_mode & stat.S_IXUSR


def test_what_the_server_lists() -> None:
    text = """List of devices attached
* daemon not running; starting now at tcp:5037
R5CT10                 device usb:1-2 product:husky model:Pixel_8_Pro device:husky transport_id:9
emulator-5554          offline transport_id:1
192.168.1.7:5555       unauthorized transport_id:3
0A1B                   no permissions (missing udev rules? user is in the plugdev group) usb:3-2 transport_id:4
"""
    found = parse_devices(text)
    assert [(d.serial, d.state.split(" (")[0]) for d in found] == [
        ("R5CT10", "device"),
        ("emulator-5554", "offline"),
        ("192.168.1.7:5555", "unauthorized"),
        ("0A1B", "no permissions"),
    ]
    assert dict(found[0].labels)["model"] == "Pixel_8_Pro"
    assert not found[0].remedy
    assert "accept the dialog" in found[2].remedy
    assert "udev" in FoundDevice("x", "no permissions").remedy or "android-sdk" in found[3].remedy


def test_a_phone_before_android_7_is_refused(tmp_path: Path, adb: Path, port: int) -> None:
    with AdbDaemon(tmp_path, protocol=OLD) as daemon, pytest.raises(DeviceError, match=r"too old.*Android 7"):
        AdbTransport(daemon.address, adb, port).run("exit 3", _S)
