"""A whole phone: real adb, the imitated phone, benchmark_model's stand-in that really runs the models."""

import hashlib
import os
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from paceline.devices.composed import ComposedDevice
from paceline.devices.gate import Gate
from paceline.devices.kinds.adb import open_adb
from paceline.devices.runners.benchmark_model import BenchmarkModelRunner
from paceline.devices.systems.linux import LinuxSystem
from paceline.devices.testing import DeviceTestSuite
from paceline.devices.testing.adb_daemon import AdbDaemon, RealAdbd
from paceline.devices.testing.benchmark_model_stand_in import executable
from paceline.devices.testing.phone import Phone
from paceline.devices.transports.adb import AdbTransport
from paceline.devices.transports.local import LocalTransport
from paceline.errors import DeviceError, TransientDeviceError
from paceline.exporters.operator_models import write_operator
from paceline.measurement import Artifact, Bench, Failure, TransientFailure

from adb_phones import adb_server, children_of, needs_adb, programs
from samples import conv

QUICK = Bench("benchmark_model", batches=2, min_invokes=10, batch_ms=1.0, warmup_ms=0.5, repeats=1, tolerance=9.0, affinity=(8,))

pytestmark = needs_adb


@pytest.fixture(scope="module", params=programs())
def adb(request: pytest.FixtureRequest) -> Path:
    return programs()[request.param]


@pytest.fixture(scope="module")
def port(adb: Path) -> Iterator[int]:
    with adb_server(adb) as port:
        yield port


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return executable(tmp_path_factory.mktemp("built"))


@pytest.fixture(scope="module")
def daemon(tmp_path_factory: pytest.TempPathFactory, port: int) -> Iterator[AdbDaemon]:
    with AdbDaemon(tmp_path_factory.mktemp("phone"), Phone()) as daemon:
        yield daemon


@pytest.fixture(scope="module")
def attached(daemon: AdbDaemon, program: Path, adb: Path, port: int) -> Iterator[ComposedDevice]:
    with open_adb("phone", daemon.address, program, adb=adb, server_port=port, wait_s=0.0, quarantine_after=None) as device:
        yield device


@pytest.fixture
def device(attached: ComposedDevice, daemon: AdbDaemon) -> Iterator[ComposedDevice]:
    yield attached
    daemon.faults.clear()
    daemon.phone.thermal_override = None


@pytest.fixture(scope="module")
def slow(tmp_path_factory: pytest.TempPathFactory) -> Sequence[Artifact]:
    """Far above the microseconds that benchmark_model counts."""
    folder = tmp_path_factory.mktemp("slow")
    return [
        write_operator(spec, folder) for spec in (conv(48, 32, 64, 3), conv(48, 32, 32, 3, depthwise=True), conv(64, 64, 128, 3))
    ]


class TestPhone(DeviceTestSuite):
    @pytest.fixture
    def device(self, device: ComposedDevice) -> ComposedDevice:
        return device

    @pytest.fixture(params=["xnnpack", "builtin"])
    def bench(self, request: pytest.FixtureRequest) -> Bench:
        return replace(QUICK, delegate=request.param)

    @pytest.fixture
    def models(self, slow: Sequence[Artifact]) -> Sequence[Artifact]:
        return slow


@pytest.fixture(scope="module")
def over_real_adbd(tmp_path_factory: pytest.TempPathFactory, adb: Path, port: int, program: Path) -> Iterator[ComposedDevice]:
    """There is no Android behind it: this machine's own Linux."""
    with RealAdbd(Path(os.environ["PACELINE_ADBD"]), tmp_path_factory.mktemp("adbd")) as adbd:
        transport = AdbTransport(adbd.address, adb, port, folder=f"{adbd.base}/data/local/tmp/paceline")
        runner = BenchmarkModelRunner(transport, program)
        with ComposedDevice("board", "adb", transport, LinuxSystem(transport), runner, Gate()) as device:
            yield device


@pytest.mark.skipif("PACELINE_ADBD" not in os.environ, reason="PACELINE_ADBD doesn't name an adbd (tests/devices/build_adbd.sh)")
class TestOverRealAdbd(DeviceTestSuite):
    @pytest.fixture
    def device(self, over_real_adbd: ComposedDevice) -> ComposedDevice:
        return over_real_adbd

    @pytest.fixture
    def bench(self) -> Bench:
        return replace(QUICK, affinity=(0,))

    @pytest.fixture
    def models(self, slow: Sequence[Artifact]) -> Sequence[Artifact]:
        return slow


def test_its_fingerprint_names_phone_and_program(device: ComposedDevice, program: Path) -> None:
    facts = device.info.facts
    assert facts["soc"] == "Paceline I9"
    assert facts["tool"] == "tflite"
    assert facts["binary"] == hashlib.sha256(program.read_bytes()).hexdigest()[:16]
    assert device.default_bench().affinity == (8,)


