"""LiteRT's GPU delegate, on SwiftShader: right results, and the truth about who ran what. Its times mean nothing."""

import sys
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from paceline.devices.composed import ComposedDevice
from paceline.devices.kinds.local import open_local
from paceline.devices.measuring_worker.engines.litert import gpu_delegation
from paceline.devices.runners.python_worker import PythonWorkerRunner
from paceline.devices.runners.runner import Batch
from paceline.devices.testing import DeviceTestSuite
from paceline.devices.testing.swiftshader import swiftshader
from paceline.devices.transports.local import LocalTransport
from paceline.errors import DeviceError
from paceline.exporters import tflite
from paceline.graph import Array, Graph, Op, TensorSpec, attrs
from paceline.measurement import Artifact, Bench, Failure

QUICK = Bench(delegate="gpu", min_invokes=3, batch_ms=0.0, warmup_ms=0.0, timeout_s=60.0)
TOLERANCE = {"fp32": 1e-4, "fp16": 2e-2}


@pytest.fixture(scope="module")
def environment() -> dict[str, str]:
    try:
        return swiftshader()
    except DeviceError as e:
        pytest.skip(str(e))


@pytest.fixture(scope="module")
def gpu(environment: dict[str, str]) -> Iterator[PythonWorkerRunner]:
    runner = PythonWorkerRunner(LocalTransport(), "litert", sys.executable, environment)
    yield runner
    runner.close()


class TestGpuDevice(DeviceTestSuite):
    profiles = False

    @pytest.fixture
    def device(self, environment: dict[str, str]) -> Iterator[ComposedDevice]:
        with open_local("swiftshader", environment=environment) as device:
            yield device

    @pytest.fixture
    def bench(self) -> Bench:
        return replace(QUICK, batches=3, repeats=1)

    @pytest.fixture
    def models(self, models: Sequence[Artifact]) -> Sequence[Artifact]:
        return models


