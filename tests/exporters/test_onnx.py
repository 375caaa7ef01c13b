"""The `.onnx` file: what it is called inside, what it computes, and what is left behind when it fails."""

from __future__ import annotations

from pathlib import Path

import onnx as onnx_format
import pytest
import torch
from torch import nn

from paceline.errors import ExportError, StoreError
from paceline.exporters import onnx, parity
from paceline.measurement import Artifact

from torch_reference import Function, InvertedResidual, SqueezeExcite, conv_bn, image, randomised


@pytest.fixture(scope="module")
def network() -> nn.Module:
    blocks = nn.Sequential(conv_bn(3, 8, 3, 2), SqueezeExcite(8), InvertedResidual(8, 8), nn.PixelShuffle(2))
    return randomised(blocks)


def test_onnx_computes_the_same_and_prints_nothing(network: nn.Module, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    x, path = image(1, 3, 16, 16), tmp_path / "network.onnx"
    onnx.write(network, x, path)
    assert capfd.readouterr() == ("", "")
    assert parity.check(network, [x], Artifact(path, "network", "onnx"), tolerance=1e-5).max_rel_error > 0
    model = onnx_format.load(path)
    assert [node.name for node in model.graph.input] == ["input"]
    assert [node.name for node in model.graph.output] == ["output"]
    assert list(tmp_path.iterdir()) == [path]
    assert str(Path(torch.__file__).parent).encode() not in path.read_bytes()


def test_several_inputs_and_outputs_are_numbered(tmp_path: Path) -> None:
    path = tmp_path / "two.onnx"
    onnx.write(Function(lambda a, b: (a + b, a * b)).eval(), (image(1, 2), image(1, 2)), path)
    model = onnx_format.load(path)
    assert [node.name for node in model.graph.input] == ["input_0", "input_1"]
    assert [node.name for node in model.graph.output] == ["output_0", "output_1"]


def test_failures_leave_no_file(network: nn.Module, tmp_path: Path) -> None:
    with pytest.raises(ExportError, match="eval"):
        onnx.write(nn.BatchNorm2d(3), image(1, 3, 4, 4), tmp_path / "training.onnx")
    with pytest.raises(ExportError, match="torch"):
        onnx.write(Function(lambda x: x if x.sum() > 0 else -x).eval(), image(1, 3), tmp_path / "branches.onnx")
    (tmp_path / "folder").mkdir()
    with pytest.raises(StoreError):
        onnx.write(Function(lambda x: x + 1).eval(), image(1, 3), tmp_path / "folder")
    assert [p.name for p in tmp_path.iterdir()] == ["folder"]
