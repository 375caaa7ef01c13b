"""Graphs cut into operators, or between tensors: the parts compute what the whole computes."""

from __future__ import annotations

import numpy as np
import pytest
from torch import nn

from paceline.errors import ExportError
from paceline.exporters import tflite
from paceline.exporters.cut import between, cut
from paceline.exporters.run_tflite import run
from paceline.exporters.torch_graph import graph_of
from paceline.graph import Array, Graph, Op, TensorSpec, attrs

from tflite_samples import float_conv, half_weights, int8_conv, several
from torch_reference import InvertedResidual, SqueezeExcite, conv_bn, image, randomised


def chained(graph: Graph, inputs: list[Array]) -> list[Array]:
    """The outputs of `graph`, computed operator by operator."""
    values = dict(zip(graph.inputs, inputs, strict=True))
    for _, part in cut(graph):
        found = run(tflite.write(part), [values[name] for name in part.inputs], "builtin")
        values.update(zip(part.outputs, found, strict=True))
    return [values[name] for name in graph.outputs]


@pytest.mark.parametrize("graph", [float_conv(), half_weights(), int8_conv()])
def test_operators_one_after_the_other_are_the_whole(graph: Graph) -> None:
    x = np.random.default_rng(0).standard_normal((1, 6, 6, 2)).astype(np.float32)
    (whole,) = run(tflite.write(graph), [x], "builtin")
    assert np.array_equal(chained(graph, [x])[0], whole)
    assert [spec for spec, _ in cut(graph)] == graph.operators()
    assert [part.operators() for _, part in cut(graph)] == [[spec] for spec in graph.operators()]


def test_a_network_is_the_sum_of_its_parts() -> None:
    net = nn.Sequential(conv_bn(3, 8, 3, 2), InvertedResidual(8, 8), SqueezeExcite(8), nn.Flatten(), nn.Linear(512, 3))
    graph = graph_of(randomised(net), image(1, 3, 16, 16))
    x = image(1, 3, 16, 16).permute(0, 2, 3, 1).numpy()
    (whole,) = run(tflite.write(graph), [x], "builtin")
    assert np.array_equal(chained(graph, [x])[0], whole)
    assert sum(part.macs() for _, part in cut(graph)) == graph.macs()


def test_stored_weights_belong_to_their_readers() -> None:
    graph = half_weights()
    first, second = graph.operators()
    assert first.key == "CONV_2D 1x6x6x2 @2x3x3x2:float16 @2 -> 1x6x6x2 " + (
        "activation=NONE dilation=(1,1) pad=(1,1,1,1) padding=VALID stride=(1,1)"
    )
    assert second.inputs[1] == TensorSpec((2, 3, 3, 2), "float16")
    groups = [[op.kind for op in group] for group in graph.groups()]
    assert groups == [["DEQUANTIZE", "PAD", "CONV_2D"], ["DEQUANTIZE", "CONV_2D"]]
    assert graph.params() == 2 * 3 * 3 * 2 + 2
    (_, one), _ = cut(graph)
    assert one.weights["half"].dtype == np.float16
    assert (one.inputs, one.outputs) == (("x",), ("y",))


def test_what_does_not_belong_to_its_reader() -> None:
    graph = half_weights()
    shown = Graph(graph.ops, graph.tensors, graph.inputs, ("z", "w"), graph.weights)
    assert [spec.kind for spec in shown.operators()] == ["DEQUANTIZE", "CONV_2D", "CONV_2D"]
    ops = list(graph.ops)
    ops[1] = Op("PAD", ("x",), ("p",), attrs(paddings=(0, 0, 1, 1, 1, 1, 0, 1)))  # pads channels too
    padded = Graph(tuple(ops), graph.tensors, graph.inputs, graph.outputs, graph.weights)
    assert [spec.kind for spec in padded.operators()] == ["PAD", "CONV_2D", "CONV_2D"]


def test_absent_operands_at_the_end_are_no_operands() -> None:
    tensors = {"x": TensorSpec((1, 4)), "w": TensorSpec((3, 4)), "y": TensorSpec((1, 3))}
    op = Op("FULLY_CONNECTED", ("x", "w", ""), ("y",), attrs(activation="NONE", keep_dims=False))
    (spec,) = Graph((op,), tensors, ("x",), ("y",), {"w": np.ones((3, 4), np.float32)}).operators()
    assert spec.key == "FULLY_CONNECTED 1x4 @3x4 -> 1x3 activation=NONE keep_dims=false"
    assert spec.macs == 12


def test_quantisation_stays_with_the_parts() -> None:
    graph = int8_conv()
    part = dict(cut(graph))[graph.operators()[1]]
    assert part.quantization == {name: graph.quantization[name] for name in ("xq", "w", "b", "yq")}
    assert part.dynamic == {"xq": (-1, 6, 6, 2), "yq": (-1, 6, 6, 3)}


def test_between_two_tensors() -> None:
    graph = half_weights()
    part = between(graph, ["y"], ["z"])
    assert [op.kind for op in part.ops] == ["DEQUANTIZE", "CONV_2D"]
    x = np.random.default_rng(0).standard_normal((1, 6, 6, 2)).astype(np.float32)
    (y,) = run(tflite.write(between(graph, ["x"], ["y"])), [x], "builtin")
    (z,) = run(tflite.write(part), [y], "builtin")
    assert np.array_equal(z, run(tflite.write(graph), [x], "builtin")[0])


def test_a_weight_may_become_an_input() -> None:
    part = between(float_conv(), ["x", "w"], ["y"])
    assert (part.inputs, set(part.weights)) == (("x", "w"), {"b"})


@pytest.mark.parametrize(
    ("inputs", "outputs", "reason"),
    [
        (["y"], ["y_"], "no tensor 'y_'; near ones: y"),
        (["q"], ["z"], "no tensor 'q'"),
        ([], ["z"], "no tensor does not determine 'z': also needed is 'x'"),
        (["z"], ["y"], "'z' does not determine 'y': also needed is 'x'"),
        (["x"], [], "name at least one tensor"),
    ],
)
def test_impossible_cuts_are_refused(inputs: list[str], outputs: list[str], reason: str) -> None:
    with pytest.raises(ExportError, match=reason):
        between(float_conv(), inputs, outputs)


def test_control_flow_is_not_cut() -> None:
    with pytest.raises(ExportError, match="WHILE runs other graphs of its file"):
        cut(several().graph)
