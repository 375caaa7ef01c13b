"""Our own adb daemon under the contract with two versions of adb, and what only it can do: faults, hosts it refuses, heat."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from paceline.devices.testing.adb_daemon import OLD, AdbDaemon, AdbServer, Faults, Phone
from paceline.devices.testing.adb_daemon.auth import PublicKey
from paceline.devices.testing.adb_daemon.isolation import Mode
from paceline.errors import DeviceError
from paceline.measurement import Artifact

from adb_clients import adb as adb  # fixtures
from adb_clients import any_adb as any_adb
from adb_contract import CHECKS
from adb_target import Target, eventually

MEGABYTE = bytes(range(256)) * 4096


def attach(adb: AdbServer, folders: pytest.TempPathFactory, isolation: Mode) -> Iterator[Target]:
    try:
        with AdbDaemon(folders.mktemp("phone"), isolation=isolation) as daemon:
            adb.connect(daemon.address)
            yield Target(adb, daemon.address, "", folders.mktemp("host"), hangs_up=True)
    except DeviceError as error:
        if isolation == "rewriting":
            raise
        pytest.skip(str(error))


@pytest.fixture(scope="module")
def target(adb: AdbServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Target]:
    yield from attach(adb, tmp_path_factory, "namespaces")


@pytest.fixture(scope="module")
def target_without_namespaces(any_adb: AdbServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Target]:
    yield from attach(any_adb, tmp_path_factory, "rewriting")


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
def test_contract(target: Target, check: Callable[[Target], None]) -> None:
    check(target)


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
def test_contract_without_namespaces(target_without_namespaces: Target, check: Callable[[Target], None]) -> None:
    check(target_without_namespaces)


class Attached:
    """A daemon, and adb's commands to it."""

    def __init__(self, daemon: AdbDaemon, adb: AdbServer) -> None:
        self.daemon = daemon
        self.faults = daemon.faults
        self.adb = adb

    def run(self, *arguments: str, timeout_s: float = 20.0) -> tuple[int, str]:
        done = self.adb.run("-s", self.daemon.address, *arguments, timeout_s=timeout_s)
        return done.returncode, (done.stdout + done.stderr).decode(errors="replace").strip()

    def sh(self, command: str) -> str:
        code, text = self.run("shell", command)
        assert code == 0, text
        return text

    def state(self) -> str:
        return self.run("get-state")[1]

    def comes_back(self) -> bool:
        return eventually(lambda: self.state() == "device")


@pytest.fixture
def attached(any_adb: AdbServer, tmp_path: Path) -> Iterator[Attached]:
    with AdbDaemon(tmp_path / "phone") as daemon:
        any_adb.connect(daemon.address)
        yield Attached(daemon, any_adb)
        any_adb.run("disconnect", daemon.address)


def big_file(tmp_path: Path) -> str:
    (tmp_path / "big").write_bytes(MEGABYTE)
    return str(tmp_path / "big")


# faults


def test_full_disk(attached: Attached, tmp_path: Path) -> None:
    attached.faults.disk_free = 500_000
    code, text = attached.run("push", big_file(tmp_path), "/data/local/tmp/big")
    assert (code, "No space left on device" in text) == (1, True)
    assert not attached.daemon.path("/data/local/tmp/big").exists()
    attached.faults.disk_free = None
    assert attached.run("push", big_file(tmp_path), "/data/local/tmp/big")[0] == 0


def test_link_cut_in_a_push_leaves_a_part(attached: Attached, tmp_path: Path) -> None:
    attached.faults.once(drop_push_after=300_000)
    assert attached.run("push", big_file(tmp_path), "/data/local/tmp/big")[0] == 1
    assert attached.daemon.path("/data/local/tmp/big").stat().st_size == 300_000
    assert attached.faults.drop_push_after is None
    assert attached.comes_back()
    assert attached.run("push", big_file(tmp_path), "/data/local/tmp/big")[0] == 0


def test_link_cut_in_a_pull(attached: Attached, tmp_path: Path) -> None:
    attached.run("push", big_file(tmp_path), "/data/local/tmp/big")
    attached.faults.drop_pull_after = 300_000
    for _ in range(2):  # it lasts
        assert attached.run("pull", "/data/local/tmp/big", str(tmp_path / "back"))[0] == 1
        assert attached.comes_back()
    attached.faults.clear()
    assert attached.run("pull", "/data/local/tmp/big", str(tmp_path / "back"))[0] == 0


