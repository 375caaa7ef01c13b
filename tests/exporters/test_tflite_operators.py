"""Single-operator models of quantised operators, made from their keys alone: the runtime takes them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from paceline.errors import ExportError
from paceline.exporters import tflite
from paceline.exporters.operator_models import operator_graph, write_operator
from paceline.exporters.run_tflite import run
from paceline.graph import OpSpec

CONV = "activation=RELU6 dilation=(1,1) padding=SAME stride=(1,1)"
KEYS = [
    f"CONV_2D 1x8x8x4:int8 @6x3x3x4:int8 @6:int32 -> 1x8x8x6:int8 {CONV}",
    f"CONV_2D 1x8x8x4:uint8 @6x3x3x4:uint8 @6:int32 -> 1x8x8x6:uint8 {CONV}",
    f"CONV_2D 1x8x8x4:int16 @6x3x3x4:int8 @6:int64 -> 1x8x8x6:int16 {CONV}",
    f"CONV_2D 1x8x8x4 @6x3x3x4:float16 @6:float16 -> 1x8x8x6 {CONV}",
    f"CONV_2D 1x8x8x4 @6x3x3x4:int8 @6 -> 1x8x8x6 {CONV}",
    f"CONV_2D 1x8x8x4 @6x3x3x4:int8 @6 -> 1x8x8x6 {CONV.replace('dil', 'dequantized=(1) dil')}",
    "CONV_2D 1x8x8x4:int8 @6x3x3x4:int8 @6:int32 -> 1x4x4x6:int8 "
    "activation=NONE dilation=(1,1) pad=(1,1,1,1) padding=VALID stride=(2,2)",
    f"DEPTHWISE_CONV_2D 1x8x8x4:int8 @1x3x3x4:int8 @4:int32 -> 1x8x8x4:int8 {CONV}",
    f"DEPTHWISE_CONV_2D 1x8x8x4:uint8 @1x3x3x8:uint8 @8:int32 -> 1x8x8x8:uint8 {CONV}",
    "TRANSPOSE_CONV @6x2x2x4:int8 1x4x4x4:int8 @6:int32 -> 1x8x8x6:int8 activation=NONE padding=VALID stride=(2,2)",
    "FULLY_CONNECTED 1x16:int8 @5x16:int8 @5:int32 -> 1x5:int8 activation=NONE keep_dims=false",
    "FULLY_CONNECTED 1x16 @5x16:int8 -> 1x5 activation=NONE keep_dims=false",
    "FULLY_CONNECTED 1x16 @5x16:int4 @5 -> 1x5 activation=NONE keep_dims=false",
    "ADD 1x8x8x4:int8 1x8x8x4:int8 -> 1x8x8x4:int8 activation=NONE",
    "MUL 1x8x8x4:int8 @4:int8 -> 1x8x8x4:int8 activation=NONE",
    "AVERAGE_POOL_2D 1x8x8x4:int8 -> 1x4x4x4:int8 activation=NONE filter=(2,2) padding=VALID stride=(2,2)",
    "CONCATENATION 1x8x8x4:int8 1x8x8x4:int8 -> 1x8x8x8:int8 activation=NONE axis=3",
    "MEAN 1x8x8x4:int8 -> 1x1x1x4:int8 axes=(1,2) keep_dims=true",
    "SOFTMAX 1x10:int8 -> 1x10:int8 beta=1.0",
    "LOGISTIC 1x10:uint8 -> 1x10:uint8",
    "TANH 1x10:int16 -> 1x10:int16",
    "HARD_SWISH 1x10:int8 -> 1x10:int8",
    "RESHAPE 1x8x8x4:int8 -> 1x256:int8",
    "RESIZE_BILINEAR 1x8x8x4:int8 -> 1x16x16x4:int8 align_corners=false half_pixel_centers=true",
    "QUANTIZE 1x8 -> 1x8:int8",
    "DEQUANTIZE 1x8:int8 -> 1x8",
    "CAST 1x8:int32 -> 1x8",
    "GATHER @9x4 1x3:int32 -> 1x3x4 axis=0",
]


@pytest.mark.parametrize("key", KEYS)
def test_an_operator_of_any_precision_runs(key: str) -> None:
    spec = OpSpec.parse(key)
    graph = operator_graph(spec)
    assert [s.key for s in graph.operators()] == [key]
    read = tflite.read(tflite.write(graph)).graph
    assert [s.key for s in read.operators()] == [key]
    rng = np.random.default_rng(0)
    operands = [graph.tensors[name] for name in graph.inputs]
    inputs = [rng.integers(0, 9, t.shape).astype(t.dtype) for t in operands]
    for kernels in ("xnnpack", "builtin"):
        (result,) = run(tflite.write(graph), inputs, kernels)  # type: ignore[arg-type]
        assert (result.shape, result.dtype.name) == (spec.outputs[0].shape, spec.outputs[0].dtype)
        assert np.isfinite(result.astype(np.float64)).all()


def test_absent_operands_are_written_as_absent() -> None:
    graph = operator_graph(OpSpec.parse("SVDF 1x4 @3x4 @3x2 0:void 1x6 -> 1x3 activation=NONE rank=1"))
    assert graph.ops[-1].inputs == ("input_0", "weight_1", "weight_2", "", "input_4")
    assert tflite.read(tflite.write(graph)).graph.ops[-1].inputs == graph.ops[-1].inputs


@pytest.mark.parametrize(
    ("key", "reason"),
    [
        ("MEAN 1x8x8x4 @2:int64 -> 1x4 keep_dims=false", "takes its axes as an operand"),
        ("RESHAPE 1x8 2:int32 -> 2x4", "takes its new_shape as an operand"),
        ("WHILE 1:int32 -> 1:int32 body_subgraph_index=2 cond_subgraph_index=1", "runs other graphs"),
        ("READ_VARIABLE 1:resource -> 1x4", "works on resource"),
    ],
)
def test_what_a_key_does_not_say_is_not_guessed(key: str, reason: str, tmp_path: Path) -> None:
    with pytest.raises(ExportError, match=f"{reason}.*cut it out of its network"):
        write_operator(OpSpec.parse(key), tmp_path)
