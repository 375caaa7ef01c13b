"""This machine as a device, its worker, and what happens when the worker dies."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import replace

import pytest

from paceline.devices import host
from paceline.devices.local import LocalDevice
from paceline.devices.testing import DeviceTestSuite
from paceline.devices.worker import delegation
from paceline.devices.worker_process import WorkerEndedError, WorkerProcess
from paceline.errors import DeviceError
from paceline.measurement import Artifact, Bench, TransientFailure

QUICK = Bench(batches=2, min_invokes=10, batch_ms=1.0, warmup_ms=0.5, repeats=1, timeout_s=30.0)


@pytest.fixture(params=["xnnpack", "builtin"])
def bench(request: pytest.FixtureRequest) -> Bench:
    return replace(QUICK, delegate=request.param, affinity=host.cpus()[-1:])


class TestLocalDevice(DeviceTestSuite):
    @pytest.fixture
    def device(self, local: LocalDevice) -> LocalDevice:
        return local

    @pytest.fixture
    def bench(self, bench: Bench) -> Bench:
        return bench

    @pytest.fixture
    def models(self, models: Sequence[Artifact]) -> Sequence[Artifact]:
        return models


def test_what_this_machine_has_not_is_named(local: LocalDevice, models: Sequence[Artifact]) -> None:
    for wrong, reason in (
        ({"delegate": "gpu"}, "delegate 'gpu' isn't available.*xnnpack, builtin"),
        ({"threads": 4096}, "4096 threads"),
        ({"affinity": (4095,)}, "CPU 4095"),
        ({"precision": "int4"}, "int4"),
    ):
        with pytest.raises(DeviceError, match=reason):
            local.measure(models[:1], replace(QUICK, **wrong))


def test_the_profile_says_who_ran_what(local: LocalDevice, models: Sequence[Artifact]) -> None:
    (delegated,) = local.profile(models[-1], QUICK, runs=20)
    (own,) = local.profile(models[-1], replace(QUICK, delegate="builtin"), runs=20)
    assert (delegated.delegated, own.delegated) == (True, False)
    assert own.name == "CONV_2D"


def test_a_measurement_says_what_the_delegate_took(local: LocalDevice, models: Sequence[Artifact]) -> None:
    delegated, own = (local.measure(models[:1], replace(QUICK, delegate=d))[0].context for d in ("xnnpack", "builtin"))
    assert (delegated["partitions"], delegated["delegated"], delegated["left"]) == ("1", "1", "")
    assert (own["partitions"], own["delegated"], own["left"]) == ("0", "0", "CONV_2D")


def test_a_worker_that_is_killed_while_it_measures_is_one_transient_failure(models: Sequence[Artifact]) -> None:
    with LocalDevice() as device:
        session = device._session_for(QUICK)
        assert session.ask("ping") == {"pid": session._worker._process.pid}  # type: ignore[union-attr]
        os.kill(session._worker._process.pid, signal.SIGKILL)  # type: ignore[union-attr]
        failed, *rest = device.measure(models, QUICK)
        assert isinstance(failed.failure, TransientFailure)
        assert "SIGKILL" in failed.failure.reason
        assert [m.failure for m in rest] == [None] * len(rest)
        assert device.measure(models[:1], QUICK)[0].failure is None


def test_a_worker_that_hangs_is_killed_at_its_deadline(models: Sequence[Artifact]) -> None:
    worker = WorkerProcess()
    worker.request("ping", 30.0)
    pid = worker._process.pid
    os.kill(pid, signal.SIGSTOP)
    with pytest.raises(WorkerEndedError, match=r"no answer within 0\.2 s"):
        worker.request("ping", 0.2)
    assert worker._process.poll() == -signal.SIGKILL
    with pytest.raises(WorkerEndedError):
        WorkerProcess().request("ping", 0.0)


def test_a_worker_does_not_outlive_its_parent() -> None:
    code = (
        "from paceline.devices.worker_process import WorkerProcess; import os, time\n"
        "w = WorkerProcess(); print(w.request('ping', 30.0)['pid'], flush=True); time.sleep(60)"
    )
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        pid = int(parent.stdout.readline())
        parent.kill()
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline and _alive(pid):
        time.sleep(0.05)
    assert not _alive(pid)


def _alive(pid: int) -> bool:
    try:
        with open(f"/proc/{pid}/stat") as stat:
            return stat.read().rsplit(")", 1)[1].split()[0] != "Z"
    except FileNotFoundError:
        return False


def test_an_unknown_request_is_an_answer_and_not_the_end() -> None:
    worker = WorkerProcess()
    assert "AttributeError" in worker.request("juggle", 30.0)["error"]
    assert "KeyError" in worker.request("batch", 30.0, path="x", warmup_ms=1, batch_ms=1, min_invokes=1, max_ms=1)["error"]
    assert worker.request("ping", 30.0)["pid"] == worker._process.pid
    worker.close()
    worker.close()


def test_delegation_is_read_from_the_nodes() -> None:
    def node(name: str, ins: list[int], outs: list[int]) -> dict[str, object]:
        return {"op_name": name, "inputs": ins, "outputs": outs}

    whole = [node("PAD", [0], [1]), node("CONV_2D", [1, 2], [3]), node("DELEGATE", [0, 2], [3])]
    assert delegation(whole) == {"partitions": 1, "delegated": 2, "left": []}
    cut = [node("CONV_2D", [0], [1]), node("CUSTOM", [1], [2]), node("CONV_2D", [2], [3])]
    cut += [node("DELEGATE", [0], [1]), node("DELEGATE", [2], [3])]
    assert delegation(cut) == {"partitions": 2, "delegated": 2, "left": ["CUSTOM"]}
    assert delegation([node("CONV_2D", [0], [1])]) == {"partitions": 0, "delegated": 0, "left": ["CONV_2D"]}


def test_the_device_does_not_need_torch() -> None:
    code = "import sys, json; import paceline.devices.local, paceline.devices.worker; print(json.dumps('torch' in sys.modules))"
    assert json.loads(subprocess.run([sys.executable, "-c", code], capture_output=True, check=True).stdout) is False