def test_a_gpu_that_leaves_the_model_to_the_cpu_is_a_failure(device: ComposedDevice, slow: Sequence[Artifact]) -> None:
    (found,) = device.measure(slow[:1], replace(QUICK, delegate="gpu"))
    assert found.batch_ms == ()
    assert found.failure is not None
    assert "delegate 'gpu' " in found.failure.reason
    assert "CPU" in found.failure.reason


def test_a_cable_that_is_pulled_in_mid_run_spoils_no_figure(
    device: ComposedDevice, daemon: AdbDaemon, slow: Sequence[Artifact]
) -> None:
    """Wherever it happens; what has no figure then says why, and the next measurement is as if nothing had been."""
    for commands in (5, 8, 11):
        daemon.faults.drop_after = commands
        (found,) = device.measure(slow[:1], QUICK)
        assert found.failure is None or isinstance(found.failure, TransientFailure)
        assert daemon.faults.drop_after is None
    assert device.measure(slow[:1], QUICK)[0].failure is None


def test_a_phone_that_was_emptied_gets_everything_again(
    device: ComposedDevice, daemon: AdbDaemon, slow: Sequence[Artifact]
) -> None:
    assert device.measure(slow[:1], QUICK)[0].failure is None
    shutil.rmtree(daemon.path("/data/local/tmp/paceline"))
    assert device.measure(slow[:1], QUICK)[0].failure is None


def test_a_disk_that_fills_is_an_error_with_what_is_free(
    device: ComposedDevice, daemon: AdbDaemon, slow: Sequence[Artifact], tmp_path: Path
) -> None:
    new = replace(slow[0], path=tmp_path / "new.tflite")
    new.path.write_bytes(slow[0].path.read_bytes() + b"\0" * 5000)
    daemon.faults.disk_free = 1000
    with pytest.raises(DeviceError, match=r"doesn't fit .* kB are free"):
        device.measure([new], QUICK)


def test_a_hot_phone_is_refused_with_advice(device: ComposedDevice, daemon: AdbDaemon, slow: Sequence[Artifact]) -> None:
    daemon.phone.thermal_override = 2
    with pytest.raises(TransientDeviceError, match=r"throttles \(thermal status 2, moderate\): let it lie"):
        device.measure(slow[:1], QUICK)
    assert not device.health().ready


# The runner over any transport, with programs that misbehave


def runner(folder: Path, script: str, **others: object) -> BenchmarkModelRunner:
    """A benchmark_model that knows some flags, and then does as `script` says."""
    program = folder / "benchmark_model"
    flags = "--graph --num_threads --num_runs --min_secs --max_secs --warmup_runs --warmup_min_secs --use_xnnpack --use_gpu"
    flags += " --gpu_precision_loss_allowed --external_delegate_path"
    lines = "\\n".join(f"\t{flag}=x\tstring\toptional" for flag in flags.split())
    program.write_text(f"#!/bin/sh\nif [ \"$1\" = --help ]; then printf 'Flags:\\n{lines}\\n'; exit 1; fi\n{script}\n")
    program.chmod(0o755)
    return BenchmarkModelRunner(LocalTransport(folder / "device"), program, **others)  # type: ignore[arg-type]


def printing(*lines: str) -> str:
    return f"cat <<'END'\n{chr(10).join(lines)}\nEND"


ALONE = replace(QUICK, affinity=())
NOT_EXECUTED = "the model graph will not be executed by the delegate."
FIGURES = (
    "count=10 first=9 curr=9 min=8 max=9 avg=8.5 std=0",
    "count=50 first=7 curr=7 min=6 max=7 avg=6.5 std=0",
    "Inference timings in us: Init: 10, First inference: 9, Warmup (avg): 8.5, Inference (avg): 6.5",
)


@pytest.mark.parametrize(
    ("script", "reason", "transient"),
    [
        ("kill -SEGV $$", "crashed (SIGSEGV)", False),
        ("kill -KILL $$", "was killed (SIGKILL)", True),
        (
            "echo STARTING!; echo ERROR: Didn\\'t find op for builtin opcode; echo 'Failed to load model x'; exit 1",
            "Failed to load",
            False,
        ),
        ("echo STARTING!; echo 'Benchmarking failed.'; exit 1", "Benchmarking failed", False),
        ("echo STARTING!; exit 3", "exit code 3", False),
        ("echo STARTING!", "printed no statistics of the timed runs", False),
        ("sleep 54321", "took longer than", True),
    ],
)
def test_what_the_program_does_wrong_is_a_failure(
    tmp_path: Path, models: Sequence[Artifact], script: str, reason: str, transient: bool
) -> None:
    found = runner(tmp_path, script).session(replace(ALONE, timeout_s=1.0 if "sleep" in script else 20.0)).batch(models[0])
    assert isinstance(found, Failure)
    assert reason in found.reason
    assert isinstance(found, TransientFailure) == transient
    assert not children_of("sleep 54321")


