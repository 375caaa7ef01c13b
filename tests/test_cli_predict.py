"""`paceline fit` and `paceline predict` as a user calls them, on tables of simulated phones."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

from paceline.cli import app
from paceline.errors import DataError, LatencyModelError
from paceline.exporters import tflite
from paceline.latency_models.bundle.bundle import Bundle
from paceline.latency_models.collection.block_networks import block_network

Call = Callable[..., Any]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "devices.toml").write_text('[[device]]\nid = "mid"\nkind = "simulated"\nprofile = "simulated-mid"\nseed = 1\n')
    for name, seed in (("one", 8), ("other", 9)):  # the simulated GPU takes all their operators
        tflite.save(block_network(np.random.default_rng(seed)), tmp_path / f"{name}.tflite")
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def call(folder: Path) -> Call:
    def called(*arguments: str) -> Any:
        done = CliRunner().invoke(app, [*arguments, "--json"], catch_exceptions=False)
        assert done.exit_code == 0, done.output
        return json.loads(done.stdout)

    return called


def test_build_fit_predict(folder: Path, call: Call) -> None:
    call("table", "build", "one.tflite", "--device", "mid", "--rows", "1000", "--no-fusion")
    fitted = call("fit", "runs/tables/mid-xnnpack.paceline")
    assert fitted["operators"] > 50
    assert fitted["networks"] > 10
    assert {"hybrid", "table", "macs only"} == {a["name"] for a in fitted["accuracies"]}
    assert 0 < fitted["covered"] <= 1
    assert Bundle.load(folder / "runs/tables/mid-xnnpack.paceline").model is not None
    [said] = call("predict", "one.tflite", "--device", "mid", "--limit-ms", "1000", "--strict")
    assert said["simulated"] is True
    assert said["low_ms"] <= said["ms"] <= said["high_ms"]
    assert said["ms"] == pytest.approx(said["base_ms"] + sum(c["ms"] for c in said["contributions"]))
    assert {c["source"] for c in said["contributions"]} == {"row"}
    assert (said["row_share"], said["chance"] > 0.5) == (pytest.approx(1.0), True)


def test_operators_without_a_row_are_named(folder: Path, call: Call) -> None:
    call("table", "build", "one.tflite", "--device", "mid", "--rows", "60")
    arguments = ["other.tflite", "--device", "mid"]
    [said] = call("predict", *arguments)
    assert {c["source"] for c in said["contributions"]} - {"row"}
    assert said["row_share"] < 1
    with pytest.raises(LatencyModelError, match=r"no row for \w+ .* paceline table build other.tflite"):
        call("predict", *arguments, "--strict")
    shown = CliRunner().invoke(app, ["predict", *arguments, "--ops", "--limit-ms", "5"], catch_exceptions=False).stdout
    assert "P(≤ 5 ms)" in shown
    assert "mid, a simulated device" in shown
    assert "whole network" in shown


def test_without_a_table_the_remedy_is_named(call: Call) -> None:
    with pytest.raises(DataError, match="paceline table build"):
        call("predict", "one.tflite", "--device", "mid")


def test_on_a_gpu_units_are_predicted_and_launches_are_not_counted_for_each(folder: Path, call: Call) -> None:
    call("table", "build", "one.tflite", "--device", "mid", "--delegate", "gpu", "--rows", "80")
    bundle = Bundle.load(folder / "runs/tables/mid-gpu.paceline")
    assert bundle.fusion["overheads"]["inference_ms"]["value"] > 0
    [said] = call("predict", "one.tflite", "--device", "mid", "--delegate", "gpu")
    assert any("+" in c["operator"].split()[0] for c in said["contributions"])
    whole = next(row.ms for row in bundle.measured if row.subject == "one.tflite")
    assert said["ms"] == pytest.approx(whole, rel=0.1)


def test_an_operator_that_the_gpu_left_is_named(folder: Path, call: Call) -> None:
    tflite.save(block_network(np.random.default_rng(7)), folder / "left.tflite")
    call("table", "build", "left.tflite", "--device", "mid", "--delegate", "gpu", "--rows", "80")
    [said] = call("predict", "left.tflite", "--device", "mid", "--delegate", "gpu")
    assert any(warning.startswith("RESIZE_NEAREST_NEIGHBOR") for warning in said["warnings"])
