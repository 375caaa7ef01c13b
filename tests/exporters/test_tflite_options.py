"""The options of all builtin operators, in both directions."""

from __future__ import annotations

from typing import Any

import hypothesis.strategies as st
import numpy as np
import pytest
from ai_edge_litert import schema_py_generated as schema
from hypothesis import given, settings

from paceline.errors import ExportError
from paceline.exporters import tflite
from paceline.exporters.tflite.builtin import KINDS
from paceline.exporters.tflite.options import from_attrs, names, number_of, table_named, table_of, to_attrs
from paceline.graph import Graph, Op, OpSpec, TensorSpec, attrs

TABLES = sorted({*names(schema.BuiltinOptions).values(), *names(schema.BuiltinOptions2).values()} - {"NONE"})
STRINGS = {"container", "sharedName", "callTargetName", "backendConfig", "name"}
ENUMERATED = {"padding": 1, "mode": 1, "fusedActivationFunction": 5, "weightsFormat": 1, "kernelType": 1, "combiner": 2}
floats = st.floats(width=32, allow_nan=False)


def values_of(table: str, field: str, default: Any) -> st.SearchStrategy[Any]:
    if "DataType" in field or "Dtype" in field or field in ("outputType", "outType", "idxOutType", "quantizedBiasType"):
        return st.integers(0, 22)
    if field in ENUMERATED and default is not None:
        return st.integers(0, ENUMERATED[field])
    if isinstance(default, bool):
        return st.booleans()
    if isinstance(default, float):
        return floats
    if isinstance(default, int):
        return st.integers(-3, 100)
    if field in STRINGS:
        return st.none() | st.text().map(str.encode)
    if field == "boundaries":
        return st.none() | st.lists(floats, max_size=5).map(lambda v: np.array(v, np.float32))
    if field == "quantSpec":
        return st.none()
    return st.none() | st.lists(st.integers(0, 100), max_size=5).map(lambda v: np.array(v, np.int32))


def plain(options: Any) -> dict[str, Any]:
    """The fields as a file holds them: floats of 32 bits."""
    found = {}
    for name, value in vars(options).items():
        text = value.decode() if isinstance(value, bytes) else value
        if isinstance(text, list | tuple | np.ndarray):
            found[name] = [float(np.float32(n)) for n in text]
        else:
            found[name] = float(np.float32(text)) if isinstance(text, float) else text
    return found


@settings(deadline=None, max_examples=400)
@given(st.sampled_from(TABLES), st.data())
def test_options_survive_as_attributes(table: str, data: st.DataObject) -> None:
    options = getattr(schema, f"{table}T")()
    for field, default in vars(options).items():
        setattr(options, field, data.draw(values_of(table, field, default)))
    values = to_attrs(table, options, frozenset())
    again, used = from_attrs(table, values, "an operator")
    assert used == set(values)
    assert plain(again) == plain(options)
    spec = OpSpec("ADD", (TensorSpec((1,)),), (TensorSpec((1,)),), attrs(**values))
    assert OpSpec.parse(spec.key) == spec


@pytest.mark.parametrize("table", TABLES)
def test_every_table_has_a_number(table: str) -> None:
    number, second = number_of(table)
    assert table_named(number, second) == table


def test_every_kind_has_its_table() -> None:
    without = {kind for kind in KINDS.values() if not table_of(kind)}
    missing = {t for t in TABLES if t not in {table_of(kind) for kind in KINDS.values()}}
    assert missing == set()
    assert {"RELU", "LOGISTIC", "TANH", "ELU", "CUSTOM", "RELU_0_TO_1"} <= without
    assert not without & {"CONV_2D", "ADD", "MEAN", "GELU", "STABLEHLO_SLICE", "RESIZE_BILINEAR", "BATCH_MATMUL"}


def test_height_comes_before_width() -> None:
    conv, _ = from_attrs("Conv2DOptions", {"stride": (1, 2), "dilation": (3, 4), "padding": "VALID"}, "a convolution")
    assert (conv.strideH, conv.strideW, conv.dilationHFactor, conv.dilationWFactor) == (1, 2, 3, 4)
    pool, _ = from_attrs("Pool2DOptions", {"stride": (1, 2), "filter": (5, 6), "padding": "VALID"}, "a pool")
    assert (pool.filterHeight, pool.filterWidth) == (5, 6)
    deep, _ = from_attrs("Conv3DOptions", {"stride": (1, 2, 3), "padding": "SAME"}, "a convolution")
    assert (deep.strideD, deep.strideH, deep.strideW) == (1, 2, 3)


def test_options_of_another_kind_are_kept() -> None:
    op = Op("DEPTHWISE_CONV_2D", ("x",), ("y",), attrs(options="AddOptions", activation="RELU"))
    graph = one(op, (3,), (3,))
    assert tflite.read(tflite.write(graph)).graph.ops == graph.ops


def one(op: Op, *shapes: tuple[int, ...]) -> Graph:
    names = [*op.inputs, *op.outputs]
    return Graph((op,), {n: TensorSpec(s) for n, s in zip(names, shapes, strict=False)}, op.inputs, op.outputs, {})


@pytest.mark.parametrize(
    ("op", "reason"),
    [
        (Op("CAST", ("x",), ()), r"CAST at \? lacks an operand or a result"),
        (Op("SOFTMAX", ("x",), ("y",)), "needs the attribute 'beta'"),
        (Op("MEAN", ("x",), ("y",), attrs(keep_dims=True)), "needs the attribute 'axes'"),
        (Op("TANH", ("x",), ("y",), attrs(slope=2)), "'slope', which TFLite's operator does not have"),
        (Op("NOTHING", ("x",), ("y",)), "no builtin operator of that name"),
        (Op("LEAKY_RELU", ("x",), ("y",), attrs(alpha=0.1, beta=1.0)), "the attribute 'beta'"),
        (Op("MIRROR_PAD", ("x",), ("y",), attrs(mode="WRAP", paddings=(0, 0, 1, 1))), "knows REFLECT, SYMMETRIC"),
        (Op("MAX_POOL_2D", ("x",), ("y",), attrs(filter=3, stride=(1, 1), padding="SAME")), "'filter' as 2 ints"),
    ],
)
def test_attributes_that_do_not_fit_are_refused(op: Op, reason: str) -> None:
    with pytest.raises(ExportError, match=reason):
        tflite.write(one(op, (4, 4), (4, 4)))


def test_float_attributes_read_as_they_were_meant() -> None:
    graph = one(Op("LEAKY_RELU", ("x",), ("y",), attrs(alpha=0.1)), (3,), (3,))
    assert tflite.read(tflite.write(graph)).graph.ops == graph.ops
