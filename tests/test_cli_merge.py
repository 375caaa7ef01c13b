"""`paceline merge` as a user calls it, on simulated phones."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from paceline.cli import app
from paceline.errors import PacelineError
from paceline.exporters import tflite

_NETWORK = """
import torch
from torch import nn

def chain():
    torch.manual_seed(1)
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, 2, 1), nn.ReLU(), nn.Conv2d(8, 8, 3, 1, 1, groups=8, bias=False), nn.Conv2d(8, 8, 1), nn.ReLU(),
    )

def plain():
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU())
"""

_DEVICES = "\n".join(
    f'[[device]]\nid = "{name}"\nkind = "simulated"\nprofile = "simulated-{name}"\nseed = 1\n' for name in ("mid", "wide")
)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "network.py").write_text(_NETWORK)
    (tmp_path / "devices.toml").write_text(_DEVICES)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def merge(*arguments: str) -> str:
    """What `paceline merge` prints. Raises what it raises."""
    done = CliRunner().invoke(app, ["merge", *arguments], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    return done.stdout


def test_each_device_gets_its_file(folder: Path) -> None:
    arguments = ["network.py:chain", "--input", "1x32x32x3", "--device", "any 2 of kind=simulated", "-o", "net.tflite"]
    plans = {plan["device"]: plan for plan in json.loads(merge(*arguments, "--json"))}
    assert set(plans) == {"mid", "wide"}
    for name, plan in plans.items():
        assert plan["simulated"]
        assert plan["file"] == f"net-{name}.tflite"
        (winner,) = (form for form in plan["forms"] if form["made"] == plan["made"])
        assert winner["measured_ms"] > 0
        assert len(plan["decisions"][0]["alternatives"]) == 2
        assert len(tflite.read(folder / plan["file"]).graph.operators()) == winner["operators"]
    assert plans["mid"]["made"] != plans["wide"]["made"]


def test_a_plan_shows_and_writes_nothing(folder: Path) -> None:
    shown = merge("network.py:chain", "--input", "1x16x16x3", "--device", "mid", "--plan")
    assert "2 > 3" in shown
    assert "nothing of 2" in shown
    assert not list(folder.glob("*.tflite"))


@pytest.mark.parametrize(
    ("arguments", "code", "reason"),
    [
        (("network.py:plain", "-o", "a.pt"), 2, "ends in .tflite or .onnx"),
        (("network.py:plain", "-o", "a.tflite", "--plan"), 2, "--plan writes no file"),
        (("network.py:plain", "--input", "1x8x8x3", "--device", "nobody"), 7, "nobody"),
        (("network.py:nothing",), 6, "has no function 'nothing'"),
    ],
)
def test_mistakes_are_messages(arguments: tuple[str, ...], code: int, reason: str, folder: Path) -> None:
    with pytest.raises(PacelineError, match=reason) as raised:
        merge(*arguments)
    assert raised.value.exit_code == code
