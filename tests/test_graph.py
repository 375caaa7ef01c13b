"""Operators, their keys and what a Graph counts."""

import pickle

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import given

from paceline.errors import ExportError
from paceline.graph import Graph, Op, OpSpec, TensorSpec, attrs

dims = st.integers(1, 64)
tensors = st.builds(
    TensorSpec, st.lists(dims, max_size=4).map(tuple), st.sampled_from(["float32", "float16", "int8", "int32", "uint8", "bool"])
)
values = st.one_of(
    st.integers(-9, 9),
    st.floats(allow_nan=False, allow_infinity=False),
    st.booleans(),
    st.sampled_from(["SAME", "VALID", "RELU6"]),
    st.lists(st.integers(-3, 9), max_size=6).map(tuple),
)
specs = st.builds(
    lambda kind, ins, outs, named, data: OpSpec(
        kind, tuple(ins), tuple(outs), attrs(**named), tuple(sorted(data.draw(st.sets(st.integers(0, len(ins) - 1)))))
    ),
    st.sampled_from(["CONV_2D", "ADD", "RESIZE_BILINEAR"]),
    st.lists(tensors, min_size=1, max_size=4),
    st.lists(tensors, min_size=1, max_size=2),
    st.dictionaries(st.sampled_from(["stride", "padding", "alpha", "axes"]), values),
    st.data(),
)


@given(specs)
def test_a_key_says_everything(spec: OpSpec) -> None:
    assert OpSpec.parse(spec.key) == spec


@pytest.mark.parametrize("text", ["", "CONV_2D", "CONV_2D 1x2x -> 3", "CONV_2D 1x2:float33 -> 3", "ADD 1 2 3"])
def test_a_text_that_is_no_key_is_refused(text: str) -> None:
    with pytest.raises(ExportError, match="not an operator key"):
        OpSpec.parse(text)


def conv_spec(k: int, cin: int, cout: int, size: int, groups: int = 1) -> OpSpec:
    shapes = (TensorSpec((1, size, size, cin)), TensorSpec((cout, k, k, cin // groups)), TensorSpec((cout,)))
    return OpSpec("CONV_2D", shapes, (TensorSpec((1, size, size, cout)),), (), (1, 2))


def test_macs_and_params_of_operators() -> None:
    assert conv_spec(3, 16, 32, 8).macs == 8 * 8 * 32 * 3 * 3 * 16
    assert conv_spec(3, 16, 32, 8, groups=4).macs == 8 * 8 * 32 * 3 * 3 * 4
    assert conv_spec(3, 16, 32, 8).params == 32 * 3 * 3 * 16 + 32
    dense = OpSpec(
        "FULLY_CONNECTED", (TensorSpec((1, 64)), TensorSpec((10, 64)), TensorSpec((10,))), (TensorSpec((1, 10)),), (), (1, 2)
    )
    assert (dense.macs, dense.params) == (640, 650)
    up = OpSpec(
        "TRANSPOSE_CONV",
        (TensorSpec((8, 2, 2, 4)), TensorSpec((1, 5, 5, 4)), TensorSpec((8,))),
        (TensorSpec((1, 10, 10, 8)),),
        (),
        (0, 2),
    )
    assert up.macs == 5 * 5 * 4 * 2 * 2 * 8
    depthwise = OpSpec(
        "DEPTHWISE_CONV_2D",
        (TensorSpec((1, 9, 9, 6)), TensorSpec((1, 5, 5, 6)), TensorSpec((6,))),
        (TensorSpec((1, 9, 9, 6)),),
        (),
        (1, 2),
    )
    assert depthwise.macs == 9 * 9 * 6 * 25


def padded(reads: int) -> Graph:
    """PAD, then a VALID convolution; with more `reads` of the padded tensor."""
    tensors = {
        "x": TensorSpec((1, 4, 4, 2)),
        "p": TensorSpec((1, 6, 6, 2)),
        "w": TensorSpec((3, 3, 3, 2)),
        "b": TensorSpec((3,)),
        "y": TensorSpec((1, 2, 2, 3)),
        "z": TensorSpec((1, 6, 6, 2)),
    }
    conv = attrs(stride=(2, 2), dilation=(1, 1), padding="VALID", activation="NONE")
    ops = [
        Op("PAD", ("x",), ("p",), attrs(paddings=(0, 0, 1, 1, 1, 1, 0, 0))),
        Op("CONV_2D", ("p", "w", "b"), ("y",), conv, "stem"),
    ]
    outputs = ["y"]
    if reads > 1:
        ops.append(Op("RELU", ("p",), ("z",)))
        outputs.append("z")
    weights = {"w": np.ones((3, 3, 3, 2), np.float32), "b": np.zeros(3, np.float32)}
    return Graph(tuple(ops), tensors, ("x",), tuple(outputs), weights)


def test_a_pad_that_only_a_convolution_reads_is_part_of_it() -> None:
    (spec,) = padded(1).operators()
    assert (spec.kind, spec.attr("pad"), spec.inputs[0].shape) == ("CONV_2D", (1, 1, 1, 1), (1, 4, 4, 2))
    assert padded(1).sources() == ["stem"]
    assert [s.kind for s in padded(2).operators()] == ["PAD", "CONV_2D", "RELU"]


def test_graph_counts() -> None:
    graph = padded(1)
    assert graph.macs() == 2 * 2 * 3 * 9 * 2
    assert graph.params() == 3 * 9 * 2 + 3


def test_a_graph_in_the_wrong_order_is_refused() -> None:
    graph = padded(1)
    with pytest.raises(ExportError, match="CONV_2D at stem reads 'p'"):
        Graph(graph.ops[::-1], graph.tensors, graph.inputs, graph.outputs, graph.weights)
    with pytest.raises(ExportError, match="without shape or producer"):
        Graph(graph.ops, graph.tensors, graph.inputs, ("nowhere",), graph.weights)


def test_operators_are_the_same_keys_in_another_process() -> None:
    """Hashes of texts differ between processes, so a cached one must not travel."""
    spec = OpSpec("ADD", (TensorSpec((1, 4)),) * 2, (TensorSpec((1, 4)),))
    table = {spec: 1.0}
    assert "_hash" not in pickle.loads(pickle.dumps(spec)).__dict__
    assert table[pickle.loads(pickle.dumps(spec))] == 1.0
