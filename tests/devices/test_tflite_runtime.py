"""tflite-runtime in the Python worker: it needs numpy 1, so it runs by the interpreter of another environment."""

import os
import platform
import sys
from collections.abc import Iterator, Sequence
from dataclasses import replace

import numpy as np
import pytest

from paceline.devices.composed import ComposedDevice
from paceline.devices.kinds.local import open_local
from paceline.devices.runners.python_worker import PythonWorkerRunner
from paceline.devices.runners.runner import Batch
from paceline.devices.testing import DeviceTestSuite
from paceline.devices.transports.local import LocalTransport
from paceline.errors import DeviceError
from paceline.measurement import Artifact, Bench, Delegation, Failure

QUICK = Bench(runtime="tflite_runtime", min_invokes=10, batch_ms=1.0, warmup_ms=0.5, timeout_s=30.0)


@pytest.fixture(scope="module")
def python() -> str:
    python = os.environ.get("PACELINE_TFLITE_PYTHON")
    if not python:
        pytest.skip("PACELINE_TFLITE_PYTHON names no Python (<= 3.11) that has 'tflite-runtime==2.14.0' and 'numpy<2'")
    return python


@pytest.fixture(scope="module")
def runner(python: str) -> Iterator[PythonWorkerRunner]:
    made = PythonWorkerRunner(LocalTransport(), "tflite_runtime", python)
    yield made
    made.close()


class TestTfliteRuntimeDevice(DeviceTestSuite):
    profiles = False

    @pytest.fixture
    def device(self, python: str) -> Iterator[ComposedDevice]:
        with open_local("tflite", "tflite_runtime", python) as device:
            yield device

    @pytest.fixture(params=["xnnpack", "builtin"])
    def bench(self, request: pytest.FixtureRequest) -> Bench:
        return replace(QUICK, delegate=request.param, batches=3, repeats=1)

    @pytest.fixture
    def models(self, models: Sequence[Artifact]) -> Sequence[Artifact]:
        return models


def test_it_computes_what_litert_does(runner: PythonWorkerRunner, models: Sequence[Artifact]) -> None:
    assert runner.facts() == {"tflite_runtime": "2.14.0", "architecture": platform.machine()}
    litert = PythonWorkerRunner(LocalTransport(), "litert", sys.executable)
    reference = litert.session(Bench())
    for delegate in runner.delegates():
        session = runner.session(replace(QUICK, delegate=delegate))
        for model in models:
            assert isinstance(session.batch(model), Batch)
            found, wanted = session.outputs(model), reference.outputs(model)
            assert not isinstance(found, Failure)
            assert not isinstance(wanted, Failure)
            np.testing.assert_allclose(found[0], wanted[0], atol=1e-4 * np.ptp(wanted[0]))
        told = session.delegation(models[-1])
        assert told == (Delegation("xnnpack", 1, 1, ()) if delegate == "xnnpack" else Delegation("builtin", 0, 0, ("CONV_2D",)))
        session.close()
    reference.close()
    litert.close()


def test_it_has_no_profiler(runner: PythonWorkerRunner, models: Sequence[Artifact]) -> None:
    with pytest.raises(DeviceError, match="no operator profiler; use runtime litert"):
        runner.profile(models[0], QUICK)


def test_numpy_2_is_named() -> None:
    if int(np.__version__.split(".")[0]) < 2:
        pytest.skip("this environment has numpy 1")
    with pytest.raises(DeviceError, match=r"built for numpy 1, here is numpy 2.*pip install .*'numpy<2'"):
        PythonWorkerRunner(LocalTransport(), "tflite_runtime", sys.executable).facts()
