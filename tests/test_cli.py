"""The command line: help of every command, JSON where promised, narrow terminals."""

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

from paceline.measurement import Artifact


def paceline(*arguments: str, columns: int = 100, folder: Path | None = None) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "COLUMNS": str(columns), "NO_COLOR": "1"}
    return subprocess.run(
        [sys.executable, "-m", "paceline", *arguments], capture_output=True, text=True, env=environment, cwd=folder
    )


@pytest.mark.parametrize("command", [(), ("run",), ("devices",), ("bench",), ("export",), ("inspect",), ("table",)])
def test_help(command: tuple[str, ...]) -> None:
    done = paceline(*command, "--help", columns=60)
    assert done.returncode == 0
    assert "Usage" in done.stdout
    assert max(map(len, done.stdout.splitlines())) <= 60


def test_devices_as_json() -> None:
    (device,) = json.loads(paceline("devices", "--json").stdout)
    assert device["name"] == "local"
    assert "xnnpack" in device["delegates"]


def test_bench_prints_the_operators(models: Sequence[Artifact]) -> None:
    done = paceline("bench", str(models[-1].path), "--json")
    found = json.loads(done.stdout)
    assert found["ms"] > 0
    assert found["operators"][0]["delegated"] is True
    narrow = paceline("bench", str(models[-1].path), "--delegate", "builtin", columns=50)
    assert "CONV_2D" in narrow.stdout
    assert narrow.returncode == 0


def test_what_is_not_there_is_a_message(tmp_path: Path) -> None:
    for arguments, code, reason in (
        (("bench", "none.tflite"), 7, "no file none.tflite"),
        (("table",), 9, "no store at"),
        (("run", "none.toml"), 2, "can't read the config"),
        (("table", "--store", "nosuchdb://x"), 9, "nosuchdb"),
    ):
        done = paceline(*arguments, folder=tmp_path)
        assert done.returncode == code, done.stderr
        assert reason in done.stderr
        assert "Traceback" not in done.stderr
    (tmp_path / "bad.tflite").write_bytes(b"no model" * 20)
    done = paceline("bench", "bad.tflite", folder=tmp_path)
    assert done.returncode == 7
    assert "bad.tflite can't be measured" in done.stderr