def test_a_wrong_program_is_refused(tmp_path: Path) -> None:
    runner(tmp_path, "true")
    sha256 = hashlib.sha256((tmp_path / "benchmark_model").read_bytes()).hexdigest()
    assert runner(tmp_path, "true", sha256=sha256.upper()).delegates()[0] == "xnnpack"
    with pytest.raises(DeviceError, match=f"its SHA-256 is {sha256}, not 00"):
        runner(tmp_path, "true", sha256="00")
    with pytest.raises(DeviceError, match="Name a benchmark_model built for the device"):
        BenchmarkModelRunner(LocalTransport(tmp_path / "device"), tmp_path / "nowhere")
    (tmp_path / "other").write_bytes(b"\x7fELF of another processor")
    (tmp_path / "other").chmod(0o755)
    with pytest.raises(DeviceError, match=r"can't be started on .*, is it built for it\?|lists no flags"):
        BenchmarkModelRunner(LocalTransport(tmp_path / "device"), tmp_path / "other").facts()


def test_libraries_lie_where_the_loader_looks(tmp_path: Path, models: Sequence[Artifact]) -> None:
    library = tmp_path / "libdelegate.so"
    library.write_bytes(b"a delegate")
    script = 'echo STARTING!; echo "ERROR: $LD_LIBRARY_PATH $(ls $LD_LIBRARY_PATH) $8"; exit 4'
    ready = runner(tmp_path, script, libraries=[library])
    bench = replace(ALONE, delegate="external", options=(("external_delegate_path", "libdelegate.so"),))
    found = ready.session(bench).batch(models[0])
    assert isinstance(found, Failure)
    folder = found.reason.split("ERROR: ")[1].split()[0]
    assert f"{folder} libdelegate.so" in found.reason
    assert f"--external_delegate_path={folder}/libdelegate.so" in found.reason
    assert Path(folder, "libdelegate.so").read_bytes() == b"a delegate"
    assert len(ready.facts()["libraries"]) == 16


@pytest.mark.parametrize("claim", ["full", "partial"])
def test_an_accelerator_may_take_all_or_a_part(tmp_path: Path, models: Sequence[Artifact], claim: str) -> None:
    verdict = {
        "full": "completely executed by the delegate.",
        "partial": "partially executed by the delegate w/ 2 delegate kernels.",
    }
    line = f"Explicitly applied GPU delegate, and the model graph will be {verdict[claim]}"
    session = runner(tmp_path, printing("STARTING!", line, *FIGURES)).session(replace(ALONE, delegate="gpu"))
    batch = session.batch(models[0])
    assert not isinstance(batch, Failure)
    assert batch.summary is not None
    assert (batch.summary.count, batch.low) == (50, 0.006)
    found = session.delegation(models[0])
    assert found is not None
    assert (found.state, found.partitions) == (claim, {"full": 1, "partial": 2}[claim])


@pytest.mark.parametrize(
    ("lines", "reason"),
    [
        (
            ("Though GPU delegate is explicitly applied, the model graph will not be executed by the delegate.",),
            "took no operator",
        ),
        (("Disallowed CPU fallback detected.", "Benchmarking failed."), "left operators to the CPU"),
        ((), "doesn't say whether delegate 'gpu' ran the model"),
    ],
)
def test_a_figure_of_an_accelerator_is_one(
    tmp_path: Path, models: Sequence[Artifact], lines: tuple[str, ...], reason: str
) -> None:
    figures = () if "Benchmarking failed." in lines else FIGURES
    found = runner(tmp_path, printing("STARTING!", *lines, *figures)).session(replace(ALONE, delegate="gpu")).batch(models[0])
    assert isinstance(found, Failure)
    assert reason in found.reason


def test_less_than_a_microsecond_is_no_figure(tmp_path: Path, models: Sequence[Artifact]) -> None:
    figures = (FIGURES[0], "count=50 first=1 curr=0 min=0 max=1 avg=0.5 std=0", FIGURES[2].replace("6.5", "0.5"))
    found = runner(tmp_path, printing("STARTING!", *figures)).session(ALONE).batch(models[0])
    assert isinstance(found, Failure)
    assert "less than a microsecond" in found.reason


def test_figures_that_contradict_each_other_are_none(tmp_path: Path, slow: Sequence[Artifact], program: Path) -> None:
    """A result file that is not of this run."""
    liar = tmp_path / "benchmark_model"
    shutil.copy(program, tmp_path / "true_one")
    true = tmp_path / "true_one"
    liar.write_text(
        f"""#!/bin/sh
{true} $(echo "$@" | sed 's/--num_runs=[^ ]*/--num_runs=1/; s/--min_secs=[^ ]*/--min_secs=0/') >/dev/null
"""
        f"""exec {true} $(echo "$@" | sed 's/--result_file_path=[^ ]*//')\n"""
    )
    liar.chmod(0o755)
    found = BenchmarkModelRunner(LocalTransport(tmp_path / "device"), liar).session(ALONE).batch(slow[0])
    assert isinstance(found, TransientFailure)
    assert "measure again" in found.reason
