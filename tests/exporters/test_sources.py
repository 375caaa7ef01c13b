"""Everything that `paceline export` takes as a network, and the words for what it can't."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

from paceline.errors import ConfigError, ExportError
from paceline.exporters.sources import load_source, shape_of, tensor_specs
from paceline.exporters.torch_graph import graph_of

from torch_reference import conv_bn

_FILE = """
import torch
from torch import nn
import neighbour

def network():
    return neighbour.block(3, 4)

def with_example():
    return network(), torch.ones(1, 3, 6, 8)

def wrong():
    return 3

def broken():
    raise ValueError("no such width")
"""


@pytest.fixture
def file(tmp_path: Path) -> Path:
    (tmp_path / "neighbour.py").write_text("from torch import nn\ndef block(a, b):\n    return nn.Conv2d(a, b, 3)\n")
    path = tmp_path / "networks.py"
    path.write_text(_FILE)
    return path


def test_factory_in_a_file(file: Path) -> None:
    found = load_source(f"{file}:network", [(1, 8, 6, 3)])
    assert found.example[0].shape == (1, 3, 8, 6)
    assert not found.module.training
    assert (found.name, found.text) == ("network", "networks.py:network")
    assert load_source(f"{file}:with_example").example[0].shape == (1, 3, 6, 8)
    assert load_source(f"{file}:with_example", [(1, 8, 6, 3)]).example[0].shape == (1, 3, 8, 6)
    assert torch.equal(found.example[0], load_source(f"{file}:network", [(1, 8, 6, 3)]).example[0])
    assert not torch.equal(found.example[0], load_source(f"{file}:network", [(1, 8, 6, 3)], seed=1).example[0])
    assert tensor_specs(found.example)["input_0"].shape == (1, 8, 6, 3)


@pytest.mark.parametrize(
    ("source", "reason"),
    [
        ("{file}:network", "name its input's shape: --input 1x224x224x3"),
        ("{file}:wrong", "returned int; return a torch.nn.Module"),
        ("{file}:broken", r"broken\(\) failed: ValueError: no such width \(line 16\)"),
        ("{file}:missing", "has no function 'missing'; it has network, with_example, wrong, broken"),
        ("{file}", "name the function that makes the network too"),
        ("{folder}/none.py:f", "no file"),
        ("{folder}/syntax.py:f", "can't be imported: SyntaxError"),
        ("{folder}/none.pt2", "no file"),
        ("{folder}/bad.pt2", "is no exported program"),
        ("{folder}", "is no folder of a finished `paceline run`"),
        ("mobilenet", "can't tell what 'mobilenet' is; SOURCE is one of timm:NAME"),
    ],
)
def test_what_is_no_source(source: str, reason: str, file: Path) -> None:
    (file.parent / "syntax.py").write_text("def f(:\n")
    (file.parent / "bad.pt2").write_bytes(b"nothing")
    with pytest.raises(ExportError, match=reason):
        load_source(source.format(file=file, folder=file.parent))


def test_exported_program_with_a_dynamic_batch_becomes_one_image(tmp_path: Path) -> None:
    net = nn.Sequential(conv_bn(3, 8, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 5)).eval()
    x = torch.randn(2, 3, 16, 12)
    batch = torch.export.Dim("batch", min=1, max=8)
    program = torch.export.export(net, (x,), dynamic_shapes=({0: batch},), strict=False)
    torch.export.save(program, tmp_path / "network.pt2")
    for source in (tmp_path / "network.pt2", tmp_path):  # a run folder holds the program under this name
        found = load_source(str(source))
        assert found.example[0].shape == (1, 3, 16, 12)
        torch.testing.assert_close(found.module(x[:1]), net(x[:1]))
        assert "DEPTHWISE_CONV_2D" not in {op.kind for op in graph_of(found.module, found.example).ops}
    assert load_source(str(tmp_path / "network.pt2"), [(3, 16, 12, 3)]).example[0].shape == (3, 3, 16, 12)


def test_shapes_are_nhwc() -> None:
    assert shape_of("1x224x160x3") == (1, 224, 160, 3)
    for text in ("1,224", "0x3", "", "1x-2", "x3"):
        with pytest.raises(ConfigError, match="write it like 1x224x224x3"):
            shape_of(text)


def test_channels_first_is_corrected(file: Path) -> None:
    with pytest.raises(ConfigError, match="write 1x224x200x3"):
        load_source(f"{file}:network", [(1, 3, 224, 200)])


def test_timm_by_name(tmp_path: Path) -> None:
    pytest.importorskip("yaml")
    from paceline.exporters.timm_networks import timm_network

    try:
        module, chw = timm_network("lcnet_035")
    except ExportError as e:
        pytest.skip(str(e))
    assert chw == (3, 224, 224)
    torch.save(module.state_dict(), tmp_path / "weights.pth")
    found = load_source(f"timm:lcnet_035:{tmp_path / 'weights.pth'}", [(1, 64, 64, 3)])
    assert found.warnings == ()
    assert found.text == "timm:lcnet_035:weights.pth"
    assert all(torch.equal(a, b) for a, b in zip(found.module.parameters(), module.parameters(), strict=True))
    assert "random weights" in load_source("timm:lcnet_035").warnings[0]
    torch.save({"other": torch.zeros(3)}, tmp_path / "other.pth")
    for source, reason in (
        ("timm:lcnet_53", "near ones: .*lcnet_0"),
        (f"timm:lcnet_035:{tmp_path / 'none.pth'}", "no file"),
        (f"timm:lcnet_035:{tmp_path / 'other.pth'}", "do not fit timm's lcnet_035"),
    ):
        with pytest.raises(ExportError, match=reason):
            load_source(source)
