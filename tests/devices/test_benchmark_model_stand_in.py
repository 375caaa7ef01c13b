"""The stand-in for benchmark_model: its flags, lines and exit codes, and that it runs models for real."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Sequence
from pathlib import Path

import pytest

from paceline.devices.benchmark_model.flags import arguments, delegates, known_flags, tool_of
from paceline.devices.benchmark_model.output import parse
from paceline.devices.benchmark_model.result_proto import decode
from paceline.devices.testing.benchmark_model_stand_in import Stats, executable
from paceline.errors import DeviceError
from paceline.measurement import Artifact, Bench, Delegation

BENCH = Bench(batch_ms=2.0, min_invokes=20, warmup_ms=1.0)


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return executable(tmp_path_factory.mktemp("phone"))


@pytest.fixture(scope="module")
def known(program: Path) -> frozenset[str]:
    done = run(program, "--help")
    assert done.returncode == 1
    return known_flags(done.stdout + done.stderr)


def run(program: Path, *flags: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [program, *flags], capture_output=True, text=True, timeout=60, stdin=subprocess.DEVNULL, env=os.environ | environment
    )


def text_of(done: subprocess.CompletedProcess[str]) -> str:
    return done.stdout + done.stderr


def flags(bench: Bench, model: Path, known: frozenset[str], profile: bool = False, result: str | None = None) -> list[str]:
    return arguments(bench, str(model), profile=profile, tool=tool_of(known), known_flags=known, result_file=result)


def test_is_the_classic_tool(known: frozenset[str]) -> None:
    assert tool_of(known) == "tflite"
    assert delegates(known) == ("xnnpack", "builtin", "gpu", "nnapi", "external")


def test_measures_as_its_bench_says(program: Path, known: frozenset[str], models: Sequence[Artifact], tmp_path: Path) -> None:
    result = tmp_path / "result.pb"
    done = run(program, *flags(BENCH, models[2].path, known, result=str(result)))
    assert done.returncode == 0
    output = parse(text_of(done))
    assert output.failure is None
    assert output.inference is not None
    assert output.warmup is not None
    assert output.inference.count >= 20
    assert output.inference.p5 is not None
    assert None not in (output.init_ms, output.first_ms, output.init_mb, output.overall_mb)
    assert output.model_mb == pytest.approx(models[2].path.stat().st_size / 1e6, rel=1e-5)
    assert output.delegation("xnnpack") == Delegation("xnnpack", 1, 1, ())
    written = decode(result.read_bytes())
    assert written.inference.count == output.inference.count
    assert written.inference.avg == pytest.approx(output.inference.avg, rel=1e-5)
    assert (written.inference.low, written.first_ms) == pytest.approx((output.inference.low, output.first_ms))
    assert written.init_ms == pytest.approx(output.init_ms)


def test_the_bigger_model_takes_longer(program: Path, known: frozenset[str], models: Sequence[Artifact]) -> None:
    small, big = (parse(text_of(run(program, *flags(BENCH, models[i].path, known)))).inference for i in (0, 2))
    assert small is not None
    assert big is not None
    assert small.min < big.min


def test_builtin_kernels_know_no_delegate(program: Path, known: frozenset[str], models: Sequence[Artifact]) -> None:
    output = parse(text_of(run(program, *flags(Bench(delegate="builtin", batch_ms=1.0), models[0].path, known))))
    assert output.inference is not None
    assert output.delegations == ()


@pytest.mark.parametrize("delegate", ["xnnpack", "builtin"])
def test_times_operators(program: Path, known: frozenset[str], models: Sequence[Artifact], delegate: str) -> None:
    bench = Bench(delegate=delegate, batch_ms=1.0, min_invokes=20, warmup_ms=1.0)
    output = parse(text_of(run(program, *flags(bench, models[2].path, known, profile=True))))
    assert output.operators_complete
    assert [o.kind for o in output.operators] == (["CONV_2D"] if delegate == "builtin" else ["TfLiteXNNPackDelegate"])
    assert [o.delegated for o in output.operators] == [delegate == "xnnpack"]
    assert bool(output.internal) == (delegate == "xnnpack")
    assert output.operators[0].run_ms > 0
    assert [o.kind for o in output.initialization] == ["AllocateTensors"]


def test_table_and_csv_say_the_same(program: Path, models: Sequence[Artifact], tmp_path: Path) -> None:
    shared = [
        f"--graph={models[2].path}",
        "--num_runs=5",
        "--min_secs=0.001",
        "--warmup_min_secs=0.001",
        "--enable_op_profiling=true",
    ]
    table = parse(text_of(run(program, *shared)))
    file = tmp_path / "ops.csv"
    csv = run(program, *shared, "--op_profiling_output_mode=csv", f"--op_profiling_output_file={file}")
    assert "Run Order" not in csv.stdout
    written = parse(file.read_text(encoding="utf-8"))
    assert [(o.kind, o.name, o.index) for o in written.operators] == [(o.kind, o.name, o.index) for o in table.operators]
    assert [(o.kind, o.name, o.index) for o in written.internal] == [(o.kind, o.name, o.index) for o in table.internal]
    assert written.operators_complete
    assert written.internal


def test_a_phone_without_gpu_says_so_and_runs_on_the_cpu(program: Path, models: Sequence[Artifact]) -> None:
    done = run(program, f"--graph={models[0].path}", "--num_runs=2", "--min_secs=0", "--warmup_min_secs=0", "--use_gpu=true")
    assert done.returncode == 0
    output = parse(text_of(done))
    assert output.inference is not None
    gpu = output.delegation("gpu")
    assert gpu is not None
    assert gpu.state == "none"


def test_full_delegation_is_enforced(program: Path, known: frozenset[str], models: Sequence[Artifact]) -> None:
    bench = Bench(delegate="gpu", batch_ms=1.0, options=(("require_full_delegation", "true"),))
    done = run(program, *flags(bench, models[0].path, known))
    assert done.returncode == 1
    output = parse(text_of(done))
    assert output.failure == "Disallowed CPU fallback detected."
    assert output.inference is None


@pytest.mark.parametrize("claim", ["full", "partial"])
def test_may_claim_a_gpu(program: Path, known: frozenset[str], models: Sequence[Artifact], claim: str) -> None:
    bench = Bench(delegate="gpu", batch_ms=1.0, options=(("require_full_delegation", "false"),))
    output = parse(text_of(run(program, *flags(bench, models[0].path, known), BENCHMARK_MODEL_GPU=claim)))
    gpu = output.delegation("gpu")
    assert gpu is not None
    assert gpu.state == claim
    assert output.inference is not None


def test_nnapi_is_not_there(program: Path, known: frozenset[str], models: Sequence[Artifact]) -> None:
    output = parse(text_of(run(program, *flags(Bench(delegate="nnapi", batch_ms=1.0), models[0].path, known))))
    nnapi = output.delegation("nnapi")
    assert nnapi is not None
    assert nnapi.state == "none"


@pytest.mark.parametrize(
    ("given", "failure"),
    [
        (["--graph=/nowhere.tflite"], "Failed to load model /nowhere.tflite (Could not open '/nowhere.tflite'.)"),
        (["--graph={corrupt}"], "Failed to load model {corrupt} (The model is not a valid Flatbuffer buffer)"),
        ([], "Please specify the name of your TF Lite input file with --graph"),
        (["--graph={model}", "--num_runs=many"], "Failed to parse flag 'num_runs' against argv '--num_runs=many'"),
        (["--graph={model}", "--use_gpu=yes"], "Failed to parse flag 'use_gpu' against argv '--use_gpu=yes'"),
        (["--graph={model}", "--require_full_delegation=1"], "Disallowed CPU fallback detected."),
        (
            ["--graph={model}", "--enable_op_profiling=1", "--op_profiling_output_mode=xml"],
            "Output mode xml is not supported.",
        ),
        (["--graph={model}", "--external_delegate_path=/nowhere.so"], "Failed to apply EXTERNAL delegate."),
    ],
)
def test_fails_as_the_tool_does(
    program: Path, models: Sequence[Artifact], tmp_path: Path, given: list[str], failure: str
) -> None:
    corrupt = tmp_path / "corrupt.tflite"
    corrupt.write_bytes(models[0].path.read_bytes()[:200])
    done = run(program, *(flag.format(model=models[0].path, corrupt=corrupt) for flag in given))
    assert done.returncode == 1
    assert done.stderr.endswith("Benchmarking failed.\n")
    output = parse(text_of(done))
    assert output.failure is not None
    assert output.failure.startswith(failure.format(corrupt=corrupt))
    assert output.inference is None


def test_unknown_flags_are_warned_of_and_left_out(program: Path, models: Sequence[Artifact]) -> None:
    shared = [f"--graph={models[0].path}", "--num_runs=2", "--min_secs=0", "--warmup_min_secs=0"]
    done = run(program, *shared, "--use_hexagon=true")
    assert done.returncode == 0
    assert parse(text_of(done)).failure == "Unconsumed cmdline flags: --use_hexagon=true"


def test_a_bench_it_can_not_do_is_refused_before_it_runs(known: frozenset[str], models: Sequence[Artifact]) -> None:
    with pytest.raises(DeviceError, match="hexagon"):
        flags(Bench(delegate="hexagon"), models[0].path, known)


def test_statistics_are_printed_as_the_tool_prints_them() -> None:
    assert Stats([]).line == "count=0 p5=0 median=0 p95=0"
    assert Stats([7]).line == "count=1 curr=7 p5=7 median=7 p95=7"
    assert Stats([7, 7]).line == "count=2 curr=7(all same) p5=7 median=7 p95=7"
    assert Stats([4000000, 1, 3]).line == (
        "count=3 first=4000000 curr=3 min=1 max=4000000 avg=1.33333e+06 std=1885617 p5=1 median=3 p95=4000000"
    )
