"""AOSP's own adbd, built for this machine (tests/devices/build_adbd.sh), as a phone."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import time
from pathlib import Path
from types import TracebackType

from paceline.devices.testing.adb_daemon.activity import PhoneFiles
from paceline.devices.testing.adb_daemon.host import free_port
from paceline.devices.testing.adb_daemon.isolation import Mode, default_shell_is_replaced, isolate
from paceline.devices.testing.phone import Phone
from paceline.errors import DeviceError

START_S = 10.0


class RealAdbd:
    """`with RealAdbd(binary, folder) as adbd:` and then `adb connect {adbd.address}`.

    With namespaces `root` is the phone's file system as in `AdbDaemon`, and `base` is empty. Without, adbd serves this machine's
    files, and `base` (then `root`) has to be put before every path. No phone is imitated: no getprop, no dumpsys.
    """

    def __init__(self, path: Path, root: Path, isolation: Mode = "auto") -> None:
        self.binary = path
        self.root = root
        self.port = 0
        self.base = ""
        self._mode: Mode = isolation

    @property
    def address(self) -> str:
        """For `adb connect`, and the device's serial from then on."""
        return f"127.0.0.1:{self.port}"

    @property
    def hangs_up(self) -> bool:
        """Whether its shell ends what it runs when the host goes away, as Android's does: needs mksh and namespaces."""
        return self.base == "" and default_shell_is_replaced()

    def __enter__(self) -> RealAdbd:
        files = PhoneFiles(self.root, Phone())
        files.refresh()
        self._isolation = isolate(self.root, files.proc, self._mode)
        self.base = "" if self._isolation.name == "namespaces" else str(self.root.resolve())
        self.port = free_port()
        self._log = (self.root / "adbd.log").open("wb")
        self._process = subprocess.Popen(
            self._isolation.program([str(self.binary.resolve())]),
            env=self._isolation.environment() | {"ADBD_PORT": str(self.port)},
            cwd=self._isolation.home,
            stdin=subprocess.DEVNULL,
            stdout=self._log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        try:
            self._wait()
        except BaseException:
            self.__exit__(None, None, None)
            raise
        return self

    def _wait(self) -> None:
        """Until it listens."""
        deadline = time.monotonic() + START_S
        while time.monotonic() < deadline:
            if self._process.poll() is not None:
                break
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", self.port)) == 0:
                    return
            time.sleep(0.05)
        log = (self.root / "adbd.log").read_text(encoding="utf-8", errors="replace")[-500:]
        raise DeviceError(f"{self.binary} does not listen on port {self.port}: {log.strip() or 'it printed nothing'}")

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if self._process.poll() is None:
            os.killpg(self._process.pid, signal.SIGTERM)
        self._isolation.close()
        self._process.wait()
        self._log.close()