def test_corrupted_transfers_look_well(attached: Attached, tmp_path: Path) -> None:
    attached.faults.once(corrupt_push=True)
    assert attached.run("push", big_file(tmp_path), "/data/local/tmp/big")[0] == 0
    stored = attached.daemon.path("/data/local/tmp/big").read_bytes()
    assert sum(a != b for a, b in zip(stored, MEGABYTE, strict=True)) == 1
    attached.run("push", big_file(tmp_path), "/data/local/tmp/big")
    attached.faults.once(corrupt_pull=True)
    for differing in (1, 0):
        assert attached.run("pull", "/data/local/tmp/big", str(tmp_path / "back"))[0] == 0
        pulled = (tmp_path / "back").read_bytes()
        assert sum(a != b for a, b in zip(pulled, MEGABYTE, strict=True)) == differing


def test_shell_faults(attached: Attached) -> None:
    attached.faults.once(shell_exit=42)
    assert attached.run("shell", "echo all is well") == (42, "all is well")
    attached.faults.once(shell_delay=0.4)
    start = time.monotonic()
    assert attached.run("shell", "true")[0] == 0
    assert time.monotonic() - start >= 0.4
    attached.faults.once(shell_hang=True)
    with pytest.raises(subprocess.TimeoutExpired):
        attached.run("shell", "true", timeout_s=0.5)
    assert attached.run("shell", "true")[0] == 0
    attached.faults.once(shell_truncate=1000)
    assert attached.run("shell", "seq 10000")[1].startswith("1\n2\n3\n")
    assert attached.comes_back()
    assert len(attached.sh("seq 10000").split()) == 10000


def test_link_cut_after_some_commands(attached: Attached) -> None:
    attached.faults.drop_after = 2
    assert [attached.sh(f"echo {i}") for i in range(2)] == ["0", "1"]
    assert attached.run("shell", "echo 2")[1] != "2"
    assert attached.comes_back()
    assert attached.sh("echo 3") == "3"


def test_refused_services(attached: Attached, tmp_path: Path) -> None:
    attached.faults.refuse_services = ("sync:",)
    assert attached.run("push", big_file(tmp_path), "/data/local/tmp/big")[0] == 1
    assert attached.sh("echo still") == "still"
    attached.faults.clear()
    assert attached.run("push", big_file(tmp_path), "/data/local/tmp/big")[0] == 0


def test_delay_of_packets(attached: Attached) -> None:
    attached.faults.packet_delay = 0.1
    start = time.monotonic()
    assert attached.sh("echo slow") == "slow"
    assert time.monotonic() - start >= 0.3  # the stream's opening, its output and its exit code


def test_offline(attached: Attached) -> None:
    attached.faults.offline = True
    attached.daemon.cut()
    assert eventually(lambda: attached.state() != "device")
    attached.faults.offline = False
    attached.daemon.cut()
    assert attached.comes_back()


def test_reboot(attached: Attached) -> None:
    client = attached.adb.start("-s", attached.daemon.address, "shell", "sleep 987")
    assert eventually(lambda: "sleep 987" in attached.daemon.commands)
    attached.daemon.reboot(away_s=0.5)
    client.communicate()
    assert eventually(lambda: attached.state() != "device")
    assert attached.comes_back()
    assert attached.run("shell", "pgrep -f 'sleep 98[7]'")[0] == 1
    attached.run("reboot")
    assert attached.comes_back()
    attached.faults.once(reboot=0.2)
    assert attached.run("shell", "echo said")[1] != "said"
    assert attached.comes_back()
    assert attached.sh("echo said") == "said"


def test_faults_know_their_names() -> None:
    with pytest.raises(TypeError, match="no fault is named gremlins; there are: auth, corrupt_pull"):
        Faults().once(gremlins=True)


# authentication


def test_hosts_that_nobody_allowed(any_adb: AdbServer, tmp_path: Path) -> None:
    with AdbDaemon(tmp_path, faults=Faults(auth="deny")) as daemon:
        phone = Attached(daemon, any_adb)
        any_adb.run("connect", daemon.address)
        assert "unauthorized" in phone.run("shell", "true")[1]
        daemon.faults.auth = "prompt"
        any_adb.run("disconnect", daemon.address)
        any_adb.connect(daemon.address)
        assert phone.sh("echo allowed") == "allowed"
        (key,) = daemon.keys
        assert key.modulus.bit_length() == 2048
        daemon.faults.auth = "required"  # and now the key is known by its signature
        any_adb.run("disconnect", daemon.address)
        any_adb.connect(daemon.address)
        assert phone.sh("echo known") == "known"
        daemon.keys[:] = [PublicKey(key.modulus - 2, key.exponent)]  # somebody else's
        daemon.cut()
        assert eventually(lambda: "unauthorized" in phone.run("shell", "true")[1])
        any_adb.run("disconnect", daemon.address)


# other devices


