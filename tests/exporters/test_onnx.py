"""The `.onnx` file: what it is called inside, what it computes, and what is left behind when it fails."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import onnx as onnx_format
import onnxruntime
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


@pytest.fixture(scope="module")
def written(network: nn.Module, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("onnx") / "network.onnx"
    onnx.write(network, image(1, 3, 16, 16), path, {"source": "a test", "paceline": "Ünï"})
    return path


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


def test_weights_and_nodes_have_the_modules_names(network: nn.Module, written: Path) -> None:
    model = onnx_format.load(written)
    weights = {w.name: tuple(w.dims) for w in model.graph.initializer if w.name.endswith(".weight")}
    assert weights == {name: tuple(p.shape) for name, p in network.named_parameters() if p.ndim == 4}
    convs = [node for node in model.graph.node if node.op_type == "Conv"]
    assert [node.name for node in convs] == [f"{node.input[1].removesuffix('.weight')}/Conv" for node in convs]
    assert [node.input[2] for node in convs] == [f"{node.input[1].removesuffix('.weight')}.bias" for node in convs]
    nodes = [node.name for node in model.graph.node]
    assert len(set(nodes)) == len(nodes)
    assert all(node.output[0] in (f"{node.name}_output", "output") for node in model.graph.node)


def test_names_of_split_repeated_and_top_level_operators(tmp_path: Path) -> None:
    class Halves(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(4, 4, 1)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            a, b = self.conv(self.conv(x)).chunk(2, dim=1)
            return (a.sigmoid() * b).sigmoid()

    class Outer(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.halves = Halves()

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return -self.halves(x)

    path = tmp_path / "halves.onnx"
    onnx.write(Outer().eval(), image(1, 4, 5, 5), path)
    model = onnx_format.load(path)
    assert [node.name for node in model.graph.node] == [
        "halves.conv/Conv",
        "halves.conv/Conv_1",
        "halves/Split",
        "halves/Sigmoid",
        "halves/Mul",
        "halves/Sigmoid_1",
        "Neg",
    ]
    assert [node.name for node in model.graph.initializer] == ["halves.conv.weight", "halves.conv.bias"]


def test_shapes_are_static_and_known(written: Path) -> None:
    graph = onnx_format.load(written).graph
    known = {v.name: v.type.tensor_type.shape.dim for v in (*graph.value_info, *graph.output)}
    assert all(name in known for node in graph.node for name in node.output)
    assert all(d.HasField("dim_value") for dims in known.values() for d in dims)


def test_the_newest_opset_or_an_older_one(tmp_path: Path, written: Path) -> None:
    assert [(o.domain, o.version) for o in onnx_format.load(written).opset_import] == [("", 25)]
    module, x, path = nn.Linear(3, 4).eval(), image(1, 3), tmp_path / "old.onnx"
    onnx.write(module, x, path, opset=20)
    model = onnx_format.load(path)
    assert (model.opset_import[0].version, model.ir_version) == (20, 9)
    assert parity.check(module, [x], Artifact(path, "old", "onnx")).max_rel_error < 1e-5
    for opset in (19, 26):
        with pytest.raises(ExportError, match="20 to 25"):
            onnx.write(module, x, path, opset=opset)


def test_metadata_is_written_and_read_again(written: Path, tmp_path: Path) -> None:
    assert onnx.read_metadata(written) == {"paceline": "Ünï", "source": "a test"}
    assert onnxruntime.InferenceSession(str(written)).get_modelmeta().custom_metadata_map == onnx.read_metadata(written)
    copy = tmp_path / "copy.onnx"
    copy.write_bytes(written.read_bytes())
    onnx.write_metadata(copy, {"other": "1"})
    assert onnx.read_metadata(copy) == {"other": "1"}
    onnx.write_metadata(copy, onnx.read_metadata(written))
    assert copy.read_bytes() == written.read_bytes()


@pytest.mark.parametrize("content", [b"", b"\xff\xff\xff", b"TFL3 something", None])
def test_metadata_of_what_is_no_onnx_file(tmp_path: Path, content: bytes | None) -> None:
    path = tmp_path / "wrong.onnx"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(ExportError, match=r"wrong\.onnx"):
        onnx.read_metadata(path)
    with pytest.raises(ExportError, match=r"wrong\.onnx"):
        onnx.write_metadata(path, {})


def test_the_same_module_gives_the_same_bytes(written: Path, tmp_path: Path) -> None:
    """In another process with another hash seed: no order of sets or addresses gets into the file."""
    program = """
import sys
from pathlib import Path
from paceline.exporters import onnx
from torch_reference import *
network = nn.Sequential(conv_bn(3, 8, 3, 2), SqueezeExcite(8), InvertedResidual(8, 8), nn.PixelShuffle(2))
onnx.write(randomised(network), image(1, 3, 16, 16), Path(sys.argv[1]), {"paceline": "Ünï", "source": "a test"})
"""
    again = tmp_path / "again.onnx"
    environment = {"PYTHONHASHSEED": "7", "PYTHONPATH": str(Path(__file__).parent), "OMP_NUM_THREADS": "1"}
    subprocess.run([sys.executable, "-c", program, str(again)], check=True, env=environment)
    assert again.read_bytes() == written.read_bytes()


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
    with pytest.raises(ExportError, match=r"_linalg_eigh.*operators that ONNX has"):
        onnx.write(Function(lambda x: torch.linalg.eigvalsh(x @ x.T)).eval(), image(3, 3), tmp_path / "eigenvalues.onnx")
    (tmp_path / "folder").mkdir()
    with pytest.raises(StoreError):
        onnx.write(Function(lambda x: x + 1).eval(), image(1, 3), tmp_path / "folder")
    assert [p.name for p in tmp_path.iterdir()] == ["folder"]
