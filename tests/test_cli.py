"""The command line: help of every command, JSON where promised, narrow terminals."""

import os
import subprocess
import sys
from pathlib import Path

import pytest


def paceline(*arguments: str, columns: int = 100, folder: Path | None = None) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "COLUMNS": str(columns), "NO_COLOR": "1"}
    return subprocess.run(
        [sys.executable, "-m", "paceline", *arguments], capture_output=True, text=True, env=environment, cwd=folder
    )


@pytest.mark.parametrize(
    "command", ["", "run", "devices", "devices doctor", "bench", "agent", "farm", "export", "inspect", "table"]
)
def test_help(command: str) -> None:
    done = paceline(*command.split(), "--help", columns=60)
    assert done.returncode == 0
    assert "Usage" in done.stdout
    assert max(map(len, done.stdout.splitlines())) <= 60


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
    assert "bad.tflite on local can't be measured" in done.stderr