def test_old_device_has_no_exit_codes(any_adb: AdbServer, tmp_path: Path) -> None:
    with AdbDaemon(tmp_path / "phone", protocol=OLD) as daemon:
        any_adb.connect(daemon.address)
        phone = Attached(daemon, any_adb)
        assert phone.run("shell", "echo out; echo err >&2; exit 7") == (0, "out\nerr")
        assert phone.run("push", big_file(tmp_path), "/data/local/tmp/big")[0] == 0
        assert phone.run("pull", "/data/local/tmp/big", str(tmp_path / "back"))[0] == 0
        assert (tmp_path / "back").read_bytes() == MEGABYTE
        any_adb.run("disconnect", daemon.address)


def test_many_devices_at_once(any_adb: AdbServer, tmp_path: Path) -> None:
    daemons = [AdbDaemon(tmp_path / str(i), Phone(f"PHONE{i}")) for i in range(6)]

    def use(daemon: AdbDaemon) -> str:
        with daemon:
            any_adb.connect(daemon.address)
            phone = Attached(daemon, any_adb)
            phone.run("push", big_file(daemon.root), "/data/local/tmp/big")
            found = phone.sh("getprop ro.serialno; cksum < /data/local/tmp/big; ls /data/local/tmp")
            any_adb.run("disconnect", daemon.address)
            return found

    with ThreadPoolExecutor(len(daemons)) as pool:
        found = list(pool.map(use, daemons))
    assert [text.split()[0] for text in found] == [f"PHONE{i}" for i in range(6)]
    assert len({tuple(text.split()[1:]) for text in found}) == 1
    assert found[0].split()[-1] == "big"


