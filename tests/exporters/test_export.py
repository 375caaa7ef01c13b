"""One call from a module to a proven file: callable, with report and provenance; and what it refuses."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from torch import Tensor, nn

import paceline.exporters
from paceline.errors import ConfigError, ExportError
from paceline.exporters import export, tflite
from paceline.exporters.parity import ParityError
from paceline.exporters.precision.calibration import Calibration

from torch_reference import InvertedResidual, SqueezeExcite, conv_bn, image, randomised


class Small(nn.Module):
    """Convolutions, squeeze-excitation and a classifier; returns the map too."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(conv_bn(3, 16, 3, 2), InvertedResidual(16, 16), SqueezeExcite(16))
        self.head = nn.Linear(16, 5)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        features = self.body(x)
        return self.head(features.mean((2, 3))), features


@pytest.fixture(scope="module")
def small() -> nn.Module:
    return randomised(Small())


@pytest.mark.parametrize("ending", ["tflite", "onnx"])
def test_called_like_the_module(small: nn.Module, ending: str, tmp_path: Path) -> None:
    x = image(1, 3, 16, 24)
    model = export(small, x, tmp_path / f"small.{ending}")
    other = image(1, 3, 16, 24, seed=1)
    with torch.no_grad():
        expected = small(other)
    found = model(other)
    assert isinstance(found, tuple)
    for a, b in zip(found, expected, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)
    with pytest.raises(ExportError, match=r"input 0 .* has shape \(1, 3, 16, 24\)"):
        model(image(1, 3, 24, 16))
    with pytest.raises(ExportError, match="takes 1 inputs, not 2"):
        model(x, x)


def test_report_and_provenance(small: nn.Module, tmp_path: Path) -> None:
    x = image(1, 3, 16, 16)
    first, second = (export(small, x, tmp_path / name, source="a test") for name in ("a.tflite", "b.tflite"))
    report = first.report
    assert report.bytes == first.path.stat().st_size
    assert report.ops["DEPTHWISE_CONV_2D"] == 1
    assert report.transposes_inside == 0
    assert 0 < report.max_rel_error <= 1e-4
    assert report.warnings == ()
    json.dumps(report.to_json())
    assert first.path.read_bytes() == second.path.read_bytes()
    told = json.loads(tflite.read(first.path).metadata["paceline"])
    assert told["source"] == "a test"
    assert told["paceline"] == paceline.__version__
    assert told["max_rel_error"] == report.max_rel_error
    assert told["passes"] == list(report.passes) != []
    assert str(tmp_path) not in json.dumps(told)
    onnx_told = json.loads(onnx.load(export(small, x, tmp_path / "a.onnx").path).metadata_props[0].value)
    assert onnx_told["weights_sha256"] == told["weights_sha256"]
    changed = randomised(Small(), seed=1)
    other = json.loads(tflite.read(export(changed, x, tmp_path / "c.tflite").path).metadata["paceline"])
    assert other["weights_sha256"] != told["weights_sha256"]


@pytest.mark.parametrize(("precision", "least_db", "size"), [("fp16", 50, 0.8), ("dynamic", 25, 0.8), ("int8", 15, 0.9)])
def test_precisions(small: nn.Module, precision: str, least_db: float, size: float, tmp_path: Path) -> None:
    x = image(1, 3, 16, 16)
    exact = export(small, x, tmp_path / "exact.tflite")
    rng = np.random.default_rng(0)
    data = Calibration(tuple((rng.standard_normal((1, 16, 16, 3), np.float32),) for _ in range(8)), "numbers")
    for interface in ("float", "int8") if precision == "int8" else ("float",):
        file = export(small, x, tmp_path / "q.tflite", precision=precision, calibration=data, interface=interface)  # type: ignore[arg-type]
        assert file.report.bytes < size * exact.report.bytes
        assert file.report.precision is not None
        assert file.report.max_abs_error > 10 * exact.report.max_abs_error  # of this file, not of the float one
        assert file.report.precision.source == "numbers"
        assert all(o.snr_db > least_db for o in file.report.precision.outputs)
        for a, b in zip(file(x), exact(x), strict=True):
            assert a.dtype == torch.float32
            assert (a - b).pow(2).mean() < b.pow(2).mean() * 10 ** (-least_db / 10)
        assert "paceline" in tflite.read(file.path).metadata


def test_what_can_not_be_exported_leaves_no_file(small: nn.Module, tmp_path: Path) -> None:
    x = image(1, 3, 16, 16)
    with pytest.raises(ExportError, match="calibration"):
        export(small, x, tmp_path / "a.tflite", precision="int8")
    with pytest.raises(ConfigError, match="precision 'int4' does not exist; it is one of fp32, fp16, dynamic, int8"):
        export(small, x, tmp_path / "a.tflite", precision="int4")  # type: ignore[arg-type]
    with pytest.raises(ExportError, match="written in fp32"):
        export(small, x, tmp_path / "a.onnx", precision="fp16")
    with pytest.raises(ExportError, match=r"neither in \.tflite nor in \.onnx"):
        export(small, x, tmp_path / "a.pb")
    with pytest.raises(ExportError, match="no folder"):
        export(small, x, tmp_path / "none" / "a.tflite")
    with pytest.raises(ExportError, match=r"call \.eval\(\)"):
        export(Small(), x, tmp_path / "a.tflite")
    with pytest.raises(ParityError, match="differs"):
        export(small, x, tmp_path / "a.tflite", tolerance=1e-12)
    assert list(tmp_path.iterdir()) == []


def test_constant_example_is_compared_on_other_numbers(small: nn.Module, tmp_path: Path) -> None:
    assert export(small, torch.zeros(1, 3, 16, 16), tmp_path / "a.tflite").report.max_abs_error > 0


def test_warns_of_what_gpus_refuse(tmp_path: Path) -> None:
    class Deep(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x.reshape(1, 2, 3, 2, 4, 6).permute(0, 5, 2, 4, 1, 3)

    report = export(Deep().eval(), image(1, 288), tmp_path / "a.tflite").report
    assert "more than 4 dimensions" in " ".join(report.warnings)


def test_the_package_has_nothing_else() -> None:
    with pytest.raises(AttributeError, match="no attribute 'exprot'"):
        paceline.exporters.exprot  # noqa: B018
