"""`paceline merge` as a user calls it, on simulated phones."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from test_cli import paceline

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
def folder(tmp_path: Path) -> Path:
    (tmp_path / "network.py").write_text(_NETWORK)
    (tmp_path / "devices.toml").write_text(_DEVICES)
    return tmp_path


def test_each_device_gets_its_file(folder: Path) -> None:
    command = ["merge", "network.py:chain", "--input", "1x32x32x3", "--device", "any 2 of kind=simulated", "-o", "net.tflite"]
    done = paceline(*command, "--json", folder=folder)
    assert done.returncode == 0, done.stderr
    plans = {plan["device"]: plan for plan in json.loads(done.stdout)}
    assert set(plans) == {"mid", "wide"}
    for name, plan in plans.items():
        assert plan["simulated"]
        assert plan["file"] == f"net-{name}.tflite"
        (winner,) = (form for form in plan["forms"] if form["made"] == plan["made"])
        seen = json.loads(paceline("inspect", plan["file"], "--json", folder=folder).stdout)
        assert len(plan["decisions"][0]["alternatives"]) == 2
        assert sum(seen["graphs"][0]["operators"].values()) == winner["operators"]
        assert winner["measured_ms"] > 0
    assert plans["mid"]["made"] != plans["wide"]["made"]


def test_a_plan_shows_and_writes_nothing(folder: Path) -> None:
    command = ["merge", "network.py:chain", "--input", "1x16x16x3", "--device", "mid", "--plan"]
    done = paceline(*command, folder=folder)
    assert done.returncode == 0, done.stderr
    assert "2 > 3" in done.stdout
    assert "nothing of 2" in done.stdout
    assert not list(folder.glob("*.tflite"))
    assert paceline(*command, "-o", "a.tflite", folder=folder).returncode == 2


def test_mistakes_are_messages(folder: Path) -> None:
    for arguments, code, reason in (
        (("network.py:chain", "-o", "a.pt"), 2, "ends in .tflite or .onnx"),
        (("network.py:chain", "--device", "nobody"), 2, "nobody"),
        (("network.py:nothing",), 6, "has no function 'nothing'"),
        (("network.py:chain", "--input", "1x16x16x3", "--table", "none.paceline"), 3, "none.paceline"),
    ):
        done = paceline("merge", *arguments, folder=folder)
        assert done.returncode == code, done.stderr
        assert reason in done.stderr
        assert "Traceback" not in done.stderr
