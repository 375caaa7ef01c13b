"""Quantised models: precise enough, of the stated types, with few conversions, the same every time; and clear refusals."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from paceline.errors import ConfigError, ExportError
from paceline.exporters import tflite
from paceline.exporters.precision.calibration import Calibration
from paceline.exporters.precision.quantize import Precision, input_specs, quantised
from paceline.exporters.precision.report import PrecisionReport, compare
from paceline.exporters.torch_graph import graph_of
from paceline.graph import Graph, Op, TensorSpec, attrs

from torch_reference import Function, InvertedResidual, SqueezeExcite, conv_bn, randomised

pytest.importorskip("ai_edge_quantizer")


class _Concatenated(nn.Module):
    def __init__(self, *branches: nn.Module) -> None:
        super().__init__()
        self.branches = nn.ModuleList(branches)

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([branch(x) for branch in self.branches], 1)


Results = dict[tuple[str, str], tuple[bytes, PrecisionReport]]
NETWORKS: dict[str, Callable[[], nn.Module]] = {
    "mobile": lambda: nn.Sequential(
        conv_bn(3, 16, 3, 2, act=nn.Hardswish),
        InvertedResidual(16, 16, expansion=2),
        SqueezeExcite(16),
        InvertedResidual(16, 24, 2, expansion=2),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(24, 10),
    ),
    "super-resolution": lambda: nn.Sequential(
        nn.Conv2d(3, 16, 3, padding=1),
        nn.LeakyReLU(0.1),
        nn.Conv2d(16, 12, 3, padding=1),
        nn.PixelShuffle(2),
        nn.ReLU6(),
        nn.Conv2d(3, 3, 1),
    ),
    "joined": lambda: nn.Sequential(
        _Concatenated(conv_bn(3, 8, 1, act=None), conv_bn(3, 4, 3, act=nn.ReLU)),
        nn.PReLU(12),
        nn.Conv2d(12, 8, 1),
        nn.SiLU(),
        nn.Conv2d(8, 4, 1),
    ),
}
LINEAR = ("CONV_2D", "DEPTHWISE_CONV_2D", "FULLY_CONNECTED")
FLOORS: dict[Precision, float] = {"fp16": 55, "dynamic": 28, "int8": 25}  # dB; 40, 45 and 60 to 70 are usual


def exported(module: nn.Module, *shape: int) -> bytes:
    return tflite.write(graph_of(randomised(module), torch.zeros(*(shape or (1, 3, 16, 16)))))


def samples(model: bytes, count: int = 6, seed: int = 0) -> Calibration:
    return Calibration.random(input_specs(model), count, np.random.default_rng(seed))


@pytest.fixture(scope="module")
def models() -> dict[str, bytes]:
    return {name: exported(make()) for name, make in NETWORKS.items()}


@pytest.fixture(scope="module")
def results(models: dict[str, bytes]) -> Results:
    found: Results = {}
    for name, model in models.items():
        for precision in FLOORS:
            small = quantised(model, precision, samples(model))
            found[name, precision] = small, compare(model, small, samples(model, seed=1))
    return found


@pytest.mark.parametrize("precision", FLOORS)
@pytest.mark.parametrize("name", NETWORKS)
def test_signal_to_noise(results: Results, name: str, precision: Precision) -> None:
    (output,) = results[name, precision][1].outputs
    assert output.snr_db > FLOORS[precision]
    assert output.varying_snr_db <= output.snr_db
    assert 0 < output.mean_abs_error < output.max_abs_error
    assert (output.top1_agreement is not None) == (name == "mobile")


@pytest.mark.parametrize("name", NETWORKS)
def test_static_int8_computes_on_int8(results: Results, name: str) -> None:
    report = results[name, "int8"][1]
    assert report.in_float == ()
    assert report.conversions == 2  # at the input and at the output


def test_clips_become_saturation(results: Results) -> None:
    graph = tflite.read(results["super-resolution", "int8"][0]).graph
    (shuffle,) = (op for op in graph.ops if op.kind == "DEPTH_TO_SPACE")
    assert "RELU6" not in {op.kind for op in graph.ops}
    assert graph.quantization[shuffle.inputs[0]] == graph.quantization[shuffle.outputs[0]]
    ((scale,), (zero_point,)) = graph.quantization[shuffle.outputs[0]].scale, graph.quantization[shuffle.outputs[0]].zero_point
    assert zero_point == -128
    assert 3 < scale * 255 < 6.01  # of what the convolution computes, -10 to 10 or so


def test_the_interface_is_float_or_int8(models: dict[str, bytes], results: Results) -> None:
    model = models["mobile"]
    calibration = samples(model)
    as_int8 = quantised(model, "int8", calibration, interface="int8")
    for small, dtype in ((results["mobile", "int8"][0], "float32"), (as_int8, "int8")):
        read = tflite.read(small)
        ends = [*read.graph.inputs, *read.graph.outputs]
        assert [read.graph.tensors[t].dtype for t in ends] == [dtype] * 2
        (signature,) = read.signatures
        assert [*signature.inputs.values(), *signature.outputs.values()] == ends
    report = compare(model, as_int8, samples(model, seed=1))
    assert report.conversions == 0
    assert report.outputs[0].snr_db > FLOORS["int8"]
    graph = tflite.read(as_int8).graph
    (scale,) = graph.quantization[graph.inputs[0]].scale
    largest = max(float(np.abs(sample[0]).max()) for sample in calibration.samples)
    assert largest / 256 < scale < 2 * largest / 255


@pytest.mark.parametrize("precision", ["dynamic", "int8"])
def test_weights_have_a_scale_per_channel(models: dict[str, bytes], results: Results, precision: str) -> None:
    exact, small = tflite.read(models["mobile"]).graph, tflite.read(results["mobile", precision][0]).graph
    axes = set()
    for op in exact.ops:
        if op.kind in LINEAR:
            weights, stored = np.asarray(exact.weights[op.inputs[1]]), small.quantization[op.inputs[1]]
            largest = np.abs(weights).max(tuple(i for i in range(weights.ndim) if i != stored.axis))
            assert len(np.unique(largest)) == len(largest) > 1
            np.testing.assert_allclose(stored.scale, largest / 127, rtol=1e-3)
            assert not any(stored.zero_point)
            assert small.tensors[op.inputs[1]].dtype == "int8"
            axes.add((op.kind, stored.axis))
    assert axes == {("CONV_2D", 0), ("FULLY_CONNECTED", 0), ("DEPTHWISE_CONV_2D", 3)}


def test_fp16_halves_the_weights(results: Results) -> None:
    graph = tflite.read(results["mobile", "fp16"][0]).graph
    halves = [graph.tensors[t].dtype for op in graph.ops if op.kind == "DEQUANTIZE" for t in op.inputs]
    assert halves == ["float16"] * sum(op.kind in LINEAR for op in graph.ops)


def test_dynamic_depthwise_computes_on_floats(results: Results) -> None:
    graph = tflite.read(results["mobile", "dynamic"][0]).graph
    weights = {op.kind: graph.tensors[op.inputs[1]].dtype for op in graph.ops if op.kind in LINEAR}
    assert weights == {"CONV_2D": "int8", "DEPTHWISE_CONV_2D": "float32", "FULLY_CONNECTED": "int8"}
    stored = [graph.tensors[op.inputs[0]].dtype for op in graph.ops if op.kind == "DEQUANTIZE"]
    assert stored == ["int8"] * 2


def test_the_same_data_give_the_same_bytes(models: dict[str, bytes], results: Results) -> None:
    model = models["joined"]
    data = samples(model)
    assert quantised(model, "int8", data) == results["joined", "int8"][0]
    turned = Calibration(data.samples[::-1], data.source)
    assert quantised(model, "int8", turned) == results["joined", "int8"][0]
    assert quantised(model, "int8", samples(model, seed=9)) != results["joined", "int8"][0]


def test_fp32_is_the_model_itself(models: dict[str, bytes]) -> None:
    assert quantised(models["joined"], "fp32") is models["joined"]


def test_several_inputs_and_outputs() -> None:
    net = Function(lambda a, b: (torch.relu(a + b), (torch.relu(a) + b).mean((2, 3))))
    model = tflite.write(graph_of(net.eval(), (torch.zeros(1, 3, 8, 8), torch.zeros(1, 3, 1, 1))))
    small = quantised(model, "int8", samples(model))
    report = compare(model, small, samples(model, seed=1))
    assert [o.snr_db > 25 for o in report.outputs] == [True, True]
    assert [o.top1_agreement is None for o in report.outputs] == [True, False]


# Refusals.


def test_static_int8_needs_data(models: dict[str, bytes]) -> None:
    with pytest.raises(ExportError, match=r"needs calibration data.*folder of images or an \.npz"):
        quantised(models["joined"], "int8")


def test_impossible_settings(models: dict[str, bytes]) -> None:
    with pytest.raises(ConfigError, match="'int4' does not exist; it is one of fp32, fp16, dynamic, int8"):
        quantised(models["joined"], "int4")  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="int8 interface needs precision int8"):
        quantised(models["joined"], "fp16", interface="int8")


def test_data_that_does_not_fit(models: dict[str, bytes]) -> None:
    other = Calibration.random({"input": TensorSpec((1, 8, 8, 3))}, 2, np.random.default_rng(0))
    with pytest.raises(ExportError, match=r"sample 0 of random numbers is .*8, 8, 3.*the model reads .*16, 16, 3"):
        quantised(models["joined"], "int8", other)


def test_a_quantised_model_is_refused(results: Results) -> None:
    for precision, words in (
        ("int8", "is quantised already"),
        ("dynamic", "is quantised already"),
        ("fp16", "is in half precision already"),
    ):
        with pytest.raises(ExportError, match=words):
            quantised(results["joined", precision][0], "dynamic")


def test_weights_beyond_fp16_are_refused() -> None:
    net = nn.Conv2d(3, 4, 1)
    with torch.no_grad():
        net.weight[0, 0] = 1e5
    model = tflite.write(graph_of(net.eval(), torch.zeros(1, 3, 8, 8)))
    with pytest.raises(ExportError, match=r"weight' reach 1e\+05, fp16 ends at 65504"):
        quantised(model, "fp16")


def test_networks_that_compute_nan_are_refused() -> None:
    image = TensorSpec((1, 4, 4, 3))
    op = Op("DIV", ("x", "x"), ("y",), attrs(activation="NONE"))
    model = tflite.write(Graph((op,), {"x": image, "y": image}, ("x",), ("y",), {}))
    zeros = Calibration(((np.zeros(image.shape, np.float32),),), "zeros")
    with pytest.raises(ExportError, match=r"sample 0 makes the float network compute NaN or infinity in 'y'"):
        quantised(model, "int8", zeros)


def test_what_is_no_model_is_refused() -> None:
    for content in (b"", b"nonsense", bytes(100)):
        with pytest.raises(ExportError):
            quantised(content, "fp16")


def test_a_time_out_is_an_error(models: dict[str, bytes]) -> None:
    with pytest.raises(ExportError, match=r"quantising to fp16 did not finish in 0\.01 s"):
        quantised(models["joined"], "fp16", timeout_s=0.01)
