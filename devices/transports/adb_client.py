"""The adb program: where it is, which devices its server sees. Every call has a deadline."""

from __future__ import annotations

import importlib.util
import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from paceline.devices.transports.transport import Completed
from paceline.errors import DeviceError, TransientDeviceError

_SERVER_S = 20.0
_TCP_SERIAL = re.compile(r".+:\d+|\[.+\]:\d+")
_REMEDY = "pip install 'adbutils>=2.12' (adb comes with it), or apt-get install adb, or name the program's path"


@dataclass(frozen=True)
class FoundDevice:
    """A line of `adb devices -l`. `state` is "device" where the phone can be used; `labels` are product, model, device, …"""

    serial: str
    state: str
    labels: tuple[tuple[str, str], ...] = ()

    @property
    def remedy(self) -> str:
        """What to do, empty where nothing is to be done."""
        if self.state == "device":
            return ""
        if self.state in ("unauthorized", "authorizing"):
            return (
                "unlock the phone and accept the dialog “Allow USB debugging?”; if there is none, switch USB debugging off and on"
            )
        if self.state.startswith("no permissions"):
            return "this user may not open the USB device: apt-get install android-sdk-platform-tools-common, then replug"
        if self.state in ("recovery", "sideload", "bootloader", "rescue"):
            return "the phone isn't in its system: reboot it"
        if is_tcp(self.serial):
            return f"look whether it is on and in this network, then `adb disconnect {self.serial}; adb connect {self.serial}`"
        return "replug the cable, or switch USB debugging off and on"


class AdbClient:
    """The adb program and the server on `port` of this host (None: $ANDROID_ADB_SERVER_PORT, 5037).

    `adb` is the program's path; None takes the one on PATH, else the one that adbutils brings. Raises DeviceError without any.
    """

    def __init__(self, adb: Path | None = None, port: int | None = None) -> None:
        self.path = _found_adb(adb)
        self._server = [] if port is None else ["-P", str(port)]

    def command(self, *arguments: str) -> list[str]:
        return [str(self.path), *self._server, *arguments]

    def call(self, arguments: Sequence[str], timeout_s: float) -> Completed | None:
        """Runs adb with an empty standard input. None where it had to be killed at the deadline."""
        try:
            done = subprocess.run(self.command(*arguments), stdin=subprocess.DEVNULL, capture_output=True, timeout=timeout_s)
        except subprocess.TimeoutExpired:
            return None
        except OSError as e:
            raise DeviceError(f"can't run {self.path}: {e.strerror}. Remedy: {_REMEDY}.") from e
        return Completed(done.returncode if done.returncode >= 0 else 128 - done.returncode, done.stdout, done.stderr)

    def start_server(self) -> None:
        """The server would keep the pipes of whoever starts it open for ever: it gets none. Nothing where it runs already."""
        with tempfile.TemporaryFile() as said:
            try:
                code = subprocess.run(
                    self.command("start-server"), stdin=subprocess.DEVNULL, stdout=said, stderr=said, timeout=_SERVER_S
                ).returncode
            except subprocess.TimeoutExpired:
                raise TransientDeviceError(
                    f"the adb server didn't start within {_SERVER_S:.0f} s; `adb kill-server`, then try again"
                ) from None
            except OSError as e:
                raise DeviceError(f"can't run {self.path}: {e.strerror}. Remedy: {_REMEDY}.") from e
            if code != 0:
                said.seek(0)
                text = said.read().decode(errors="replace").strip()
                raise TransientDeviceError(f"the adb server doesn't start: {text}. End what holds its port, then try again.")

    def devices(self) -> tuple[FoundDevice, ...]:
        self.start_server()
        done = self.call(["devices", "-l"], _SERVER_S)
        if done is None or done.code != 0:
            text = "no answer" if done is None else done.printed
            raise TransientDeviceError(
                f"the adb server doesn't say which devices there are: {text}; `adb kill-server`, then try again"
            )
        return parse_devices(done.text)

    def version(self) -> str:
        """Such as "36.0.0-13206524"."""
        done = self.call(["version"], _SERVER_S)
        said = re.search(r"^Version (\S+)", done.text, re.MULTILINE) if done else None
        if said is None:
            raise DeviceError(f"{self.path} isn't adb: it doesn't know its version. Remedy: {_REMEDY}.")
        return said[1]


def devices_found(adb: Path | None = None, port: int | None = None) -> tuple[FoundDevice, ...]:
    """Every phone the adb server sees, those that can't be used too, with the remedy."""
    return AdbClient(adb, port).devices()


def parse_devices(text: str) -> tuple[FoundDevice, ...]:
    """The lines of `adb devices -l`, what the server says about itself apart."""
    found = []
    for line in text.splitlines():
        said = re.match(r"(\S+)\s+(no permissions.*?|\S+)(?=(?:\s+[\w-]+:\S+)*\s*$)(.*)$", line)
        if said and not line.startswith(("*", "List of", "adb ")):
            labels = (label.split(":", 1) for label in said[3].split())
            found.append(FoundDevice(said[1], said[2].strip(), tuple((name, value) for name, value in labels)))
    return tuple(found)


def is_tcp(serial: str) -> bool:
    return _TCP_SERIAL.fullmatch(serial) is not None and not serial.startswith("usb:")


def _found_adb(named: Path | None) -> Path:
    if named is not None:
        if not named.is_file():
            raise DeviceError(f"there is no adb at {named}. Remedy: {_REMEDY}.")
        return named
    on_path = shutil.which("adb")
    if on_path:
        return Path(on_path)
    spec = importlib.util.find_spec("adbutils")
    bundled = Path(spec.origin).parent / "binaries" / "adb" if spec and spec.origin else None
    if bundled is None or not os.access(bundled, os.X_OK):
        raise DeviceError(f"adb isn't installed. Remedy: {_REMEDY}.")
    return bundled
