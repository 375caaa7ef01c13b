"""ONNX Runtime in the Python worker."""

import platform
import sys
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

from paceline.devices.composed import ComposedDevice
from paceline.devices.kinds.local import open_local
from paceline.devices.measuring_worker.engine import random_input
from paceline.devices.runners.python_worker import PythonWorkerRunner
from paceline.devices.runners.runner import Batch
from paceline.devices.testing import DeviceTestSuite
from paceline.devices.transports.local import LocalTransport
from paceline.errors import DeviceError
from paceline.measurement import Artifact, Bench, Delegation, Failure, TransientFailure

QUICK = Bench(runtime="onnxruntime", delegate="cpu", min_invokes=10, batch_ms=1.0, warmup_ms=0.5, timeout_s=30.0)


@pytest.fixture(scope="module")
def runner() -> Iterator[PythonWorkerRunner]:
    made = PythonWorkerRunner(LocalTransport(), "onnxruntime", sys.executable, profile_runs=20)
    yield made
    made.close()


def network(path: Path, size: int, channels: int) -> Artifact:
    """Conv, then a softmax over channels; the batch size is open."""
    weights = np.random.default_rng(0).standard_normal((channels, 3, 3, 3)).astype(np.float32)
    graph = helper.make_graph(
        [
            helper.make_node("Conv", ["x", "w"], ["y"], name="first", pads=[1, 1, 1, 1]),
            helper.make_node("Softmax", ["y"], ["z"], name="second", axis=1),
        ],
        "net",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", 3, size, size])],
        [helper.make_tensor_value_info("z", TensorProto.FLOAT, ["batch", channels, size, size])],
        [numpy_helper.from_array(weights, "w")],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=10), path)
    return Artifact(path, path.stem, "onnx")


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Sequence[Artifact]:
    folder = tmp_path_factory.mktemp("onnx")
    return [network(folder / f"net{size}.onnx", size, channels) for size, channels in ((8, 4), (64, 32))]


@pytest.fixture
def model(models: Sequence[Artifact]) -> Artifact:
    return models[0]


class TestOnnxRuntimeDevice(DeviceTestSuite):
    @pytest.fixture
    def device(self) -> Iterator[ComposedDevice]:
        with open_local("onnx", "onnxruntime") as device:
            yield device

    @pytest.fixture
    def bench(self) -> Bench:
        return replace(QUICK, batches=3, repeats=1)

    @pytest.fixture
    def models(self, models: Sequence[Artifact]) -> Sequence[Artifact]:
        return models


def test_it_measures_and_computes_what_onnxruntime_does(runner: PythonWorkerRunner, model: Artifact) -> None:
    assert runner.facts() == {"onnxruntime": onnxruntime.__version__, "architecture": platform.machine()}
    assert (runner.delegates()[0], runner.formats) == ("cpu", ("onnx",))
    session = runner.session(QUICK)
    batch = session.batch(model)
    assert isinstance(batch, Batch)
    assert len(batch.samples_ms) >= 10
    assert min(batch.samples_ms) > 0
    x = random_input((1, 3, 8, 8), np.dtype(np.float32), np.random.default_rng(0))
    wanted = onnxruntime.InferenceSession(model.path, providers=["CPUExecutionProvider"]).run(None, {"x": x})
    found = session.outputs(model)
    assert not isinstance(found, Failure)
    np.testing.assert_allclose(found[0], wanted[0], rtol=1e-6)
    assert session.delegation(model) == Delegation("cpu", 1, None, ())
    session.close()


def test_the_profile_names_the_operators_in_their_order(runner: PythonWorkerRunner, model: Artifact) -> None:
    found = runner.profile(model, QUICK)
    assert [o.name for o in found if o.name in ("Conv", "Softmax")] == ["Conv", "Softmax"]
    assert not any(o.delegated for o in found)
    assert sum(o.ms for o in found) > 0


def test_a_provider_that_takes_nothing_is_told_as_none(runner: PythonWorkerRunner, model: Artifact) -> None:
    if "azure" not in runner.delegates():  # it runs operators on a server, and so none of these
        pytest.skip("this build of onnxruntime has no AzureExecutionProvider")
    session = runner.session(replace(QUICK, delegate="azure"))
    assert isinstance(session.batch(model), Batch)
    told = session.delegation(model)
    assert told is not None
    assert (told.state, told.partitions, told.delegated) == ("none", 0, 0)
    assert told.left is not None
    assert {"Conv", "Softmax"} <= set(told.left)
    session.close()


def test_mistakes_are_named(runner: PythonWorkerRunner, model: Artifact, tmp_path: Path) -> None:
    with pytest.raises(DeviceError, match=r"delegate 'xnnpack' isn't available .*cpu"):
        runner.session(replace(QUICK, delegate="xnnpack"))
    session = runner.session(replace(QUICK, options=(("turbo", "1"),)))
    with pytest.raises(DeviceError, match="cpu has no option 'turbo'"):
        session.batch(model)
    session.close()
    (tmp_path / "text.onnx").write_text("hello")
    session = runner.session(QUICK)
    found = session.batch(Artifact(tmp_path / "text.onnx", "text", "onnx"))
    assert isinstance(found, Failure)
    assert not isinstance(found, TransientFailure)
    assert "tflite" in getattr(session.batch(Artifact(model.path, "net")), "reason", "")
    session.close()
