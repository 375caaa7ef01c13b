"""Imported logs and profiles: benchmark_model's output and a trace that ONNX Runtime wrote just now."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

from paceline.errors import DataError
from paceline.graph import Graph, Op, OpSpec, TensorSpec, attrs
from paceline.latency_models.bundle.bundle import Bundle
from paceline.latency_models.imports.formats import import_bundle
from paceline.latency_models.imports.imports import Source
from paceline.latency_models.imports.onnx_operators import operator_of
from paceline.measurement import Bench, DeviceInfo

SAMPLES = Path(__file__).parent.parent / "devices" / "benchmark_model_samples"
PHONE = DeviceInfo("a phone", "imported", {})
SOURCE = Source(PHONE, Bench(runtime="tflite", delegate="gpu"))


def log(name: str, source: Source = SOURCE) -> Bundle:
    return import_bundle(SAMPLES / name, source)


def figures(bundle: Bundle) -> dict[str, float]:
    return {row.subject: row.ms for row in bundle.measured}


def test_a_log_with_its_operators() -> None:
    bundle = log("gpu_partial.txt")
    network, *operators = bundle.measured
    assert (network.subject, network.kind, network.ms) == ("net.tflite", "network", 14.4)
    assert network.measurement is not None
    assert network.measurement.delegation is not None
    assert network.measurement.delegation.state == "partial"
    assert [(row.subject, row.kind, row.ms, row.flags) for row in operators] == [
        ("TfLiteGpuDelegateV2 [net/x, net/y]:61", "block", 8.9, ("imported", "profiled")),
        ("BROADCAST_TO [net/z]:30", "operator", 0.45, ("imported", "profiled")),
        ("RESHAPE [net/r]:31", "operator", 0.12, ("imported", "profiled")),
        ("TfLiteGpuDelegateV2 [Identity]:62", "block", 5.4, ("imported", "profiled")),
    ]
    assert bundle.rows() == []


@pytest.mark.parametrize("name", ["csv.txt", "classic_table.txt", "litert_profile.txt", "first_generation.txt", "logcat.txt"])
def test_all_forms_of_logs_are_recognised(name: str) -> None:
    assert all(row.ms > 0 for row in log(name).measured)


def test_a_failure_is_a_failure_with_its_reason() -> None:
    with pytest.raises(DataError, match=r"not one latency in it; the first: \S+\.tflite: "):
        log("nnapi_failure.txt")


def small_graph() -> Graph:
    """PAD and CONV_2D, which are one operator, twice the same SOFTMAX, as a file has them."""
    image, padded = TensorSpec((1, 8, 8, 3)), TensorSpec((1, 10, 10, 3))
    spec = {"x": image, "p": padded, "w": TensorSpec((4, 3, 3, 3)), "b": TensorSpec((4,))}
    spec |= {name: TensorSpec((1, 8, 8, 4)) for name in ("c", "s", "t")}
    values = attrs(stride=(1, 1), dilation=(1, 1), padding="VALID", activation="NONE")
    ops = (
        Op("PAD", ("x",), ("p",), attrs(paddings=(0, 0, 1, 1, 1, 1, 0, 0))),
        Op("CONV_2D", ("p", "w", "b"), ("c",), values),
        Op("SOFTMAX", ("c",), ("s",), attrs(beta=1.0)),
        Op("SOFTMAX", ("s",), ("t",), attrs(beta=1.0)),
    )
    weights = {name: np.zeros(spec[name].shape, np.float32) for name in ("w", "b")}
    return Graph(ops, spec, ("x",), ("t",), weights)


PROFILE = """STARTING!
Graph: [/data/net.tflite]
count=50 first=101 curr=99 min=97 max=130 avg=101.5 std=8
Inference timings in us: Init: 1500, First inference: 150, Warmup (avg): 150, Inference (avg): 101.5
Operator-wise Profiling Info for Regular Benchmark Runs:
============================== Run Order ==============================
node type, start, first, avg_ms, %, cdf%, mem KB, times called, name
PAD, 0, 0.01, 0.01, 10%, 10%, 0, 1, [p]:0
CONV_2D, 0, 0.11, 0.05, 50%, 60%, 0, 1, [c]:1
SOFTMAX, 0, 0.02, 0.02, 20%, 80%, 0, 1, [s]:2
SOFTMAX, 0, 0.02, 0.04, 20%, 100%, 0, 1, [t]:3

