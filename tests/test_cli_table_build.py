"""`paceline table build` as a user calls it, on simulated phones."""

import json
import os
import re
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

from paceline.cli import app
from paceline.errors import ConfigError, DeviceError, PacelineError
from paceline.exporters import tflite
from paceline.latency_models.bundle.bundle import Bundle
from paceline.latency_models.collection.block_networks import block_network

_DEVICES = """
[[device]]
id = "mid"
kind = "simulated"
profile = "simulated-mid"
seed = 1
labels = ["rack=1"]

[[device]]
id = "wide"
kind = "simulated"
profile = "simulated-wide"
seed = 2
labels = ["rack=1"]
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "devices.toml").write_text(_DEVICES)
    for name, seed in (("one", 7), ("two", 8)):
        tflite.save(block_network(np.random.default_rng(seed)), tmp_path / f"{name}.tflite")
    return tmp_path


@pytest.fixture
def build(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Any]:
    """`paceline table build … --json` in this process: its start takes longer than these tables."""
    monkeypatch.chdir(folder)

    def called(*arguments: str) -> Any:
        done = CliRunner().invoke(app, ["table", "build", *arguments, "--json"], catch_exceptions=False)
        assert done.exit_code == 0, done.output
        return json.loads(done.stdout)

    return called


def test_a_table_of_given_models_on_two_devices(folder: Path, build: Callable[..., Any]) -> None:
    tables = build("one.tflite", "two.tflite", "--device", "all of rack=1", "--rows", "40")
    assert [table["device"] for table in tables] == ["mid", "wide"]
    for table in tables:
        assert table["rows"] == table["operators"] + table["networks"] == 40
        assert table["networks"] >= 1
        assert table["simulated"] is True
        assert table["stopped"] == "the budget is spent"
        assert table["device_minutes"] > 0.05
        bundle = Bundle.load(folder / table["out"])
        assert len(bundle.measured) == 40
        assert bundle.bench.delegate == "xnnpack"
        assert len(bundle.rows()) == 40  # all with their operators
    assert {table["out"] for table in tables} == {"runs/tables/mid-xnnpack.paceline", "runs/tables/wide-xnnpack.paceline"}


def test_minutes_are_those_of_the_device_and_the_same_command_continues(folder: Path, build: Callable[..., Any]) -> None:
    first = build("one.tflite", "--device", "mid", "--minutes", "0.1", "-o", "t.paceline")
    assert 0.07 < first["device_minutes"] < 0.12
    again = build("one.tflite", "--device", "mid", "--minutes", "0.1", "-o", "t.paceline")
    assert (again["rows"], again["device_minutes"]) == (first["rows"], first["device_minutes"])
    more = build("one.tflite", "--device", "mid", "--minutes", "0.2", "-o", "t.paceline")
    assert more["rows"] > first["rows"]
    kept = {row.artifact: row.measured_at for row in Bundle.load(folder / "t.paceline").measured}
    assert len(kept) == more["rows"]


def test_killed_and_run_again_it_measures_nothing_twice(folder: Path, build: Callable[..., Any]) -> None:
    arguments = ["table", "build", "one.tflite", "--device", "mid", "--rows", "120", "--json"]
    run = subprocess.Popen(
        [sys.executable, "-m", "paceline", *arguments], cwd=folder, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    deadline = time.monotonic() + 120
    while measured(folder) < 40 and time.monotonic() < deadline and run.poll() is None:
        time.sleep(0.02)
    os.kill(run.pid, signal.SIGKILL)
    run.wait()
    before = measured(folder)
    assert before >= 40
    table = build(*arguments[2:-1])
    with sqlite3.connect(folder / "runs/store.sqlite") as db:
        attempts = db.execute("select artifact, count(*) from log group by artifact having count(*) > 1").fetchall()
    assert attempts == []
    assert measured(folder) == table["rows"] == 120


def measured(folder: Path) -> int:
    try:
        with sqlite3.connect(f"file:{folder}/runs/store.sqlite?mode=ro", uri=True) as db:
            return int(db.execute("select count(*) from measurements").fetchone()[0])
    except sqlite3.OperationalError:
        return 0  # not made yet


def test_an_earlier_table_is_taken_over_where_it_holds(build: Callable[..., Any]) -> None:
    build("one.tflite", "--device", "mid", "--rows", "30", "-o", "old.paceline")
    table = build("one.tflite", "--device", "mid", "--rows", "30", "--since", "old.paceline", "-o", "new.paceline")
    assert table["expired"]["changes"] == {}
    assert table["expired"]["moved"] == []
    assert table["expired"]["held"] == 30
    assert table["rows"] == 30


def test_tables_in_a_terminal(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)
    arguments = ["table", "build", "one.tflite", "--device", "mid", "--rows", "20"]
    done = CliRunner().invoke(app, arguments, catch_exceptions=False, env={"COLUMNS": "60"})
    assert done.exit_code == 0
    assert "mid, simulated" in done.stdout
    assert "whole networks" in done.stdout
    assert "next: paceline fit runs/tables/mid-xnnpack.paceline" in done.stdout
    assert "build the table" in done.stderr


@pytest.mark.parametrize(
    ("arguments", "error", "reason"),
    [
        (("none.tflite",), ConfigError, "no file none.tflite; give a .tflite model, or timm:NAME"),
        (("x.onnx",), ConfigError, "x.onnx: tables are made of .tflite operators"),
        (("--rows", "0"), ConfigError, "a table needs a budget above 0"),
        (("--target-error", "five"), ConfigError, "--target-error 'five' is no error; write it like 5% or 0.05"),
        (("--device", "all of rack=1", "-o", "t.paceline"), ConfigError, "--out is one file, but 2 devices are meant: mid, wide"),
        (("--device", "mid", "--delegate", "dsp"), DeviceError, "delegate 'dsp' isn't available"),
    ],
)
def test_mistakes_are_messages(
    build: Callable[..., Any], arguments: tuple[str, ...], error: type[PacelineError], reason: str
) -> None:
    with pytest.raises(error, match=re.escape(reason)):
        build(*arguments)
