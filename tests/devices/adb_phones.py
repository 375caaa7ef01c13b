"""The adb programs on this machine, each with a server of its own, for tests."""

import importlib.util
import os
import shutil
import socket
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest


def programs() -> dict[str, Path]:
    """The system's adb and the one that adbutils brings."""
    spec = importlib.util.find_spec("adbutils")
    found = {
        "installed": Path(shutil.which("adb") or ""),
        "bundled": Path(spec.origin).parent / "binaries" / "adb" if spec and spec.origin else Path(),
    }
    return {name: path for name, path in found.items() if path.is_file()}


needs_adb = pytest.mark.skipif(not programs(), reason="no adb: apt-get install adb, or pip install adbutils")


@contextmanager
def adb_server(adb: Path) -> Iterator[int]:
    """The port of a server that nobody else uses."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with pytest.MonkeyPatch.context() as environment:
        for name in ("ADB_USB", "ADB_MDNS"):  # no real phone of this machine, and no search for one, which takes seconds
            environment.setenv(name, "0")
        try:
            yield port
        finally:
            kill_server(adb, port)


def kill_server(adb: Path, port: int) -> None:
    subprocess.run([adb, "-P", str(port), "kill-server"], capture_output=True, timeout=30)


def disconnect(adb: Path, port: int, serial: str) -> None:
    subprocess.run([adb, "-P", str(port), "disconnect", serial], capture_output=True, timeout=30)


def children_of(pattern: str) -> list[str]:
    """Programs whose command line holds `pattern`, of whoever."""
    found = []
    for pid in filter(str.isdigit, os.listdir("/proc")):
        try:
            line = Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
        except OSError:
            continue
        if pattern in line:
            found.append(line)
    return found