4 nodes observed
"""


def test_with_the_model_the_rows_have_their_operators(tmp_path: Path) -> None:
    (tmp_path / "log.txt").write_text(PROFILE)
    graph = small_graph()
    bundle = import_bundle(tmp_path / "log.txt", Source(PHONE, Bench(runtime="tflite"), model=graph, artifact="a" * 64))
    conv, softmax, _ = graph.operators()
    assert figures(bundle) == {"net.tflite": 0.097, conv.key: pytest.approx(0.06), softmax.key: pytest.approx(0.03)}
    assert [row.operators for row in bundle.measured] == [(conv, softmax, softmax), (conv,), (softmax,)]
    assert bundle.measured[0].artifact == "a" * 64
    assert len(bundle.rows()) == 3


def test_another_model_gives_no_operators(tmp_path: Path) -> None:
    (tmp_path / "log.txt").write_text(PROFILE.replace("SOFTMAX", "LOGISTIC"))
    bundle = import_bundle(tmp_path / "log.txt", Source(PHONE, Bench(runtime="tflite"), model=small_graph()))
    assert [row.subject for row in bundle.measured if row.kind == "operator" and not row.operators] == [
        "LOGISTIC [s]:2",
        "LOGISTIC [t]:3",
    ]


# ONNX Runtime


def trace(folder: Path, runs: int) -> Path:
    """What the runtime wrote about a small network: two equal convolutions, then pooling and a classifier."""
    rng = np.random.default_rng(0)
    shapes = {"w0": (8, 3, 3, 3), "w1": (8, 1, 3, 3), "w2": (8, 1, 3, 3), "w3": (10, 8), "b3": (10,)}
    weights = [numpy_helper.from_array(rng.standard_normal(s).astype(np.float32), n) for n, s in shapes.items()]
    nodes = [
        helper.make_node("Conv", ["x", "w0"], ["a"], name="stem", strides=[2, 2], pads=[1, 1, 1, 1]),
        helper.make_node("Conv", ["a", "w1"], ["b"], name="first", group=8, pads=[1, 1, 1, 1]),
        helper.make_node("Conv", ["b", "w2"], ["c"], name="second", group=8, pads=[1, 1, 1, 1]),
        helper.make_node("MaxPool", ["c"], ["d"], name="pool", kernel_shape=[2, 2], strides=[2, 2]),
        helper.make_node("GlobalAveragePool", ["d"], ["e"], name="gap"),
        helper.make_node("Flatten", ["e"], ["f"], name="flat"),
        helper.make_node("Gemm", ["f", "w3", "b3"], ["y"], name="fc", transB=1),
    ]
    inputs = [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 3, 128, 128])]
    graph = helper.make_graph(nodes, "net", inputs, [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, 10])], weights)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    onnx.checker.check_model(model)
    options = onnxruntime.SessionOptions()
    options.enable_profiling, options.profile_file_prefix = True, str(folder / "trace")
    options.intra_op_num_threads = 1
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    for _ in range(runs):
        session.run(None, {"x": rng.standard_normal((1, 3, 128, 128)).astype(np.float32)})
    return Path(session.end_profiling())


def test_a_trace_of_onnx_runtime(tmp_path: Path) -> None:
    path = trace(tmp_path, runs=4)
    bundle = import_bundle(path, Source(PHONE, Bench(runtime="onnxruntime", delegate="cpu")))
    network, *nodes = bundle.measured
    assert (network.subject, network.kind) == (path.name, "network")
    assert network.measurement is not None
    assert [len(batch) for batch in network.measurement.samples_ms] == [3]  # the first run is the warm-up
    rows = {row.operators[0].kind: row for row in nodes if row.operators}
    depthwise = rows["DEPTHWISE_CONV_2D"]
    assert depthwise.operators[0].key.startswith("DEPTHWISE_CONV_2D 1x64x64x8 @1x3x3x8 @8 -> 1x64x64x8 activation=NONE")
    assert depthwise.measurement is not None
    assert [len(batch) for batch in depthwise.measurement.samples_ms] == [3, 3]
    assert rows["CONV_2D"].operators[0].macs == 64 * 64 * 8 * 27
    told = {row.subject for row in (*bundle.measured, *bundle.failed)}
    assert {"MaxPool pool", "Flatten flat"} <= told
    assert sum(row.ms for row in nodes) < 3 * network.ms


def event(**values: Any) -> dict[str, Any]:
    return {"cat": "Node", "name": "a_kernel_time", "ts": 10, "dur": 5, "args": {"op_name": "Relu"}} | values


RUNS = [{"cat": "Session", "name": "model_run", "ts": ts, "dur": 50} for ts in (0, 100, 200)]


def traced(folder: Path, events: object) -> Bundle:
    (folder / "trace.json").write_text(json.dumps(events))
    return import_bundle(folder / "trace.json", SOURCE, "onnxruntime")


def test_events_of_one_node_in_one_run_are_added_up(tmp_path: Path) -> None:
    bundle = traced(tmp_path, [*RUNS, *(event(ts=ts) for ts in (10, 110, 120, 210, 220, 900))])
    assert bundle.measured[1].measurement is not None
    assert bundle.measured[1].measurement.samples_ms == ((0.01, 0.01),)


def test_a_node_faster_than_the_clock_has_no_figure(tmp_path: Path) -> None:
    bundle = traced(tmp_path, [*RUNS, event(ts=110, dur=0), event(ts=210, dur=1)])
    assert [(row.subject, row.reason[:4]) for row in bundle.failed] == [("Relu a", "0 ms")]


@pytest.mark.parametrize(
    ("events", "reason"),
    [
        ({}, "no list of events"),
        ([1], "no list of events"),
        ([event()], "no complete run"),
        ([*RUNS, event(dur=-3)], "the dur of its event 'a_kernel_time' is -3, no number of microseconds"),
        ([*RUNS, event(ts="soon")], "the ts of its event"),
        ([*RUNS, event(args=None)], "says nothing about the node"),
    ],
)
def test_a_damaged_trace_is_one_clear_error(events: object, reason: str, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=f"can't import .*{reason}"):
        traced(tmp_path, events)


def test_a_trace_that_was_cut_says_what_to_do(tmp_path: Path) -> None:
    (tmp_path / "trace.json").write_text('[{"cat": "Session", "name": "model_run", ')
    with pytest.raises(DataError, match="end_profiling"):
        import_bundle(tmp_path / "trace.json", SOURCE)


@pytest.mark.parametrize(
    ("kind", "inputs", "output", "found"),
    [
        ("Conv", [[1, 3, 9, 9], [4, 3, 3, 3], [4]], [1, 4, 5, 5], "CONV_2D"),
        ("Conv", [[1, 3, 9, 9], [4, 3, 3, 3], [4]], [1, 4, 4, 4], "CONV_2D"),
        ("Conv", [[1, 3, 9, 9], [4, 3, 3, 3], [4]], [1, 4, 6, 6], None),
        ("Conv", [[1, 3, 9, 9], [4, 3, 3, 3], [1, 4, 9, 9]], [1, 4, 9, 9], None),
        ("Conv", [[1, 8, 9, 9], [8, 2, 3, 3]], [1, 8, 9, 9], "CONV_2D"),
        ("Add", [[1, 3, 9, 9], [1, 3, 9, 9]], [1, 3, 9, 9], "ADD"),
        ("Sigmoid", [[1, 3]], [1, 3], "LOGISTIC"),
        ("MaxPool", [[1, 3, 9, 9]], [1, 3, 4, 4], None),
        ("Conv", [], [1, 3, 4, 4], None),
    ],
)
def test_shapes_tell_the_operator_or_nothing(kind: str, inputs: list[list[int]], output: list[int], found: str | None) -> None:
    spec = operator_of(kind, inputs, [output])
    assert (spec and spec.kind) == found
    if spec is not None:
        assert OpSpec.parse(spec.key) == spec
        assert spec.outputs[0].elements == np.prod(output)
