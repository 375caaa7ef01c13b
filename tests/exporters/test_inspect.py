"""What `paceline inspect` says about a model."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from torch import nn
from typer.testing import CliRunner

from paceline.cli import app
from paceline.errors import ExportError
from paceline.exporters import tflite
from paceline.exporters.inspect import inspect, peak_bytes, scheme, transposes_inside
from paceline.exporters.operator_models import operator_graph
from paceline.exporters.provenance import KEY
from paceline.exporters.torch_graph import graph_of
from paceline.graph import Graph, Op, OpSpec, TensorSpec, attrs

from tflite_samples import float_conv, half_weights, int8_conv, several
from torch_reference import InvertedResidual, image, randomised


def test_counts_of_a_network() -> None:
    graph = graph_of(randomised(InvertedResidual(4, 4)), image(1, 4, 8, 8))
    data = tflite.write(graph)
    found = inspect(data)
    (one,) = found.graphs
    assert (one.macs, one.params, found.bytes, found.scheme) == (graph.macs(), graph.params(), len(data), "fp32")
    assert one.counts == {"CONV_2D": 2, "DEPTHWISE_CONV_2D": 1, "ADD": 1}
    assert [op.kind for op in one.operators] == [spec.kind for spec in graph.operators()]
    assert sum(op.macs for op in one.operators) == one.macs
    assert one.operators[0].inputs == ("1x8x8x4", "@24x1x1x4", "@24")
    assert [s.name for s in found.signatures] == ["serving_default"]


@pytest.mark.parametrize(
    ("graph", "wanted"),
    [
        (float_conv(), "fp32"),
        (half_weights(), "fp16 weights"),
        (int8_conv(), "static int8"),
        (several().graph, "fp32"),
    ],
)
def test_the_scheme_is_that_of_the_convolutions(graph: Graph, wanted: str) -> None:
    assert scheme(graph) == wanted


CONV = "@6x3x3x4:int8 @6 -> 1x8x8x6 activation=NONE{} dilation=(1,1) padding=SAME stride=(1,1)"


@pytest.mark.parametrize(
    ("key", "wanted"),
    [
        (f"CONV_2D 1x8x8x4 {CONV.format('')}", "dynamic range int8"),
        (f"CONV_2D 1x8x8x4 {CONV.format(' dequantized=(1)')}", "int8 weights"),
        ("FULLY_CONNECTED 1x16 @5x16:int4 @5 -> 1x5 activation=NONE keep_dims=false", "dynamic range int4"),
        ("FULLY_CONNECTED 1x16:int16 @5x16:int8 @5:int64 -> 1x5:int16 activation=NONE keep_dims=false", "static int16x8"),
        ("LOGISTIC 1x10:uint8 -> 1x10:uint8", "static uint8"),
    ],
)
def test_the_scheme_of_an_operator(key: str, wanted: str) -> None:
    assert scheme(operator_graph(OpSpec.parse(key))) == wanted


def test_scheme_of_mixed_networks() -> None:
    int8, full = int8_conv(), float_conv()
    ops = (*int8.ops, Op("CONV_2D", ("x", "fw", ""), ("fy",), full.ops[0].attrs))
    tensors = {**int8.tensors, "fw": full.tensors["w"], "fy": full.tensors["y"]}
    mixed = Graph(ops, tensors, int8.inputs, ("y", "fy"), {**int8.weights, "fw": full.weights["w"]}, int8.quantization)
    assert scheme(mixed) == "mixed: static int8 (1), fp32 (1)"


def test_quantisation_of_operators() -> None:
    kinds = {op.kind: op.quantization for op in inspect(tflite.write(int8_conv())).graphs[0].operators}
    assert kinds == {"QUANTIZE": "per tensor", "CONV_2D": "per channel", "DEQUANTIZE": ""}
    assert inspect(tflite.write(int8_conv(False))).graphs[0].operators[1].quantization == "per tensor"


def test_activations_at_their_most() -> None:
    # a residual: while the middle of three operators runs, the skipped tensor lives beside its input and its output
    names = {"x": 10, "a": 20, "b": 30, "c": 10, "y": 10}
    tensors = {name: TensorSpec((n,)) for name, n in names.items()}
    ops = [Op("TANH", (i,), (o,)) for i, o in (("x", "a"), ("a", "b"), ("b", "c"))]
    ops.append(Op("ADD", ("x", "c"), ("y",), attrs(activation="NONE")))
    assert peak_bytes(Graph(tuple(ops), tensors, ("x",), ("y",), {})) == 4 * (10 + 20 + 30)
    # an output computed first stays to the end
    assert peak_bytes(Graph(tuple(ops), tensors, ("x",), ("a", "y"), {})) == 4 * (10 + 20 + 30 + 10)
    # neither a PAD that belongs to its convolution nor expanded weights are computed
    assert peak_bytes(half_weights()) == 2 * 6 * 6 * 2 * 4
    # int8 takes a quarter
    assert peak_bytes(int8_conv()) == 6 * 6 * 3 * (4 + 1)


def test_transposes_inside_the_convolutional_body() -> None:
    t = TensorSpec((1, 4, 4, 4))
    turn = attrs(perm=(0, 2, 1, 3))
    kinds = ["TRANSPOSE", "CONV_2D", "TRANSPOSE", "TANH", "TRANSPOSE", "CONV_2D", "TRANSPOSE"]
    ops = []
    for i, kind in enumerate(kinds):
        operands = (f"t{i}", "w", "") if kind == "CONV_2D" else (f"t{i}",)
        ops.append(Op(kind, operands, (f"t{i + 1}",), turn if kind == "TRANSPOSE" else ()))
    graph = Graph(
        tuple(ops),
        {f"t{i}": t for i in range(8)} | {"w": TensorSpec((4, 1, 1, 4))},
        ("t0",),
        ("t7",),
        {"w": float_conv().weights["w"]},
    )
    assert transposes_inside(graph) == 2
    assert transposes_inside(int8_conv()) == 0
    assert transposes_inside(several().graph) == 0


def test_provenance_and_other_metadata(tmp_path: Path) -> None:
    path = tmp_path / "m.tflite"
    tflite.save(tflite.model_of(float_conv(), {KEY: b'{"source": "here"}', "other": b"12345"}), path)
    found = inspect(path)
    assert (found.provenance, found.metadata) == ({"source": "here"}, {"other": 5})
    assert inspect(tflite.write(tflite.model_of(float_conv(), {KEY: b"[1"}))).metadata == {KEY: 2}


def test_missing_files_are_named(tmp_path: Path) -> None:
    with pytest.raises(ExportError, match=r"no file .*m\.tflite; give"):
        inspect(tmp_path / "m.tflite")


def test_command(tmp_path: Path) -> None:
    path = tmp_path / "several.tflite"
    tflite.save(several(), path)
    result = CliRunner().invoke(app, ["inspect", str(path), "--json"])
    assert result.exit_code == 0, result.output
    found = json.loads(result.output)
    assert found == json.loads(json.dumps(inspect(path).to_json()))
    assert [g["name"] for g in found["graphs"]] == ["main", "condition", "body"]
    assert (found["files"], found["metadata"]) == ({"labels.txt": 8}, {"notes": 2})
    shown = CliRunner().invoke(app, ["inspect", str(path)], env={"COLUMNS": "80"}).output
    assert max(map(len, shown.splitlines())) <= 80
    for word in ("WHILE", "condition", "body_subgraph_index=2", "labels.txt", "serving_default"):
        assert word in shown


def test_command_shows_no_control_characters(tmp_path: Path) -> None:
    graph = float_conv()
    ops = (Op("CUSTOM", ("x",), ("y",), attrs(custom_code="\x1b[2J[bold]", custom_options="")), graph.ops[1])
    tflite.save(Graph(ops, graph.tensors, ("x",), ("z",), {}), tmp_path / "m.tflite")
    shown = CliRunner().invoke(app, ["inspect", str(tmp_path / "m.tflite")]).output
    assert "\x1b" not in shown
    assert "[2J[bold]" in shown


def test_equal_operators_share_a_row(tmp_path: Path) -> None:
    net = nn.Sequential(*[InvertedResidual(4, 4) for _ in range(30)])
    tflite.save(graph_of(randomised(net), image(1, 4, 8, 8)), tmp_path / "deep.tflite")
    shown = CliRunner().invoke(app, ["inspect", str(tmp_path / "deep.tflite")], env={"COLUMNS": "80"}).output
    assert "120 operators" in shown
    assert len(shown.splitlines()) < 40
