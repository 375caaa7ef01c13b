"""The Python worker on an ARM64 processor that qemu emulates: it computes what this machine does. Its times mean nothing."""

import os
import shlex
import sys
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from paceline.devices.composed import ComposedDevice
from paceline.devices.kinds.local import open_local
from paceline.devices.runners.python_worker import Array, PythonWorkerRunner
from paceline.devices.testing import DeviceTestSuite
from paceline.devices.transports.local import LocalTransport
from paceline.exporters import tflite
from paceline.exporters.operator_models import write_operator
from paceline.exporters.precision.calibration import Calibration
from paceline.exporters.precision.quantize import input_specs, quantised
from paceline.exporters.torch_graph import graph_of
from paceline.measurement import Artifact, Bench, Failure

from samples import conv

TINY = Bench(batches=3, repeats=0, min_invokes=3, max_invokes=3, batch_ms=0.0, warmup_ms=0.0, tolerance=1e6, timeout_s=600.0)


class Block(nn.Module):
    """An inverted residual block of MobileNetV2."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        wide = 2 * channels
        self.layers = nn.Sequential(
            *(nn.Conv2d(channels, wide, 1, bias=False), nn.BatchNorm2d(wide), nn.ReLU6()),
            *(nn.Conv2d(wide, wide, 3, padding=1, groups=wide, bias=False), nn.BatchNorm2d(wide), nn.ReLU6()),
            *(nn.Conv2d(wide, channels, 1, bias=False), nn.BatchNorm2d(channels)),
        )

    def forward(self, x: Tensor) -> Tensor:
        return x + self.layers(x)  # type: ignore[no-any-return]


@pytest.fixture(scope="module")
def python() -> str:
    python = os.environ.get("PACELINE_AARCH64_PYTHON")
    if not python:
        pytest.skip(
            "PACELINE_AARCH64_PYTHON names no ARM64 Python that has LiteRT: tests/devices/get_aarch64.sh FOLDER, FOLDER/python"
        )
    return python


@pytest.fixture(scope="module")
def network() -> bytes:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        layers = (nn.Conv2d(3, 16, 3, 2, 1), nn.ReLU6(), Block(16), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, 10))
        return tflite.write(graph_of(nn.Sequential(*layers).eval(), torch.zeros(1, 3, 24, 24)))


@pytest.fixture(scope="module")
def floats(network: bytes, tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    return saved(network, tmp_path_factory.mktemp("floats") / "floats.tflite")


@pytest.fixture(scope="module")
def integers(network: bytes, tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    calibration = Calibration.random(input_specs(network), 6, np.random.default_rng(0))
    small = quantised(network, "int8", calibration, interface="int8")
    return saved(small, tmp_path_factory.mktemp("integers") / "integers.tflite")


@pytest.fixture(scope="module")
def arm(python: str) -> Iterator[PythonWorkerRunner]:
    runner = PythonWorkerRunner(LocalTransport(), "litert", python, profile_runs=2)
    yield runner
    runner.close()


@pytest.fixture(scope="module")
def host() -> Iterator[PythonWorkerRunner]:
    runner = PythonWorkerRunner(LocalTransport(), "litert", sys.executable)
    yield runner
    runner.close()


@pytest.fixture(scope="module")
def arm_device(python: str) -> Iterator[ComposedDevice]:
    """Opened once: an emulated interpreter takes seconds to import LiteRT."""
    with open_local("arm64", python=python) as device:
        yield device


def saved(model: bytes, path: Path) -> Artifact:
    path.write_bytes(model)
    return Artifact(path, path.stem)


def output(runner: PythonWorkerRunner, model: Artifact, delegate: str) -> Array:
    """Of a model of which XNNPACK runs everything, and the built-in kernels, too."""
    session = runner.session(replace(TINY, delegate=delegate))
    found = session.outputs(model)
    told = session.delegation(model)
    session.close()
    assert not isinstance(found, Failure), found
    assert told is not None
    assert told.state == ("full" if delegate == "xnnpack" else "none"), told
    return found[0]


def test_it_is_an_arm_processor(python: str) -> None:
    done = LocalTransport().run(f"{shlex.quote(python)} -c 'import platform; print(platform.machine())'", 60.0)
    assert (done.code, done.out) == (0, b"aarch64\n")


def test_its_figures_are_never_taken_for_the_hosts(arm_device: ComposedDevice, local: ComposedDevice) -> None:
    assert arm_device.info.facts["architecture"] == "aarch64"
    assert arm_device.info.fingerprint != local.info.fingerprint


class TestArmDevice(DeviceTestSuite):
    @pytest.fixture
    def device(self, arm_device: ComposedDevice) -> ComposedDevice:
        return arm_device

    @pytest.fixture
    def bench(self) -> Bench:
        return replace(TINY, min_invokes=10, max_invokes=10)

    @pytest.fixture
    def models(self, tmp_path: Path) -> Sequence[Artifact]:  # small: a profile has 200 runs
        return [write_operator(spec, tmp_path) for spec in (conv(8, 8, 8, 1), conv(16, 16, 16, 3))]

    def test_measures_whole_networks(self, device: ComposedDevice, floats: Artifact, integers: Artifact) -> None:
        for measurement in device.measure([floats, integers], TINY):
            assert measurement.failure is None
            assert [len(batch) for batch in measurement.samples_ms] == [3] * 3
            assert measurement.delegation is not None
            assert (measurement.delegation.state, measurement.delegation.partitions) == ("full", 1)


@pytest.mark.parametrize("delegate", ["xnnpack", "builtin"])
def test_arm_computes_in_float_what_this_machine_does(
    arm: PythonWorkerRunner, host: PythonWorkerRunner, floats: Artifact, delegate: str
) -> None:
    found, wanted = output(arm, floats, delegate), output(host, floats, delegate)
    assert np.ptp(wanted) > 0.1
    np.testing.assert_allclose(found, wanted, rtol=0, atol=1e-5)


@pytest.mark.parametrize("delegate", ["xnnpack", "builtin"])
def test_arm_computes_in_int8_what_this_machine_does(
    arm: PythonWorkerRunner, host: PythonWorkerRunner, integers: Artifact, delegate: str
) -> None:
    found, wanted = output(arm, integers, delegate), output(host, integers, delegate)
    assert found.dtype == wanted.dtype == np.int8
    assert np.ptp(wanted.astype(int)) > 10
    assert np.abs(found.astype(int) - wanted).max() <= 1


@pytest.mark.parametrize("delegate", ["xnnpack", "builtin"])
def test_arm_has_a_profile_of_operators(arm: PythonWorkerRunner, floats: Artifact, delegate: str) -> None:
    operators = arm.profile(floats, replace(TINY, delegate=delegate))
    assert len(operators) >= 6
    assert {operator.delegated for operator in operators} == {delegate == "xnnpack"}
    assert sum(operator.ms for operator in operators) > 0