class Network:
    """An operator graph that grows at its end, in NHWC, from random weights."""

    def __init__(self, size: int, channels: int) -> None:
        self._rng = np.random.default_rng(0)
        self._ops: list[Op] = []
        self._tensors = {"t0": TensorSpec((1, size, size, channels))}
        self._weights: dict[str, Array] = {}

    @property
    def end(self) -> str:
        return f"t{len(self._ops)}"

    @property
    def shape(self) -> tuple[int, ...]:
        return self._tensors[self.end].shape

    def add(self, kind: str, shape: Sequence[int], inputs: Sequence[str] = (), **settings: object) -> "Network":
        op = Op(kind, (self.end, *inputs), (f"t{len(self._ops) + 1}",), attrs(**settings))  # type: ignore[arg-type]
        self._ops.append(op)
        self._tensors[self.end] = TensorSpec(tuple(shape))
        return self

    def conv(self, channels: int, k: int, stride: int = 1, depthwise: bool = False, activation: str = "RELU6") -> "Network":
        _, height, width, cin = self.shape
        shape = (1, k, k, cin) if depthwise else (channels, k, k, cin)
        scale = 1 / np.sqrt(k * k * (1 if depthwise else cin))
        filters, bias = f"w{len(self._ops)}", f"b{len(self._ops)}"
        self._weights[filters] = (self._rng.standard_normal(shape) * scale).astype(np.float32)
        self._weights[bias] = (self._rng.standard_normal(channels) * 0.1).astype(np.float32)
        self._tensors |= {name: TensorSpec(self._weights[name].shape) for name in (filters, bias)}
        out = (1, -(-height // stride), -(-width // stride), channels)
        kind = "DEPTHWISE_CONV_2D" if depthwise else "CONV_2D"
        named = {"stride": (stride, stride), "dilation": (1, 1), "padding": "SAME", "activation": activation}
        return self.add(kind, out, (filters, bias), **named)

    def block(self, channels: int, stride: int = 1) -> "Network":
        """An inverted residual block of MobileNetV2."""
        start, cin = self.end, self.shape[-1]
        self.conv(cin * 4, 1).conv(cin * 4, 3, stride, depthwise=True).conv(channels, 1, activation="NONE")
        return self.add("ADD", self.shape, (start,), activation="NONE") if stride == 1 and channels == cin else self

    def save(self, path: Path) -> Artifact:
        tflite.save(Graph(tuple(self._ops), self._tensors, ("t0",), (self.end,), self._weights), path)
        return Artifact(path, path.stem)


def outputs(runner: PythonWorkerRunner, model: Artifact, **bench: str) -> list[Array]:
    session = runner.session(replace(QUICK, **bench))  # type: ignore[arg-type]
    found = session.outputs(model)
    session.close()
    assert not isinstance(found, Failure)
    return found


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_a_mobile_network_runs_wholly_on_the_gpu_and_right(gpu: PythonWorkerRunner, tmp_path: Path, precision: str) -> None:
    network = (
        Network(64, 3).conv(8, 3, 2).block(12, 2).block(12).block(16, 2).block(16).conv(64, 1).add("HARD_SWISH", (1, 8, 8, 64))
    )
    model = network.save(tmp_path / "mobile.tflite")
    session = gpu.session(replace(QUICK, precision=precision))
    batch = session.batch(model)
    assert isinstance(batch, Batch)
    assert len(batch.samples_ms) >= 3
    told = session.delegation(model)
    assert told is not None
    assert (told.state, told.partitions, told.delegated, told.left) == ("full", 1, 17, ())
    session.close()
    (found,), (wanted,) = outputs(gpu, model, precision=precision), outputs(gpu, model, delegate="xnnpack")
    assert np.ptp(wanted) > 0.1
    assert np.abs(found - wanted).max() <= TOLERANCE[precision] * np.ptp(wanted)
    assert np.abs(found - wanted).max() > 0, "not a bit of difference: was this the GPU?"


def test_single_operators_run_on_the_gpu(gpu: PythonWorkerRunner, models: Sequence[Artifact]) -> None:
    session = gpu.session(QUICK)
    for model in models:
        assert isinstance(session.batch(model), Batch)
        told = session.delegation(model)
        assert told is not None
        assert (told.state, told.delegated) == ("full", 1)
    session.close()


def test_what_the_gpu_does_not_take_is_told(gpu: PythonWorkerRunner, tmp_path: Path) -> None:
    half = Network(8, 8).conv(8, 3).add("L2_NORMALIZATION", (1, 8, 8, 8)).conv(8, 3).save(tmp_path / "half.tflite")
    nothing = Network(8, 8).add("LOG_SOFTMAX", (1, 8, 8, 8)).save(tmp_path / "nothing.tflite")
    session = gpu.session(QUICK)
    assert isinstance(session.batch(half), Batch)
    assert isinstance(session.batch(nothing), Batch)
    partly, none = session.delegation(half), session.delegation(nothing)
    session.close()
    assert partly is not None
    assert none is not None
    assert (partly.state, partly.partitions, partly.delegated) == ("partial", 1, 1)
    assert partly.left == ("L2_NORMALIZATION: Operation is not supported.",)
    assert (none.state, none.partitions, none.left) == ("none", 0, ("LOG_SOFTMAX: Operation is not supported.",))
    (found,), (wanted,) = outputs(gpu, half), outputs(gpu, half, delegate="xnnpack")
    assert np.abs(found - wanted).max() <= 1e-4 * np.ptp(wanted)


def test_a_gpu_profile_is_refused(gpu: PythonWorkerRunner, models: Sequence[Artifact]) -> None:
    with pytest.raises(DeviceError, match="WebGPU accelerator has no operator profiler"):
        gpu.profile(models[0], QUICK)


def test_a_gpu_that_is_not_there_is_no_delegate(tmp_path: Path) -> None:
    runner = PythonWorkerRunner(LocalTransport(), "litert", sys.executable, {"VK_ICD_FILENAMES": str(tmp_path / "none.json")})
    assert runner.delegates() == ("xnnpack", "builtin")
    with pytest.raises(DeviceError, match=r"delegate 'gpu' isn't available.*available: xnnpack, builtin"):
        runner.session(QUICK)
    runner.close()


def test_the_gpu_is_a_fact_of_the_device(gpu: PythonWorkerRunner) -> None:
    assert gpu.facts()["gpu"].startswith("SwiftShader Device (Subzero), driver 0x")


def test_swiftshader_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("PACELINE_SWIFTSHADER", raising=False)
    with pytest.raises(DeviceError, match=r"get_swiftshader\.sh"):
        swiftshader()
    monkeypatch.setenv("PACELINE_SWIFTSHADER", str(tmp_path))
    with pytest.raises(DeviceError, match=r"has no vk_swiftshader_icd\.json"):
        swiftshader()
    (tmp_path / "vk_swiftshader_icd.json").touch()
    assert swiftshader() == {"VK_ICD_FILENAMES": str(tmp_path / "vk_swiftshader_icd.json")}


def test_delegation_is_read_from_the_lines() -> None:
    left = ["CUSTOM Foo: Not supported.", "SLICE: rank > 4"]
    lines = ["INFO: x", "ERROR: Following operations are not supported by GPU delegate:", *left]
    some = "8 operations will run on the GPU, and the remaining 10 operations will run on the CPU."
    none = "No operations will run on the GPU, and all 18 operations will run on the CPU."
    assert gpu_delegation([*lines, some, "A: b"], False, 18) == {"partitions": 1, "delegated": 8, "left": left}
    assert gpu_delegation([*lines, none], False, 18) == {"partitions": 0, "delegated": 0, "left": left}
    assert gpu_delegation([some], False, 18)["left"] == ["10 operators"]
    assert gpu_delegation([], False, 18) == {"partitions": 1, "delegated": None, "left": None}
    assert gpu_delegation([], True, 18) == {"partitions": 1, "delegated": 18, "left": []}