def test_what_is_no_packet_ends_the_link(attached: Attached) -> None:
    for garbage in (os.urandom(200), b"CNXN" + bytes(20), b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"):
        with socket.create_connection(("127.0.0.1", attached.daemon.port), timeout=10) as link:
            link.sendall(garbage)
            with pytest.raises((ConnectionError, AssertionError)):
                assert link.recv(1) != b""
    assert attached.sh("echo still") == "still"


def test_history_is_kept(attached: Attached, tmp_path: Path) -> None:
    attached.sh("echo 'one: two'")
    attached.run("push", big_file(tmp_path), "/data/local/tmp/big")
    assert attached.daemon.commands == ["echo 'one: two'"]
    assert "sync SEND /data/local/tmp/big,33188" in attached.daemon.history


# the phone behind it


def test_phone_tells_and_keeps_its_settings(attached: Attached) -> None:
    assert attached.sh("getprop ro.product.model; getprop no.such; getprop no.such default") == "Imitated Phone\n\ndefault"
    assert "[ro.paceline.imitated]: [1]" in attached.sh("getprop").splitlines()
    attached.sh("setprop debug.x 'a b'; settings put global airplane_mode_on 1; svc power stayon true")
    attached.sh("cmd power set-fixed-performance-mode-enabled true")
    assert attached.sh("getprop debug.x; settings get global airplane_mode_on") == "a b\n1"
    assert attached.sh("settings get global stay_on_while_plugged_in; settings get system nothing") == "7\nnull"
    assert attached.daemon.phone.fixed_performance
    assert attached.sh("settings delete global airplane_mode_on; settings get global airplane_mode_on") == "Deleted 1 rows\nnull"
    assert attached.run("shell", "setprop ro.product.model Other")[0] == 1
    assert attached.run("shell", "settings put nowhere a b")[0] == 255
    assert attached.run("shell", "settings put global")[0] == 255
    assert attached.run("shell", "su -c id") == (127, "/system/bin/sh: su: inaccessible or not found")


def test_phone_reports_its_condition(attached: Attached) -> None:
    phone = attached.daemon.phone
    phone.ambient_c, phone.celsius, phone.battery = 46.25, 46.25, 33.4
    report = attached.sh("dumpsys thermalservice; dumpsys battery; dumpsys SurfaceFlinger")
    assert "Thermal Status: 3" in report
    assert "Temperature{mValue=46.2, mType=3, mName=skin, mStatus=3}" in report
    assert "  level: 33" in report
    assert "GLES: Paceline, Imitated GPU, OpenGL ES 3.2 v1" in report
    attached.sh("cmd thermalservice override-status 0; dumpsys battery set level 7")
    assert "Thermal Status: 0" in attached.sh("dumpsys thermalservice")
    assert phone.battery == pytest.approx(7, abs=0.01)
    assert attached.run("shell", "dumpsys nonsense")[1] == "Can't find service: nonsense"


def test_phone_has_its_own_files(attached: Attached) -> None:
    attached.daemon.phone.ambient_c = attached.daemon.phone.celsius = 51.5
    assert attached.sh("cat /sys/class/thermal/thermal_zone0/temp") == "51500"
    assert attached.sh("cat /sys/devices/system/cpu/cpu8/cpufreq/cpuinfo_max_freq") == "2914000"
    assert attached.sh("cat /sys/devices/system/cpu/cpu[0-9]/cpu_capacity | sort -un") == "160\n660\n1024"
    assert attached.sh("grep -c 'CPU part' /proc/cpuinfo") == "9"
    assert attached.sh("cut -d/ -f1 /proc/loadavg | wc -w") == "4"
    assert attached.sh("cd /data/local/tmp && echo hi > x && cat /data/local/tmp/x") == "hi"
    assert attached.daemon.path("/data/local/tmp/x").read_text(encoding="utf-8") == "hi\n"


def test_phone_pins_programs_to_its_cpus(attached: Attached) -> None:
    here = sorted(os.sched_getaffinity(0))
    show = f'{sys.executable} -c "import os; print(sorted(os.sched_getaffinity(0)))"'
    assert attached.sh(f"taskset 100 {show}") == str([here[8 % len(here)]])
    assert attached.sh(f"taskset 1ff {show}") == str(sorted({here[i % len(here)] for i in range(9)}))
    assert attached.run("shell", "taskset 200 true")[0] == 1


def test_phone_warms_up_and_drains_with_the_cpu_time_of_its_programs(attached: Attached) -> None:
    phone = attached.daemon.phone
    phone.heat_c_per_cpu_s, phone.drain_per_cpu_s = 40.0, 10.0
    spin = "import time\nwhile time.process_time() < 1: pass"
    temperatures = attached.sh(f"{sys.executable} -c '{spin}'; dumpsys thermalservice; cat /sys/class/thermal/thermal_zone1/temp")
    attached.sh("true")  # the end of the last one is known
    assert phone.celsius > 50
    assert phone.battery < 75
    assert int(temperatures.splitlines()[-1]) > 30_000  # while it ran
    attached.sh("sleep 0.3")
    settled = phone.celsius
    phone.advance(600)
    assert phone.celsius < settled
    assert phone.celsius == pytest.approx(25, abs=0.2)
    assert attached.sh("dumpsys thermalservice | grep Status:") == "Thermal Status: 0"


def test_models_run_on_the_phone(attached: Attached, models: Sequence[Artifact]) -> None:
    # the libraries that LiteRT is made of read /proc/cpuinfo and /sys/devices/system/cpu, and both are the phone's
    code = "import sys; from ai_edge_litert.interpreter import Interpreter; i = Interpreter(sys.argv[1])"
    code += "; i.allocate_tensors(); i.invoke()"
    attached.run("push", str(models[0].path), "/data/local/tmp/model.tflite")
    said = attached.sh(f"{sys.executable} -c '{code}' /data/local/tmp/model.tflite && echo done")
    assert "done" in said.splitlines()
    assert "XNNPACK delegate for CPU" in said
    assert "rror" not in said


def test_namespaces_that_cannot_be_had_are_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shutil.which", lambda name: None if name == "nsenter" else f"/usr/bin/{name}")
    with pytest.raises(DeviceError, match="no namespaces without nsenter: install"), AdbDaemon(tmp_path, isolation="namespaces"):
        pass
    with AdbDaemon(tmp_path) as daemon:
        assert daemon.isolation == "rewriting"


def test_the_rest_of_the_machine_is_read_only(attached: Attached) -> None:
    if attached.daemon.isolation != "namespaces":
        pytest.skip("no namespaces here")
    assert "Read-only file system" in attached.run("shell", "touch /usr/bin/x /etc/x")[1]
    with pytest.raises(OSError, match="Read-only"):
        attached.daemon.path("/etc/x").write_text("", encoding="utf-8")


def test_nothing_outlives_a_killed_process(tmp_path: Path) -> None:
    code = """
import subprocess, sys, time
from pathlib import Path
from paceline.devices.testing.adb_daemon.isolation import Namespaces
for name in ("data", "sdcard", "storage", "system/bin", "vendor", "sys"):
    Path(sys.argv[1], name).mkdir(parents=True)
phone = Namespaces(Path(sys.argv[1]))
subprocess.Popen(phone.program(["sleep", "9876543"]))
print(phone.init, flush=True)
time.sleep(60)
"""
    with subprocess.Popen([sys.executable, "-c", code, str(tmp_path)], stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None
        init = process.stdout.readline().decode().strip()
        process.kill()
        if not init:
            pytest.skip("no namespaces here: " + process.communicate()[1].decode().splitlines()[-1])
    assert eventually(lambda: not Path("/proc", init).exists())
