"""The host's side for tests: an adb server of one's own, so that neither the user's server nor the user's keys are touched."""

from __future__ import annotations

import os
import socket
import subprocess
import time
from importlib.util import find_spec
from pathlib import Path
from types import TracebackType

from paceline.errors import DeviceError

START_S = 20.0


def adbutils_adb() -> Path | None:
    """The adb that the package adbutils brings along."""
    spec = find_spec("adbutils")
    if spec is None or spec.origin is None:
        return None
    binary = Path(spec.origin).parent / "binaries" / "adb"
    return binary if binary.is_file() else None


def free_port() -> int:
    """A TCP port that nobody listened on just now."""
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        port: int = found.getsockname()[1]
        return port


class AdbServer:
    """`with AdbServer(path_of_adb, folder_for_keys) as adb: adb.run("devices")`. The server ends with the block."""

    def __init__(self, path: Path | str, home: Path) -> None:
        self.path = str(path)
        self.port = free_port()
        self.environment = dict(
            os.environ,
            HOME=str(home),  # adb keeps its keys there
            ANDROID_ADB_SERVER_PORT=str(self.port),
            ADB_MDNS="0",
            ADB_USB="0",  # no real phone of this machine, and no search for one, which takes seconds
            ADB_MDNS_AUTO_CONNECT="0",
            ADB_LOCAL_TRANSPORT_MAX_PORT="5553",  # no search for emulators
        )
        self.environment.pop("ANDROID_SERIAL", None)
        self._log = home / "adb-server.log"

    def __enter__(self) -> AdbServer:
        with self._log.open("wb") as log:
            self._process = subprocess.Popen(
                [self.path, "nodaemon", "server"], env=self.environment, stdin=subprocess.DEVNULL, stdout=log, stderr=log
            )
        deadline = time.monotonic() + START_S
        while time.monotonic() < deadline and self._process.poll() is None:
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", self.port)) == 0:
                    return self
            time.sleep(0.02)
        self.__exit__(None, None, None)
        raise DeviceError(f"{self.path} starts no server: {self._log.read_text(encoding='utf-8', errors='replace')[-500:]}")

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._process.terminate()
        try:
            self._process.wait(5)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def run(self, *arguments: str, stdin: bytes = b"", timeout_s: float = 30.0) -> subprocess.CompletedProcess[bytes]:
        """Runs adb. Raises subprocess.TimeoutExpired."""
        return subprocess.run(
            [self.path, *arguments], env=self.environment, input=stdin, capture_output=True, timeout=timeout_s, check=False
        )

    def start(self, *arguments: str) -> subprocess.Popen[bytes]:
        """Starts adb, all streams as pipes."""
        pipe = subprocess.PIPE
        return subprocess.Popen([self.path, *arguments], env=self.environment, stdin=pipe, stdout=pipe, stderr=pipe)

    def connect(self, address: str, timeout_s: float = 20.0) -> None:
        """Connects to a device and waits until it can be used. Raises DeviceError where it can't."""
        said = self.run("connect", address, timeout_s=timeout_s).stdout.decode(errors="replace").strip()
        try:
            self.run("-s", address, "wait-for-device", timeout_s=timeout_s)
        except subprocess.TimeoutExpired:
            raise DeviceError(f"adb can't use {address}: {said}") from None
