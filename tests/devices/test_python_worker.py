"""The Python worker on this machine: its protocol, and what becomes of models that hang, crash or print."""

import ast
import json
import os
import platform
import signal
import subprocess
import sys
import threading
import time
import venv
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from paceline.devices import measuring_worker
from paceline.devices.measuring_worker.engine import Printed, random_input
from paceline.devices.runners.python_worker import PythonWorkerRunner, WorkerSession
from paceline.devices.runners.runner import Batch
from paceline.devices.runners.worker_process import WorkerEndedError, WorkerProcess, zipapp
from paceline.devices.testing import sshd
from paceline.devices.transports.local import LocalTransport
from paceline.devices.transports.ssh import SshTransport
from paceline.devices.transports.transport import Completed
from paceline.errors import DeviceError, TransientDeviceError
from paceline.measurement import Artifact, Bench, Delegation, Failure, TransientFailure

QUICK = Bench(min_invokes=10, batch_ms=1.0, warmup_ms=0.5, timeout_s=30.0)
FAKE = replace(QUICK, runtime="fake_engine", delegate="cpu", timeout_s=2.0)
ENGINE = Path(__file__).with_name("fake_engine.py")


@pytest.fixture
def fake() -> Iterator[PythonWorkerRunner]:
    runner = PythonWorkerRunner(LocalTransport(), ENGINE, sys.executable, profile_runs=3)
    yield runner
    runner.close()


