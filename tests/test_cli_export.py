"""`paceline export` and `paceline inspect` as a user calls them."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from test_cli import paceline

_NETWORK = """
import torch
from torch import nn

def small():
    torch.manual_seed(1)
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, 2, 1, bias=False), nn.BatchNorm2d(8), nn.ReLU6(),
        nn.Conv2d(8, 8, 3, 1, 1, groups=8), nn.Hardswish(),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 5),
    )

class Branches(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Conv2d(3, 3, 3, 1, 1), nn.Conv2d(3, 3, 1)
    def forward(self, x):
        return (self.a(x) + self.b(x) + x).relu()

def branches():
    return Branches(), torch.zeros(1, 3, 8, 8)

class Complex(nn.Module):
    def forward(self, x):
        return torch.fft.fft(x).abs()

def impossible():
    return Complex(), torch.zeros(1, 8)
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "network.py").write_text(_NETWORK)
    return tmp_path


def test_json_says_what_was_made(folder: Path) -> None:
    done = paceline(
        *["export", "network.py:small", "-o", "a.tflite", "--input", "1x32x24x3", "--onnx", "a.onnx", "--json"], folder=folder
    )
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    assert told["ops"] == {"PAD": 1, "CONV_2D": 1, "DEPTHWISE_CONV_2D": 1, "HARD_SWISH": 1, "MEAN": 1, "FULLY_CONNECTED": 1}
    assert told["transposes_inside"] == 0
    assert 0 <= told["max_rel_error"] <= 1e-4
    assert told["bytes"] == (folder / "a.tflite").stat().st_size
    assert told["seconds"] > 0
    assert told["warnings"] == []
    assert told["onnx"]["bytes"] == (folder / "a.onnx").stat().st_size
    seen = json.loads(paceline("inspect", "a.tflite", "--json", folder=folder).stdout)
    assert seen["provenance"]["source"] == "network.py:small"
    assert seen["graphs"][0]["inputs"].popitem()[1] == "1x32x24x3"
    assert seen["graphs"][0]["macs"] == 16 * 12 * 8 * 27 + 16 * 12 * 8 * 9 + 40


def test_int8_from_images_and_from_arrays(folder: Path) -> None:
    rng = np.random.default_rng(0)
    (folder / "images").mkdir()
    for i in range(6):
        Image.fromarray(rng.integers(0, 256, (40, 30, 3), np.uint8)).save(folder / "images" / f"{i}.png")
    np.savez(folder / "data.npz", rng.standard_normal((6, 3, 32, 32)).astype(np.float32))
    for data, interface in (("images", "float"), ("data.npz", "int8")):
        arguments = ["export", "network.py:small", "-o", "q.tflite", "--input", "1x32x32x3", "--precision", "int8"]
        arguments += ["--calibration", data, "--interface", interface]
        done = paceline(*arguments, "--json", folder=folder)
        assert done.returncode == 0, done.stderr
        told = json.loads(done.stdout)["precision"]
        assert told["samples"] == 6
        assert told["outputs"][0]["snr_db"] > 15
        assert told["first_wrong"]["kind"]
        seen = json.loads(paceline("inspect", "q.tflite", "--json", folder=folder).stdout)
        assert seen["scheme"] == "static int8"
        assert seen["graphs"][0]["inputs"].popitem()[1] == ("1x32x32x3" if interface == "float" else "1x32x32x3:int8")
    narrow = paceline(*arguments, columns=50, folder=folder)
    assert max(len(line) for line in narrow.stdout.splitlines() if line[0] in "│┃┌") <= 50
    assert "SNR" in narrow.stdout
    assert "error to torch" in narrow.stdout


def test_branches_merge_on_request(folder: Path) -> None:
    counts = []
    for merge in ((), ("--merge",)):
        done = paceline("export", "network.py:branches", "-o", "b.tflite", "--json", *merge, folder=folder)
        assert done.returncode == 0, done.stderr
        counts.append(json.loads(done.stdout)["ops"]["CONV_2D"])
    assert counts == [2, 1]


def test_merging_that_hurts_int8_is_told(folder: Path) -> None:
    np.savez(folder / "images.npz", x=np.random.default_rng(0).standard_normal((4, 8, 8, 3), np.float32))
    arguments = ("export", "network.py:branches", "-o", "a.tflite", "--precision", "int8", "--calibration", "images.npz")
    done = paceline(*arguments, "--merge", folder=folder)
    assert done.returncode == 0, done.stderr
    assert "harder to quantise in 1 of 1 layers" in done.stdout


def test_run_folder_is_a_source(folder: Path) -> None:
    from paceline.exporters.sources import load_source, save_program

    found = load_source(f"{folder / 'network.py'}:small", [(1, 16, 16, 3)])
    (folder / "run").mkdir()
    save_program(found.module, found.example, folder / "run" / "network.pt2")
    done = paceline("export", "run", "-o", "c.tflite", "--precision", "fp16", folder=folder)
    assert done.returncode == 0, done.stderr
    assert "error to torch" in done.stdout
    assert "compared with fp32" in done.stdout
    assert "fp16 weights" in paceline("inspect", "c.tflite", folder=folder, columns=80).stdout


@pytest.mark.parametrize(
    ("arguments", "code", "reason"),
    [
        ("network.py:small -o a.pb --input 1x8x8x3", 2, "give a file that ends in .tflite"),
        ("network.py:small -o a.tflite --input 1,8,8,3", 2, "write it like 1x224x224x3"),
        ("network.py:small -o a.tflite --onnx a.pb --input 1x8x8x3", 2, "ends in .onnx"),
        ("network.py:small -o none/a.tflite --input 1x8x8x3", 6, "no folder none"),
        ("network.py:small -o a.tflite --input 1x8x8x3 --precision int8", 6, "calibration"),
        ("network.py:small -o a.tflite --input 1x8x8x3 --precision int8 --calibration none", 3, "none does not exist"),
        ("network.py:impossible -o a.tflite", 6, "fft"),
        ("network.py:branches -o a.tflite --precision int7", 2, "int7"),
        ("network -o a.tflite", 6, "SOURCE is one of"),
    ],
)
def test_mistakes_are_messages(arguments: str, code: int, reason: str, folder: Path) -> None:
    done = paceline("export", *arguments.split(), folder=folder)
    assert done.returncode == code, done.stderr
    assert reason in " ".join(done.stderr.split())
    assert "Traceback" not in done.stderr
    assert not (folder / "a.tflite").exists()
