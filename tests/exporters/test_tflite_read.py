"""`.tflite` files read and written again: nothing is lost, and what torch exports has the same operator keys."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import given, settings
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

from paceline.exporters import tflite
from paceline.exporters.cut import cut
from paceline.exporters.precision.quantize import quantised
from paceline.exporters.run_tflite import run, run_apart
from paceline.exporters.torch_graph import graph_of
from paceline.graph import Array, Graph, Op, OpSpec, Quantization, TensorSpec, attrs

from tflite_samples import CONV, facts, float_conv, half_weights, int8_conv, several, with_state
from torch_reference import Function, InvertedResidual, SqueezeExcite, SuperResolution, image, randomised

MODELS = sorted(Path(os.environ["PACELINE_MODELS"]).glob("*.tflite")) if "PACELINE_MODELS" in os.environ else []


@pytest.mark.parametrize("graph", [float_conv(), half_weights(), int8_conv(), int8_conv(False), with_state()])
def test_what_is_written_is_read(graph: Graph) -> None:
    data = tflite.write(graph)
    model = tflite.read(data)
    read = facts(model.graph)
    assert all(version > 0 for _, version in read["ops"])
    read["ops"] = [(op, 0) for op, _ in read["ops"]]
    assert read == facts(graph)
    assert model.graph.operators() == graph.operators()
    assert tflite.write(model) == data


def test_graphs_signatures_metadata_and_files_are_kept(tmp_path: Path) -> None:
    model = several()
    tflite.save(model, tmp_path / "several.tflite")
    read = tflite.read(tmp_path / "several.tflite")
    assert (read.signatures, read.metadata, read.description) == (model.signatures, model.metadata, "ours")
    assert read.files == model.files
    assert [g.name for g in read.graphs] == ["main", "condition", "body"]
    assert read.graph.ops == model.graph.ops
    x = np.ones((1, 2, 2, 3), np.float32)
    n, y = run(tflite.write(read), [np.array([2], np.int32), x], "builtin")
    assert n.item() == 5
    assert np.array_equal(y, 8 * x)


def test_a_reshape_to_a_scalar_has_no_operand() -> None:
    graph = graph_of(Function(lambda x: x.sum() * 2).eval(), image(1, 2, 3, 3))
    read = tflite.read(tflite.write(graph)).graph
    assert read.operators() == graph.operators()
    flat = Graph((Op("RESHAPE", ("x",), ("y",)),), {"x": TensorSpec((1,)), "y": TensorSpec(())}, ("x",), ("y",), {})
    assert facts(tflite.read(tflite.write(flat)).graph)["tensors"] == dict(flat.tensors)


def test_constants_lie_where_kernels_want_them() -> None:
    tensors = {"x": TensorSpec((3,)), **{f"{n}{i}": TensorSpec((3,)) for n in "wy" for i in range(5)}}
    ops = tuple(Op("ADD", (f"y{i - 1}" if i else "x", f"w{i}"), (f"y{i}",), attrs(activation="NONE")) for i in range(5))
    data = tflite.write(Graph(ops, tensors, ("x",), ("y4",), {f"w{i}": np.full(3, i, np.float32) for i in range(5)}))
    start = np.frombuffer(data, np.uint8).__array_interface__["data"][0]
    read = tflite.read(data).graph.weights
    assert {(w.__array_interface__["data"][0] - start) % 16 for w in read.values()} == {0}


def test_weights_of_one_memory_are_written_once() -> None:
    w = np.ones((64, 64), np.float32)
    tensors = {n: TensorSpec((64, 64)) for n in ("x", "u", "v", "t", "a", "b", "c")}
    ops = [Op("ADD", (a, b), (c,), attrs(activation="NONE")) for a, b, c in (("x", "u", "a"), ("a", "v", "b"), ("b", "t", "c"))]
    w[0, 1] = 5
    data = tflite.write(Graph(tuple(ops), tensors, ("x",), ("c",), {"u": w, "v": w, "t": w.T}))
    assert 2 * w.nbytes < len(data) < 3 * w.nbytes
    read = tflite.read(data).graph.weights
    assert np.array_equal(read["v"], w)
    assert np.array_equal(read["t"], w.T)


@pytest.mark.parametrize("precision", ["fp16", "dynamic"])
def test_quantised_files_are_read_and_written(precision: str) -> None:
    net = randomised(nn.Sequential(nn.Conv2d(3, 32, 3, 2, 1), nn.Hardswish(), InvertedResidual(32, 32), SqueezeExcite(32)))
    x = image(1, 3, 16, 16)
    data = quantised(tflite.write(graph_of(net, x)), precision)  # type: ignore[arg-type]
    model = tflite.read(data)
    wanted = {"fp16": "float16", "dynamic": "int8"}[precision]
    assert wanted in {t.dtype for spec in model.graph.operators() for t in spec.inputs}
    array = x.permute(0, 2, 3, 1).numpy()
    for kernels in ("xnnpack", "builtin"):
        assert np.array_equal(run(data, [array], kernels)[0], run(tflite.write(model), [array], kernels)[0])  # type: ignore[arg-type]


NETWORKS: dict[str, Callable[[Tensor], Tensor]] = {
    "softmax": lambda x: F.softmax(x.mean((2, 3)), 1),
    "sum": lambda x: x.sum(2),
    "pools": lambda x: F.avg_pool2d(F.max_pool2d(x, 3, 2, 1), 2),
    "resize": lambda x: F.interpolate(F.interpolate(x, scale_factor=2), size=(9, 9), mode="bilinear"),
    "concat": lambda x: nn.functional.leaky_relu(__import__("torch").cat([x, 2 * x], 1), 0.1),
    "slices": lambda x: x[:, :, 1:3, ::2] + x[:, :, :2, ::2],
    "pad": lambda x: F.pad(x, (1, 2, 0, 1), value=0.5) / (x.mean() + 3),
    "shape": lambda x: x.flatten(1).unsqueeze(0).transpose(1, 2),
    "split": lambda x: x.chunk(2, 1)[0] * x.chunk(2, 1)[1],
}


@pytest.mark.parametrize("name", NETWORKS)
def test_an_operator_has_one_key_read_or_exported(name: str) -> None:
    graph = graph_of(Function(NETWORKS[name]).eval(), image(1, 4, 8, 8))
    read = tflite.read(tflite.write(graph)).graph
    assert [spec.key for spec in read.operators()] == [spec.key for spec in graph.operators()]
    assert not any(t.dtype == "int32" for spec in read.operators() for t in spec.inputs)


@pytest.mark.parametrize(
    "module",
    [
        InvertedResidual(4, 4),
        SqueezeExcite(8),
        SuperResolution(2),
        nn.Sequential(nn.Conv2d(4, 6, (3, 5), (2, 1), 2, (1, 2)), nn.ConvTranspose2d(6, 4, 3, 2, 1), nn.PReLU(4)),
        nn.Sequential(nn.Flatten(), nn.Linear(256, 5), nn.ReLU()),
    ],
    ids=lambda m: type(m).__name__,
)
def test_a_network_has_the_same_keys_read_or_exported(module: nn.Module) -> None:
    channels = {"SqueezeExcite": 8, "SuperResolution": 3}.get(type(module).__name__, 4)
    graph = graph_of(randomised(module), image(1, channels, 8, 8))
    read = tflite.read(tflite.write(graph)).graph
    assert read.operators() == graph.operators()
    assert (read.macs(), read.params()) == (graph.macs(), graph.params())


UNARY = ("RELU", "LOGISTIC", "TANH", "ABS", "EXP", "FLOOR", "STABLEHLO_ABS")


@st.composite
def graphs(draw: st.DrawFn) -> Graph:
    """Well-formed, not necessarily computable."""
    tensors, weights, ops = {"x": TensorSpec((1, 4, 4, 3))}, dict[str, Array](), list[Op]()
    quantization = {}
    rng = np.random.default_rng(draw(st.integers(0, 99)))
    for i in range(draw(st.integers(1, 8))):
        y, read = f"y/{i}", draw(st.sampled_from([name for name in tensors if name not in weights]))
        shape = tensors[read].shape
        kind = draw(st.sampled_from(["unary", "CONV_2D", "ADD", "MEAN", "CUSTOM", "SPLIT", "RESHAPE", "literal"]))
        if kind == "unary":
            ops.append(Op(draw(st.sampled_from(UNARY)), (read,), (y,)))
        elif kind == "CONV_2D":
            weights[f"w{i}"] = rng.integers(-9, 9, (3, 1, 1, 3)).astype(draw(st.sampled_from([np.float32, np.int8, np.float16])))
            tensors[f"w{i}"] = TensorSpec((3, 1, 1, 3), weights[f"w{i}"].dtype.name)
            quantization[f"w{i}"] = Quantization((0.5, 0.25, 2.0), (0, 0, 0), 0)
            stride = draw(st.tuples(st.integers(1, 3), st.integers(1, 3)))
            ops.append(Op(kind, (read, f"w{i}", ""), (y,), attrs(**{**dict(CONV), "stride": stride})))
        elif kind == "ADD":
            ops.append(Op(kind, (read, draw(st.sampled_from(sorted(tensors)))), (y,), attrs(activation="RELU")))
        elif kind == "MEAN":
            ops.append(Op(kind, (read,), (y,), attrs(axes=draw(st.sampled_from([(1,), (1, 2), (-1,)])), keep_dims=True)))
        elif kind == "CUSTOM":
            code = attrs(custom_code=draw(st.text(min_size=1)), custom_options=draw(st.binary(max_size=9)).hex())
            ops.append(Op(kind, (read,), (y,), code))
        elif kind == "SPLIT":
            tensors[f"{y}b"] = TensorSpec(shape)
            ops.append(Op(kind, (read,), (y, f"{y}b"), attrs(axis=draw(st.integers(-4, 3)))))
        elif kind == "RESHAPE":
            ops.append(Op(kind, (read,), (y,), draw(st.sampled_from([(), attrs(new_shape=(1, -1, 4, 3))]))))
        else:
            weights[f"axes{i}"] = np.array([1, 2], np.int64)
            tensors[f"axes{i}"] = TensorSpec((2,), "int64")
            ops.append(Op("MEAN", (read, f"axes{i}"), (y,), attrs(keep_dims=False)))
        tensors[y] = TensorSpec(shape)
    outputs = tuple(draw(st.lists(st.sampled_from([t for op in ops for t in op.outputs]), min_size=1, unique=True)))
    return Graph(tuple(ops), tensors, ("x",), outputs, weights, quantization)


@settings(deadline=None, max_examples=150)
@given(graphs())
def test_random_graphs_are_read_as_they_were_written(graph: Graph) -> None:
    data = tflite.write(graph)
    read = tflite.read(data).graph
    wanted, found = facts(graph), facts(read)
    assert [op for op, _ in found.pop("ops")] == [op for op, _ in wanted.pop("ops")]
    assert found == wanted
    assert tflite.write(read) == data
    for spec in read.operators():
        assert OpSpec.parse(spec.key) == spec


def random_inputs(graph: Graph) -> list[Array]:
    rng, found = np.random.default_rng(0), list[Array]()
    for name in graph.inputs:
        spec = graph.tensors[name]
        if spec.dtype == "float32":
            found.append(rng.standard_normal(spec.shape).astype(np.float32))
        else:
            found.append(rng.integers(0, 2 if spec.dtype == "bool" else 127, spec.shape).astype(spec.dtype))
    return found


@pytest.mark.skipif(not MODELS, reason="PACELINE_MODELS names no folder of .tflite files")
@pytest.mark.parametrize("path", MODELS, ids=lambda p: p.stem)
def test_real_files_compute_the_same_when_written_again(path: Path) -> None:
    model = tflite.read(path)
    written = tflite.write(model)
    again = tflite.read(written)
    assert facts(again.graph) == facts(model.graph)
    assert (again.signatures, again.metadata, again.files) == (model.signatures, model.metadata, model.files)
    for kernels in ("xnnpack", "builtin"):
        if kernels == "builtin" and any(op.kind == "CUSTOM" for op in model.graph.ops):
            continue
        before, after = run_apart([path.read_bytes(), written], random_inputs(model.graph), kernels)  # type: ignore[arg-type]
        assert [a.tobytes() for a in before] == [a.tobytes() for a in after]
    for spec, part in cut(model.graph):
        assert part.operators() == [spec]
        assert OpSpec.parse(spec.key) == spec
