"""Damaged and hostile `.tflite` files: an ExportError that says what is wrong, soon, and nothing else."""

from __future__ import annotations

import importlib.util
import time
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import flatbuffers
import numpy as np
import pytest
from ai_edge_litert import schema_py_generated as schema

from paceline.errors import ExportError
from paceline.exporters import tflite
from paceline.exporters.inspect import inspect
from paceline.graph import Graph, Op, TensorSpec, attrs

from tflite_samples import float_conv, half_weights, int8_conv, several


def fuzzer() -> ModuleType:
    spec = importlib.util.spec_from_file_location("fuzz_tflite", Path(__file__).parents[2] / "benchmarks" / "fuzz_tflite.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_mutations_end_as_models_or_export_errors() -> None:
    fuzz = fuzzer()
    files = [tflite.write(network) for network in (float_conv(), half_weights(), int8_conv(), several())]
    outcomes = set()
    for i in range(600):
        rng = np.random.default_rng((7, i))
        mutation = fuzz.MUTATIONS[i % len(fuzz.MUTATIONS)]
        outcomes.add(fuzz.outcome(bytes(mutation(bytearray(files[i % len(files)]), rng))))
    assert {"refused", "read and written"} <= outcomes


@pytest.mark.parametrize("size", [0, 3, 8, 40, 200, 600])
def test_a_truncated_file_is_refused(size: int, tmp_path: Path) -> None:
    path = tmp_path / "cut short.tflite"
    path.write_bytes(tflite.write(float_conv())[:size])
    with pytest.raises(ExportError, match="cut short"):
        tflite.read(path)


def test_what_is_no_model_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ExportError, match=r"absent.tflite: No such file"):
        tflite.read(tmp_path / "absent.tflite")
    with pytest.raises(ExportError, match="Is a directory"):
        tflite.read(tmp_path)
    with pytest.raises(ExportError, match="does not say TFL3"):
        tflite.read(b"PK\x03\x04" * 9)


Change = Callable[[Any], None]


def changed(change: Change, graph: Graph | None = None) -> bytes:
    """A file whose mutable schema objects went through `change`."""
    model = schema.ModelT.InitFromPackedBuf(bytearray(tflite.write(graph or float_conv())))
    change(model)
    builder = flatbuffers.Builder(1024)
    builder.Finish(model.Pack(builder), b"TFL3")
    return bytes(builder.Output())


def setting(path: str, value: Any) -> Change:
    def change(model: Any) -> None:
        target, *rest = [model], *path.split(".")
        current: Any = target[0]
        for part in rest[:-1]:
            current = current[int(part)] if part.isdigit() else getattr(current, part)
        if rest[-1].isdigit():
            current[int(rest[-1])] = value
        else:
            setattr(current, rest[-1], value)

    return change


def test_the_change_itself_does_no_harm() -> None:
    assert tflite.read(changed(lambda model: None)).graph.operators() == float_conv().operators()


@pytest.mark.parametrize(
    ("path", "value", "reason"),
    [
        ("version", 9, "has version 9"),
        ("subgraphs", [], "has no graph"),
        ("subgraphs.0.inputs", [99], "names tensor 99 of"),
        ("subgraphs.0.outputs", [-1], "is absent"),
        ("subgraphs.0.inputs", [-2], "is absent"),
        ("subgraphs.0.operators.0.inputs", [0, -7], "names tensor -7"),
        ("subgraphs.0.operators.0.opcodeIndex", 5, "names operator code 5 of 2"),
        ("subgraphs.0.operators.0.outputs", [0], "which exists already"),
        ("subgraphs.0.operators.1.inputs", [4], "reads 'z', which nothing produces"),
        ("subgraphs.0.operators.0.intermediates", [0], "intermediate tensors"),
        ("subgraphs.0.operators.0.builtinOptionsType", 200, "options of the unknown type 200"),
        ("subgraphs.0.operators.0.builtinOptions.padding", 7, "padding has the unknown value 7"),
        ("subgraphs.0.operators.0.builtinOptions.fusedActivationFunction", 77, "activation has the unknown value 77"),
        ("subgraphs.0.tensors.0.type", 99, "unknown element type 99"),
        ("subgraphs.0.tensors.0.shape", [1, -6, 6, 2], "impossible shape"),
        ("subgraphs.0.tensors.0.shape", [1] * 99, "impossible shape"),
        ("subgraphs.0.tensors.1.shape", [4, 3, 3, 3], "'w' of float32 .4, 3, 3, 3. needs 432 bytes, its buffer has 288"),
        ("subgraphs.0.tensors.1.buffer", 77, "names buffer 77 of"),
        ("subgraphs.0.tensors.1.externalBuffer", 1, "external buffers"),
        ("subgraphs.0.tensors.1.sparsity", schema.SparsityParametersT(), "sparse tensors"),
        ("operatorCodes.0.builtinCode", 5000, "unknown operator code 5000"),
        ("operatorCodes.0.builtinCode", 127, "unknown operator code 127"),
        ("signatureDefs.0.subgraphIndex", 3, "graph 3 of 1"),
        ("buffers.0.offset", 10**9, "ends at byte"),
    ],
)
def test_what_a_file_gets_wrong_is_named(path: str, value: Any, reason: str) -> None:
    with pytest.raises(ExportError, match=reason):
        tflite.read(changed(setting(path, value)))