class Words:
    """Models of the fake engine: files with one word and a number that tells them apart."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __call__(self, word: str, number: int = 0) -> Artifact:
        path = self.folder / f"{word}{number}.tflite"
        path.write_text(f"{word} {number}")
        return Artifact(path, word)


@pytest.fixture
def word(tmp_path: Path) -> Words:
    return Words(tmp_path)


def pid_of(session: WorkerSession) -> int:
    assert session._worker is not None
    pid: int = session._worker.hello["pid"]
    return pid


def gone(pid: int, within_s: float = 20.0) -> bool:
    deadline = time.monotonic() + within_s
    while True:
        try:
            if Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] == "Z":
                return True
        except (FileNotFoundError, ProcessLookupError):
            return True
        if time.monotonic() >= deadline:
            return False
        time.sleep(0.02)


def test_batches_have_the_length_that_the_bench_asks_for(fake: PythonWorkerRunner, word: Words) -> None:
    def samples(model: str, **limits: float) -> int:
        session = fake.session(replace(FAKE, **limits))  # type: ignore[arg-type]
        batch = session.batch(word(model))
        session.close()
        assert isinstance(batch, Batch)
        assert batch.low > 0
        return len(batch.samples_ms)

    assert samples("fine", max_invokes=7) == 7
    assert samples("fine", min_invokes=30, batch_ms=0.0) == 30
    assert samples("slow", min_invokes=50, max_batch_ms=300.0) <= 15
    assert samples("slow", min_invokes=50, max_batch_ms=1.0) == 10


def test_the_device_is_told_by_the_worker(fake: PythonWorkerRunner) -> None:
    assert fake.runtime == "fake_engine"
    assert fake.facts() == {"fake_engine": "7", "architecture": platform.machine()}
    assert (fake.delegates(), fake.formats) == (("cpu", "npu"), ("tflite",))
    other = PythonWorkerRunner(LocalTransport(), "litert", sys.executable, {"SOME_DRIVER": "a 'b'"})
    assert other.facts()["env SOME_DRIVER"] == "a 'b'"
    assert other.delegates()[:2] == ("xnnpack", "builtin")
    other.close()


def test_what_a_runtime_has_not_is_named(fake: PythonWorkerRunner, word: Words) -> None:
    for wrong, reason in (
        ({"runtime": "litert"}, "runtime 'litert' isn't available on local; use 'fake_engine'"),
        ({"delegate": "gpu"}, "delegate 'gpu' isn't available .*: cpu, npu"),
        ({"precision": "int4"}, "precision 'int4' .*: fp32 .models run as they are"),
        ({"delegate": "npu"}, "precision 'fp32' isn't available for npu .*: int8, fp16"),
        ({"threads": 0}, "0 threads"),
    ):
        with pytest.raises(DeviceError, match=reason):
            fake.session(replace(FAKE, **wrong))  # type: ignore[arg-type]
    with pytest.raises(DeviceError, match="no engine 'tensorrt'; there are litert, onnxruntime"):
        PythonWorkerRunner(LocalTransport(), "tensorrt")
    session = fake.session(replace(FAKE, affinity=(4095,)))
    with pytest.raises(DeviceError, match="can't be pinned to CPUs 4095"):
        session.batch(word("fine"))
    session.close()
    session = fake.session(FAKE)
    assert session.batch(replace(word("fine"), format="onnx")) == Failure("fake_engine runs tflite files, not onnx")
    session.close()


def test_a_worker_is_pinned_and_serves_the_next_session(fake: PythonWorkerRunner, word: Words) -> None:
    cpu = max(os.sched_getaffinity(0))
    pids = []
    for _ in range(2):
        session = fake.session(replace(FAKE, affinity=(cpu,)))
        found = session.outputs(word("fine"))
        assert not isinstance(found, Failure)
        assert found[0].tolist() == [cpu]
        pids.append(pid_of(session))
        session.close()
    assert pids[0] == pids[1]
    first, second = fake.session(FAKE), fake.session(FAKE)
    assert isinstance(first.batch(word("fine")), Batch)
    assert isinstance(second.batch(word("fine")), Batch)
    both = [pid_of(first), pid_of(second)]
    first.close()
    second.close()
    assert gone(both[1])
    fake.close()
    fake.close()
    assert gone(both[0])


def test_what_is_wrong_with_one_model_is_a_failure_and_the_rest_goes_on(fake: PythonWorkerRunner, word: Words) -> None:
    session = fake.session(FAKE)
    assert session.batch(word("refuse")) == Failure("RuntimeError: operator FROB isn't known")
    assert isinstance(session.batch(word("unheard")), Failure)
    assert isinstance(session.batch(word("fine")), Batch)
    pid = pid_of(session)
    crashed = session.batch(word("crash"))
    assert isinstance(crashed, TransientFailure)
    assert "SIGSEGV" in crashed.reason
    assert "kernel panic in the model" in crashed.reason
    assert isinstance(session.batch(word("fine")), Batch)
    assert pid_of(session) != pid
    assert session.delegation(word("fine")) == Delegation("cpu", 1, None, ())
    assert session.delegation(word("unheard")) is None
    session.close()


@pytest.mark.parametrize("hang", ["hang", "hang_hard"])
def test_a_model_that_hangs_is_ended_at_its_deadline(fake: PythonWorkerRunner, word: Words, hang: str) -> None:
    session = fake.session(replace(FAKE, timeout_s=0.5))
    assert isinstance(session.batch(word("fine")), Batch)
    pid = pid_of(session)
    late = session.batch(word(hang))
    assert isinstance(late, TransientFailure)
    assert "no answer within 0.5 s" in late.reason
    assert gone(pid, 0.0)
    assert isinstance(session.batch(word("fine")), Batch)
    session.close()


def test_a_worker_killed_in_mid_batch_is_one_transient_failure(fake: PythonWorkerRunner, word: Words) -> None:
    session = fake.session(replace(FAKE, max_batch_ms=1e4, min_invokes=500, timeout_s=20.0))
    assert isinstance(session.outputs(word("slow")), list)
    timer = threading.Timer(0.3, os.kill, (pid_of(session), signal.SIGKILL))
    timer.start()
    killed = session.batch(word("slow"))
    timer.join()
    assert isinstance(killed, TransientFailure)
    assert "SIGKILL" in killed.reason
    assert isinstance(session.batch(word("fine")), Batch)
    session.close()


def test_a_lost_link_is_not_the_models_fault(word: Words) -> None:
    class Cut(LocalTransport):
        def run(self, command: str, timeout_s: float) -> Completed:
            raise TransientDeviceError("the cable is out")

    with pytest.raises(TransientDeviceError, match="the cable is out"):
        PythonWorkerRunner(Cut(), ENGINE, "no/such/python").facts()
    runner = PythonWorkerRunner(Cut(), ENGINE, sys.executable)
    session = runner.session(FAKE)
    with pytest.raises(TransientDeviceError, match="the cable is out"):
        session.batch(word("crash"))
    session.close()
    runner.close()


def test_over_ssh(word: Words, tmp_path: Path) -> None:
    reason = sshd.why_not()
    if reason:
        pytest.skip(reason)
    with sshd.Sshd(tmp_path) as server:
        transport = SshTransport(
            server.host, server.user, server.port, server.identity, server.known_hosts, folder=str(tmp_path / "pushed")
        )
        runner = PythonWorkerRunner(transport, ENGINE, sys.executable, {"SOME_DRIVER": "a 'b'"})
        session = runner.session(replace(FAKE, timeout_s=1.0))
        assert isinstance(session.batch(word("fine")), Batch)
        crashed = session.batch(word("crash"))
        assert isinstance(crashed, TransientFailure)
        assert "SIGSEGV" in crashed.reason
        assert "kernel panic in the model" in crashed.reason
        assert isinstance(session.batch(word("fine")), Batch)
        pid = pid_of(session)
        assert "no answer within 1 s" in getattr(session.batch(word("hang_hard")), "reason", "")
        assert gone(pid)
        assert isinstance(session.batch(word("fine")), Batch)
        session.close()
        runner.close()
        transport.close()


def test_what_models_print_is_no_answer(fake: PythonWorkerRunner, word: Words) -> None:
    session = fake.session(FAKE)
    batch = session.batch(word("chatter"))
    assert isinstance(batch, Batch)
    assert len(batch.samples_ms) >= 10
    session.close()


def test_what_a_login_shell_prints_is_no_answer(word: Words, tmp_path: Path) -> None:
    python = tmp_path / "python"
    python.write_text(f"#!/bin/sh\necho Welcome; echo '[1]'; echo '{{'; exec {sys.executable} \"$@\"\n")
    python.chmod(0o755)
    runner = PythonWorkerRunner(LocalTransport(), ENGINE, str(python))
    assert runner.facts() == {"fake_engine": "7", "architecture": platform.machine()}
    runner.close()


def test_what_is_missing_is_named_with_its_remedy(tmp_path: Path) -> None:
    venv.create(tmp_path / "bare", symlinks=True)
    python = str(tmp_path / "bare/bin/python")
    for engine, package in (("litert", "ai-edge-litert"), ("onnxruntime", "onnxruntime"), ("tflite_runtime", "'numpy<2'")):
        runner = PythonWorkerRunner(LocalTransport(), engine, python)
        with pytest.raises(DeviceError, match=f"{python} .*-m pip install .*{package}"):
            runner.facts()
    with pytest.raises(DeviceError, match=r"doesn't start on local: .*exit code 127.*no/such/python"):
        PythonWorkerRunner(LocalTransport(), "litert", "no/such/python").delegates()
    broken = tmp_path / "broken.py"
    broken.write_text("class Engine:\n    def __init__(self):\n        raise ValueError('no licence')\n")
    with pytest.raises(DeviceError, match=r"exit code 1, its last words: .*ValueError: no licence"):
        PythonWorkerRunner(LocalTransport(), broken, sys.executable).delegates()
    silent = tmp_path / "silent"
    silent.write_text("#!/bin/sh\nexec sleep 60\n")
    silent.chmod(0o755)
    with pytest.raises(DeviceError, match=r"doesn't start on local: no answer within 0\.5 s"):
        PythonWorkerRunner(LocalTransport(), "litert", str(silent), start_timeout_s=0.5).delegates()


def start(folder: Path) -> subprocess.Popen[bytes]:
    (folder / "worker.pyz").write_bytes(zipapp(ENGINE))
    command = [sys.executable, str(folder / "worker.pyz"), "fake_engine", ""]
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE)


def test_a_worker_ends_with_its_input_also_in_a_native_call(word: Words, tmp_path: Path) -> None:
    settings = {"delegate": "cpu", "threads": 1, "precision": "fp32", "options": {}}
    for model in ("", "hang", "hang_hard"):
        process = start(tmp_path)
        worker = WorkerProcess(process, 30.0)
        if model:
            path = str(word(model).path)
            worker.request("load", 30.0, path=path, **settings)
            load = {"path": path, "warmup_ms": 1, "batch_ms": 1, "min_invokes": 1, "max_batch_ms": 1, "max_invokes": 1}
            request = {"do": "batch", "timeout_s": 0.3, "with": load}
            assert process.stdin is not None
            process.stdin.write(json.dumps(request).encode() + b"\n")
            process.stdin.flush()
            time.sleep(0.2)
        assert process.poll() is None
        assert process.stdin is not None
        process.stdin.close()
        assert process.wait(20.0) == (-signal.SIGALRM if model == "hang_hard" else 0)
        worker.close()
        worker.close()
        with pytest.raises(WorkerEndedError):
            worker.request("ping", 1.0)


def test_a_worker_does_not_outlive_its_parent(word: Words) -> None:
    code = (
        "import sys, time\nfrom pathlib import Path\nfrom paceline.devices.runners.python_worker import PythonWorkerRunner\n"
        "from paceline.devices.transports.local import LocalTransport\n"
        f"runner = PythonWorkerRunner(LocalTransport(), Path({str(ENGINE)!r}), sys.executable)\n"
        "print(runner._hello['pid'], flush=True)\ntime.sleep(60)\n"
    )
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        pid = int(parent.stdout.readline())
        parent.kill()
    assert gone(pid)


def test_the_worker_is_the_same_file_everywhere_and_imports_little() -> None:
    assert zipapp() == zipapp()
    assert zipapp() != zipapp(ENGINE)
    allowed = {*sys.stdlib_module_names, "numpy"}
    for path in Path(measuring_worker.__file__).parent.rglob("*.py"):
        tree = ast.parse(path.read_text(), feature_version=(3, 9))
        for node in ast.walk(tree):
            names = [a.name for a in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or "." * node.level] if isinstance(node, ast.ImportFrom) else []
            foreign = [n for n in names if n.split(".")[0] not in allowed and not n.startswith(measuring_worker.__name__)]
            assert foreign == [], path


def test_a_session_holds_what_was_loaded_by_its_content(fake: PythonWorkerRunner, word: Words) -> None:
    session = fake.session(FAKE)
    model = word("fine")
    assert isinstance(session.batch(model), Batch)
    model.path.write_text("refuse")
    assert isinstance(session.batch(Artifact(model.path, "changed")), Failure)
    session.close()


def test_inputs_are_the_same_in_every_run_and_fit_their_type() -> None:
    def one(dtype: str) -> np.ndarray:  # type: ignore[type-arg]
        return random_input((3, 50), np.dtype(dtype), np.random.default_rng(0))

    for dtype in ("float32", "float16", "int8", "uint8", "int16", "int32", "int64", "bool"):
        np.testing.assert_array_equal(one(dtype), one(dtype))
        assert (one(dtype).dtype, one(dtype).shape) == (np.dtype(dtype), (3, 50))
        assert len(np.unique(one(dtype))) > 1
    assert (one("int8").min(), one("int8").max()) <= (-100, 100)
    assert set(one("int32").ravel()) == {0, 1}
    with pytest.raises(ValueError, match="no random input"):
        one("complex64")


def test_printed_lines_are_read_and_passed_on() -> None:
    code = (
        "import os\nfrom paceline.devices.measuring_worker.engine import Printed\n"
        "with Printed() as printed:\n    os.write(2, b'native\\n' * 20000)\nos.write(2, b'after')\n"
        "assert printed.lines == ['native'] * 20000"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, timeout=60)
    assert (done.returncode, done.stderr) == (0, b"native\n" * 20000 + b"after")
    with Printed() as printed:
        pass
    assert printed.lines == []
