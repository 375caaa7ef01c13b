"""What a Linux host says about itself: this one, and boards from what they printed."""

import os
import platform
import subprocess
from pathlib import Path

import pytest

from paceline.devices.systems.linux import LinuxSystem
from paceline.devices.testing.sshd import Sshd, why_not
from paceline.devices.transports.local import LocalTransport
from paceline.devices.transports.ssh import SshTransport
from paceline.devices.transports.transport import Completed
from paceline.errors import DeviceError

_CPU = "processor\t: {n}\nBogoMIPS\t: 108.00\nCPU implementer\t: 0x41\nCPU architecture: 8\nCPU part\t: {part}\n\n"
_FREQUENCY = "=== /sys/devices/system/cpu/cpu{n}/cpufreq/{what}\n{khz}\n"
_BIG_LITTLE = (
    "=== uname -s\nLinux\n=== uname -m\naarch64\n=== uname -p\nunknown\n=== cores\n6\n=== /proc/cpuinfo\n"
    + "".join(_CPU.format(n=n, part="0xd03" if n < 4 else "0xd09") for n in range(6))
    + "Serial\t\t: 10000000abcdef\n=== status\nCpus_allowed_list:\t0-2,4-5\n"
    + "".join(_FREQUENCY.format(n=n, what="cpuinfo_max_freq", khz=1_896_000 if n < 4 else 1_704_000) for n in range(6))
    + "=== board\nRockPro64 v2.1\n"
)
_WARM = (
    "=== /proc/loadavg\n0.31 0.20 0.11 2/180 4242\n=== /proc/stat\ncpu  10 0 20 3000 4 0 1 77 0 0\n"
    + "".join(_FREQUENCY.format(n=n, what="scaling_governor", khz="ondemand" if n else "performance") for n in range(2))
    + "".join(_FREQUENCY.format(n=n, what="scaling_cur_freq", khz=600_000 + 900_000 * n) for n in range(2))
    + "=== /sys/class/thermal/thermal_zone0/temp\n48312\n=== /sys/class/thermal/thermal_zone1/temp\n83600\n"
    + "=== /sys/class/thermal/thermal_zone2/temp\n-40000\n=== MHz\n=== throttled\nthrottled=0x50005\n"
)


class Board:
    """A transport to what printed this. Nothing else of a transport is asked for."""

    address = "ssh:a@board:22"

    def __init__(self, *texts: str, code: int = 0) -> None:
        self.texts = list(texts)
        self.code = code

    def run(self, command: str, timeout_s: float) -> Completed:
        return Completed(self.code, self.texts.pop(0).encode(), b"sh: out of memory" if self.code else b"")

    push = pull = start = NotImplemented  # type: ignore[var-annotated]


def system(*texts: str, **others: float) -> LinuxSystem:
    return LinuxSystem(Board(*texts), **others)  # type: ignore[arg-type]


def test_this_host_says_what_python_says() -> None:
    facts = LinuxSystem(LocalTransport()).facts()
    assert facts["cores"] == str(os.cpu_count())
    assert facts["architecture"] == platform.machine()
    assert facts["system"] == platform.system()
    names = [
        line.split(":")[1].strip() for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("model name")
    ]
    assert facts["processor"] == (names[0] if names else facts["processor"])
    if platform.machine() == "x86_64":
        assert list(facts) == ["processor", "model", "architecture", "cores", "system"]  # more would make it another device


def test_this_hosts_condition_is_true() -> None:
    here = LinuxSystem(LocalTransport())
    condition = here.condition()
    assert abs(float(condition["load"]) - os.getloadavg()[0]) < 1
    assert int(condition["steal_ticks"]) <= int(Path("/proc/stat").read_text().split()[8])
    assert all(value for value in condition.values())
    assert isinstance(here.trouble(condition), tuple)


def test_the_cpus_are_those_it_may_use() -> None:
    assert sorted(LinuxSystem(LocalTransport()).cpus()) == sorted(os.sched_getaffinity(0))


def test_nothing_is_changed_for_quiet() -> None:
    with LinuxSystem(LocalTransport()).quiet():
        pass


def test_the_same_host_over_ssh_is_the_same(tmp_path: Path) -> None:
    if why_not():
        pytest.skip(f"no ssh server: {why_not()}")
    with (
        Sshd(tmp_path) as server,
        SshTransport(server.host, server.user, server.port, server.identity, server.known_hosts) as transport,
    ):
        assert LinuxSystem(transport).facts() == LinuxSystem(LocalTransport()).facts()
        assert LinuxSystem(transport).condition().keys() == LinuxSystem(LocalTransport()).condition().keys()


def test_a_board_names_parts_clusters_and_itself() -> None:
    assert system(_BIG_LITTLE).facts() == {
        "processor": "unknown",
        "model": "?/?/?",
        "architecture": "aarch64",
        "cores": "6",
        "system": "Linux",
        "parts": "4 x 0x41:0xd03, 2 x 0x41:0xd09",
        "clusters": "2 x 1704 MHz, 4 x 1896 MHz",
        "board": "RockPro64 v2.1",
    }


def test_the_slowest_cpus_come_first() -> None:
    assert system(_BIG_LITTLE).cpus() == (4, 5, 0, 1, 2)


def test_condition_of_a_board() -> None:
    assert system(_WARM).condition() == {
        "load": "0.31",
        "steal_ticks": "77",
        "mhz": "1500",
        "governor": "ondemand, performance",
        "celsius": "84",
        "throttled": "0x50005",
    }


@pytest.mark.parametrize(
    ("condition", "words"),
    [
        ({}, []),
        ({"load": "2.49", "celsius": "79", "throttled": "0x50000"}, []),
        ({"load": "2.51"}, ["other programs"]),
        ({"celsius": "80"}, ["hot (80 °C)"]),
        ({"throttled": "0x5"}, ["power supply", "throttled: let it cool"]),
        ({"throttled": "0xa", "load": "9"}, ["other programs", "frequency is capped", "soft temperature limit"]),
    ],
)
def test_trouble_says_what_to_do(condition: dict[str, str], words: list[str]) -> None:
    reasons = system(_BIG_LITTLE).trouble(condition)
    assert len(reasons) == len(words)
    assert all(word in reason for word, reason in zip(words, reasons, strict=True))


def test_hot_is_a_setting() -> None:
    assert system(_BIG_LITTLE, hot_celsius=60).trouble({"celsius": "61"})


def test_a_host_that_says_nothing_is_an_error() -> None:
    with pytest.raises(DeviceError, match=r"ssh:a@board:22 doesn't say what it is: .*out of memory"):
        LinuxSystem(Board("", code=1)).facts()  # type: ignore[arg-type]


@pytest.mark.parametrize("shell", ["dash", "bash", "mksh", "busybox"])
def test_the_commands_are_plain_shell(shell: str) -> None:
    from paceline.devices.systems import linux

    for command in (linux._FACTS, linux._CONDITION):
        try:
            done = subprocess.run([shell, *(["sh"] if shell == "busybox" else []), "-c", command], capture_output=True)
        except FileNotFoundError:
            pytest.skip(f"{shell} isn't installed")
        assert done.returncode == 0
        assert done.stderr == b""