def test_scales_must_fit_the_channels() -> None:
    with pytest.raises(ExportError, match="has 3 scales along dimension 9"):
        tflite.read(changed(setting("subgraphs.0.tensors.2.quantization.quantizedDimension", 9), int8_conv()))


def test_names_are_made_unique() -> None:
    def rename(model: Any) -> None:
        for tensor in model.subgraphs[0].tensors:
            tensor.name = ""
        model.subgraphs[0].tensors[0].name = model.subgraphs[0].tensors[2].name = b"\xff\x1b[31m"

    graph = tflite.read(changed(rename)).graph
    assert len(graph.tensors) == 5
    assert "" not in graph.tensors
    assert tflite.read(tflite.write(graph)).graph.operators() == float_conv().operators()


def shared_tables(count: int, vector: int, operators: bool, graphs: int = 3) -> bytes:
    """A file in which `count` tensors or operators are one and the same, with a name or an attribute of `vector` bytes."""
    builder = flatbuffers.Builder(vector + 4 * count + 4096)
    name = builder.CreateString("n" * vector) if not operators else 0
    numbers = builder.CreateNumpyVector(np.zeros(vector // 4, np.int32)) if operators else 0
    if operators:
        schema.SqueezeOptionsStart(builder)
        schema.SqueezeOptionsAddSqueezeDims(builder, numbers)
        options = schema.SqueezeOptionsEnd(builder)
        schema.OperatorStart(builder)
        schema.OperatorAddBuiltinOptionsType(builder, schema.BuiltinOptions.SqueezeOptions)
        schema.OperatorAddBuiltinOptions(builder, options)
        part = schema.OperatorEnd(builder)
    else:
        schema.TensorStart(builder)
        schema.TensorAddName(builder, name)
        part = schema.TensorEnd(builder)
    builder.StartVector(4, count, 4)
    for _ in range(count):
        builder.PrependUOffsetTRelative(part)
    parts = builder.EndVector()
    schema.SubGraphStart(builder)
    (schema.SubGraphAddOperators if operators else schema.SubGraphAddTensors)(builder, parts)
    graph = schema.SubGraphEnd(builder)
    schema.OperatorCodeStart(builder)
    schema.OperatorCodeAddBuiltinCode(builder, schema.BuiltinOperator.SQUEEZE)
    code = schema.OperatorCodeEnd(builder)
    schema.BufferStart(builder)
    buffer = schema.BufferEnd(builder)
    vectors = []
    for entries in ([graph] * graphs, [code], [buffer]):
        builder.StartVector(4, len(entries), 4)
        for entry in entries:
            builder.PrependUOffsetTRelative(entry)
        vectors.append(builder.EndVector())
    schema.ModelStart(builder)
    schema.ModelAddVersion(builder, 3)
    schema.ModelAddSubgraphs(builder, vectors[0])
    schema.ModelAddOperatorCodes(builder, vectors[1])
    schema.ModelAddBuffers(builder, vectors[2])
    builder.Finish(schema.ModelEnd(builder), b"TFL3")
    return bytes(builder.Output())


@pytest.mark.parametrize(
    ("count", "vector", "operators"), [(100_000, 8, False), (1000, 400_000, False), (100_000, 8, True), (1000, 400_000, True)]
)
def test_shared_parts_do_not_unfold_without_limit(count: int, vector: int, operators: bool) -> None:
    data = shared_tables(count, vector, operators)
    assert len(data) < 500_000
    tracemalloc.start()
    start = time.perf_counter()
    with pytest.raises(ExportError, match="unfolds to many times its size"):
        tflite.read(data)
    assert time.perf_counter() - start < 10
    assert tracemalloc.get_traced_memory()[1] < 60_000_000
    tracemalloc.stop()


@pytest.mark.parametrize("operators", [False, True])
def test_one_table_may_not_stand_for_many(operators: bool) -> None:
    with pytest.raises(ExportError, match="unfolds to many times its size"):
        tflite.read(shared_tables(20_000, 8, operators, graphs=1))


def test_a_long_chain_of_dequantize_is_inspected_in_linear_time() -> None:
    tensors = {f"t{i}": TensorSpec((1,), "float16" if i == 0 else "float32") for i in range(3001)} | {"x": TensorSpec((1,))}
    ops = [Op("DEQUANTIZE", (f"t{i}",), (f"t{i + 1}",)) for i in range(3000)]
    ops.append(Op("ADD", ("x", "t3000"), ("y",), attrs(activation="NONE")))
    tensors["y"] = TensorSpec((1,))
    graph = Graph(tuple(ops), tensors, ("x",), ("y",), {"t0": np.ones(1, np.float16)})
    assert len(inspect(tflite.write(graph)).graphs[0].operators) == 3000


def test_attached_files_that_unfold_or_are_damaged_are_refused() -> None:
    data = bytearray(tflite.write(several()))
    at = data.rindex(b"cat\ndog\n")
    data[at] ^= 1
    with pytest.raises(ExportError, match="attached files are damaged"):
        tflite.read(bytes(data))
