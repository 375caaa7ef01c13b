"""Hosts for tests of farms: `paceline` programs as processes of their own, and artifacts for fake devices."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

from paceline.devices.farm.job import Job
from paceline.measurement import Artifact, Bench

from fake_kind import install

BENCH = Bench("fake", "cpu")

# not all of paceline.cli: these start in a fraction of its time
PROGRAM = """
import sys, typer
from paceline.cli_agent import agent, farm
from paceline.errors import PacelineError

app = typer.Typer(pretty_exceptions_enable=False)
app.command()(agent)
app.add_typer(farm, name="farm")
try:
    app()
except PacelineError as e:
    sys.exit(str(e))
"""


class Host:
    """Starts `paceline` programs with folders of their own, reads what they say, ends them."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._started: list[subprocess.Popen[str]] = []
        site = install(folder / "site")
        self._env = os.environ | {
            "PYTHONPATH": str(site),
            "PACELINE_STATE": str(folder / "state"),
            "XDG_CACHE_HOME": str(folder / "cache"),
            "OMP_NUM_THREADS": "1",
        }

    def start(self, *arguments: str, stdout: int | None = None) -> subprocess.Popen[str]:
        command = [sys.executable, "-c", PROGRAM, *arguments]
        started = subprocess.Popen(command, env=self._env, stdout=stdout, stderr=subprocess.PIPE, text=True)
        self._started.append(started)
        return started

    def output(self, *arguments: str) -> str:
        return "".join(self.start(*arguments, stdout=subprocess.PIPE).communicate(timeout=30))

    def scheduler(self, *arguments: str, port: int = 0) -> tuple[subprocess.Popen[str], str]:
        started = self.start("farm", "serve", "--port", str(port), *arguments)
        return started, said(started, r"farm at (\S+);")

    def agent(
        self, address: str, *devices: str, name: str = "", arguments: tuple[str, ...] = (), wait: str = "serves"
    ) -> subprocess.Popen[str]:
        path = self.folder / f"devices-{len(self._started)}.toml"
        path.write_text("".join(f'[[device]]\nkind = "fake"\n{device}\n' for device in devices))
        command = ("agent", "--farm", address, "--devices", str(path), "--name", name or f"agent-{len(self._started)}")
        started = self.start(*command, *arguments)
        if wait:
            said(started, wait)
        return started

    def end(self) -> None:
        for started in self._started:
            if started.poll() is None:
                started.send_signal(signal.SIGCONT)
                started.kill()
            started.wait()
            if started.stderr:
                started.stderr.close()


def said(started: subprocess.Popen[str], pattern: str) -> str:
    """Waits for a line of its; the group that it matched."""
    assert started.stderr is not None
    lines = []
    for line in started.stderr:
        lines.append(line)
        found = re.search(pattern, line)
        if found:
            return found[found.lastindex or 0]
    raise AssertionError(f"never said {pattern!r}, but: {''.join(lines)}")


def until(true: Callable[[], bool], seconds: float = 20.0) -> None:
    deadline = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def jobs(folder: Path, count: int) -> list[Job]:
    found = []
    for i in range(count):
        path = folder / f"{i}.tflite"
        path.write_text(f"{i}.5")
        found.append(Job((Artifact(path, f"model {i}"),), BENCH))
    return found
