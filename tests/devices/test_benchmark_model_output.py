"""What the parser makes of each format of benchmark_model's output."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from paceline.devices.benchmark_model.delegation import delegate_name
from paceline.devices.benchmark_model.lines import messages, statistics
from paceline.devices.benchmark_model.output import BenchmarkOutput, parse
from paceline.errors import DeviceError, TransientDeviceError
from paceline.measurement import Delegation, Summary

SAMPLES = Path(__file__).parent / "benchmark_model_samples"


def text_of(name: str) -> str:
    return (SAMPLES / f"{name}.txt").read_text(encoding="utf-8")


def without_operators(output: BenchmarkOutput) -> BenchmarkOutput:
    return replace(output, operators=(), operators_complete=False, internal=(), initialization=())


ON_THE_CPU = BenchmarkOutput(
    "tflite",
    Summary(50, 8.95, 9.0505, 9.3, 0.06),
    Summary(10, 8.9, 9.0225, 9.2, 0.08),
    init_ms=2.125,
    first_ms=9.1,
    warmup_avg_ms=9.0225,
    inference_avg_ms=9.0505,
)
EXPECTED: dict[str, BenchmarkOutput] = {
    "classic_table": BenchmarkOutput(
        "tflite",
        Summary(20, 1327.568, 1450.34, 1589.954, 59.798),
        Summary(1, 1512.39, 1512.39, 1512.39, 0.0),
        init_ms=3.381,
        first_ms=1512.39,
        warmup_avg_ms=1512.39,
        inference_avg_ms=1450.34,
        model_mb=4.23012,
        init_mb=2.21094,
        overall_mb=26.0859,
        peak_mb=31.25,
        rss_mb=37.0,
    ),
    "percentiles_with_severity": BenchmarkOutput(
        "tflite",
        Summary(50, 0.228, 0.23052, 0.241, 0.002, 0.228, 0.23, 0.236),
        Summary(9, 0.229, 0.250111, 0.402, 0.053, 0.229, 0.231, 0.402),
        init_ms=7.5,
        first_ms=0.402,
        warmup_avg_ms=0.250111,
        inference_avg_ms=0.23052,
        model_mb=0.5,
        delegations=(Delegation("xnnpack", 3, 12),),
    ),
    "all_same": BenchmarkOutput(
        "tflite",
        Summary(500, 0.003, 0.003, 0.003, 0.0, 0.003, 0.003, 0.003),
        Summary(60, 0.002, 0.002, 0.002, 0.0, 0.002, 0.002, 0.002),
        init_ms=0.25,
        first_ms=0.002,
        warmup_avg_ms=0.002,
        inference_avg_ms=0.003,
    ),
    "logcat": BenchmarkOutput(
        "tflite",
        Summary(51, 85.1, 86.0002, 91.0, 0.905),
        Summary(6, 87.0, 90.0005, 99.0, 4.111),
        init_ms=119.25,
        first_ms=99.0,
        warmup_avg_ms=90.0005,
        inference_avg_ms=86.0002,
        init_mb=-0.5,
        overall_mb=12.25,
    ),
    "gpu_full": BenchmarkOutput(
        "tflite",
        Summary(50, 7.7, 7.9055, 8.3, 0.099),
        Summary(4, 7.9, 8.2225, 9.0, 0.45),
        init_ms=640.25,
        first_ms=9.0,
        warmup_avg_ms=8.2225,
        inference_avg_ms=7.9055,
        delegations=(Delegation("gpu", 1, 31, ()),),
    ),
    "gpu_partial": BenchmarkOutput(
        "tflite",
        Summary(50, 14.4, 14.9504, 15.8, 0.21),
        Summary(5, 14.5, 16.1002, 21.0, 2.4),
        init_ms=812.5,
        first_ms=21.0,
        warmup_avg_ms=16.1002,
        inference_avg_ms=14.9504,
        model_mb=9.75,
        delegations=(Delegation("gpu", 2, 59, ("BROADCAST_TO", "RESHAPE")),),
        unsupported=("BROADCAST_TO: Operation is not supported.", "RESHAPE: Tensor dimensions must be less than 5"),
    ),
    "silent_fallback": replace(ON_THE_CPU, delegations=(Delegation("gpu", 0, 0),)),
    "unsupported_platform": replace(ON_THE_CPU, delegations=(Delegation("nnapi", 0, 0),)),
    "unknown_flag": replace(ON_THE_CPU, failure="Unconsumed cmdline flags: --use_hexagon=true"),
    "nnapi_failure": BenchmarkOutput(
        "tflite",
        failure="Failed to apply NNAPI delegate. "
        "(NN API returned error ANEURALNETWORKS_OP_FAILED at line 4711 while completing NNAPI compilation.)",
    ),
    "csv": BenchmarkOutput(
        "tflite",
        Summary(50, 0.097, 0.1015, 0.13, 0.008),
        init_ms=1.5,
        first_ms=0.15,
        warmup_avg_ms=0.15,
        inference_avg_ms=0.1015,
        delegations=(Delegation("xnnpack", 1, None, ("CONV_2D", "SOFTMAX")),),
    ),
    "subgraphs": BenchmarkOutput(
        "tflite",
        Summary(20, 0.997, 1.0115, 1.13, 0.008),
        init_ms=1.5,
        first_ms=1.5,
        warmup_avg_ms=1.5,
        inference_avg_ms=1.0115,
        delegations=(Delegation("xnnpack", 2, 3, ("WHILE",)),),
    ),
    "litert": BenchmarkOutput(
        "litert",
        Summary(90, 10.995, 11.2185, 12.208, 0.203, 11.001, 11.19, 11.702),
        Summary(40, 11.95, 12.4006, 18.034, 0.95, 11.96, 12.01, 13.3),
        init_ms=1290.38,
        first_ms=18.03,
        warmup_avg_ms=12.40,
        inference_avg_ms=11.22,
        model_mb=14.5,
        init_mb=88.5,
        overall_mb=91.25,
        peak_mb=104.75,
        delegations=(Delegation("gpu", 1, 66, ()),),
    ),
    "litert_block": BenchmarkOutput(
        "litert",
        Summary(60, 29.4, 30.2, 33.86, 0.92),
        init_ms=744.73,
        first_ms=41.04,
        warmup_avg_ms=40.04,
        inference_avg_ms=30.2,
    ),
    "litert_profile": BenchmarkOutput(
        "litert",
        Summary(60, 29.4, 30.2, 33.86, 0.92),
        init_ms=744.73,
        first_ms=41.04,
        warmup_avg_ms=40.04,
        inference_avg_ms=30.2,
    ),
    "first_generation": BenchmarkOutput(
        "tflite",
        Summary(15, 16.699, 16.7676, 16.838, 0.039),
        Summary(7, 16.709, 18.6059, 27.425, 3.944),
        init_ms=5.25,
        warmup_avg_ms=18.6059,
        inference_avg_ms=16.7676,
        init_mb=3.5,
        overall_mb=9.25,
    ),
    "old_table": BenchmarkOutput("tflite", init_ms=0.467, warmup_avg_ms=5.235, inference_avg_ms=4.7609),
}


def rounded(output: BenchmarkOutput) -> str:
    """As text with figures of ten digits: 1e-3 is no binary fraction."""

    def shown(value: object) -> str:
        if isinstance(value, float):
            return f"{value:.10g}"
        if isinstance(value, Summary):
            return str([shown(v) for v in vars(value).values()])
        return repr(value)

    return "\n".join(f"{name}: {shown(value)}" for name, value in vars(output).items())


def test_every_fixture_is_expected() -> None:
    assert {p.stem for p in SAMPLES.glob("*.txt")} == {*EXPECTED, "help_tflite", "help_litert"}


@pytest.mark.parametrize("name", EXPECTED)
def test_reads_every_format(name: str) -> None:
    assert rounded(without_operators(parse(text_of(name)))) == rounded(EXPECTED[name])


@pytest.mark.parametrize("name", EXPECTED)
def test_streams_one_after_the_other_say_the_same(name: str) -> None:
    lines = text_of(name).splitlines(keepends=True)
    logged = [line for line in lines if line.startswith(("INFO: Created", "INFO: Replacing"))]
    told = [line for line in lines if line not in logged]
    assert parse("".join(told + logged)) == parse("".join(lines))


@pytest.mark.parametrize("name", [n for n, e in EXPECTED.items() if e.inference])
def test_a_truncated_output_gives_no_figure_of_the_warmup(name: str) -> None:
    whole = parse(text_of(name))
    seen = set()
    for cut in range(0, len(text_of(name)), 3):
        try:
            output = parse(text_of(name)[:cut])
        except DeviceError:
            continue
        seen.add(output.inference)
        assert output.inference_avg_ms in (None, whole.inference_avg_ms)
    assert None in seen
    assert {s for s in seen if s} <= {whole.inference}


def test_litert_falls_back_on_its_block_of_results() -> None:
    for damaged in (text_of("litert").replace("count=90", "cound=90"), text_of("litert").replace("count=90", "count=91")):
        assert parse(damaged).inference == Summary(90, 11.0, 11.22, 12.21, 0.20)


def test_without_its_line_the_warmup_is_not_taken_for_the_runs() -> None:
    same = "count=9 first=9 curr=5 min=5 max=9 avg=5.5 std=1\n"
    final = "Inference timings in us: Init: 7, First inference: 9, Warmup (avg): 5.5, Inference (avg): 5.5\n"
    assert parse(same + final).inference is None
    assert parse(same + same + final).inference == Summary(9, 0.005, 0.0055, 0.009, 0.001)


def test_a_failure_is_one_also_without_the_end_of_its_line() -> None:
    assert parse("STARTING!\nDisallowed CPU fallback detected.").failure == "Disallowed CPU fallback detected."


def test_contradictory_statistics_are_refused() -> None:
    with pytest.raises(TransientDeviceError, match="contradict themselves"):
        parse(text_of("gpu_full").replace("min=7700", "min=9700"))
    with pytest.raises(TransientDeviceError, match="contradict themselves"):
        parse(text_of("litert_block").replace("29.40", "39.40"))


@pytest.mark.parametrize("text", ["", "sh: ./benchmark_model: not found\n", "Thermal Status: 0\n"])
def test_other_text_is_refused(text: str) -> None:
    with pytest.raises(DeviceError, match="not the output of benchmark_model"):
        parse(text)


@pytest.mark.parametrize(
    ("counts", "own", "where", "delegation"),
    [
        ("539 out of 548", "TfLiteXNNPackDelegate", "19 partitions for subgraph 0 (main).", ("xnnpack", 10, 539)),
        ("5 out of 64", "TfLiteNnapiDelegate", "5 partitions for the whole graph.", ("nnapi", 3, 5)),
        ("2 out of 64", "TfLiteHexagonDelegate", "5 partitions for subgraph 0.", ("hexagon", 2, 2)),
        ("7", "TfLiteGpuDelegateV2", "2 partitions.", ("gpu", 1, 7)),
    ],
)
def test_pieces_in_between_are_not_the_delegates(counts: str, own: str, where: str, delegation: tuple[str, int, int]) -> None:
    line = f"VERBOSE: Replacing {counts} node(s) with delegate ({own}) node, yielding {where}"
    (found,) = parse(f"STARTING!\n{line}\n").delegations
    assert (found.delegate, found.partitions, found.delegated) == delegation
    assert found.state == "partial"


def test_an_external_delegate_goes_by_two_names() -> None:
    text = (
        "STARTING!\nReplacing 4 out of 4 node(s) with delegate (TfLiteQnnDelegate) node, yielding 1 partitions.\n"
        "Explicitly applied EXTERNAL delegate, and the model graph will be completely executed by the delegate.\n"
    )
    assert parse(text).delegations == (Delegation("external", 1, 4, ()),)
    assert parse(text).delegation("external") == parse(text).delegations[0]
    assert parse(text).delegation("gpu") is None


def test_two_delegates_share_a_model() -> None:
    text = text_of("gpu_partial") + (
        "INFO: Replacing 1 out of 4 node(s) with delegate (TfLiteXNNPackDelegate) node, yielding 3 partitions for subgraph 0.\n"
    )
    assert parse(text).delegations == (Delegation("gpu", 2, 59), Delegation("xnnpack", 1, 1))


@pytest.mark.parametrize(
    ("own", "name"),
    [
        ("TfLiteGpuDelegateV2", "gpu"),
        ("GPU", "gpu"),
        ("LITERT_CL", "gpu"),
        ("NNAPI", "nnapi"),
        ("TfLiteNnapiDelegate", "nnapi"),
        ("TfLiteXNNPackDelegate", "xnnpack"),
        ("Hexagon", "hexagon"),
        ("DispatchDelegate", "npu"),
        ("TfLiteQnnDelegate", "TfLiteQnnDelegate"),
    ],
)
def test_delegates_are_named_as_bench_names_them(own: str, name: str) -> None:
    assert delegate_name(own) == name


@pytest.mark.parametrize(
    "line",
    [
        "STARTING!",
        "INFO: STARTING!",
        "I tflite  : STARTING!",
        "I/tflite  (21767): STARTING!",
        "05-31 10:31:13.022 21767 21771 I tflite  : STARTING!",
        "INFO: [benchmark_litert_model.h:92] STARTING!",
        "I0000 00:00:1758.123456    4711 delegate_kernel.cc:866] STARTING!",
    ],
)
def test_prefixes_of_logs_are_taken_off(line: str) -> None:
    assert messages(line + "\nhalf a li") == ["STARTING!"]


@given(st.lists(st.integers(1, 10**9), min_size=2, max_size=40))
def test_statistics_are_read_back(us: list[int]) -> None:
    count, average, middle = len(us), sum(us) / len(us), sorted(us)[len(us) // 2]
    if min(us) == max(us):
        line = f"count={count} curr={us[-1]}(all same) p5={us[0]} median={us[0]} p95={us[0]}"
    else:
        line = (
            f"count={count} first={us[0]} curr={us[-1]} min={min(us)} max={max(us)} avg={average:.6g} std=1 "
            f"p5={min(us)} median={middle} p95={max(us)}"
        )
    found = statistics(line)
    assert found is not None
    assert (found.count, found.min, found.max) == (count, min(us) / 1000, max(us) / 1000)
    assert found.avg == pytest.approx(average / 1000, rel=1e-5)
    assert (found.low, found.median) == (min(us) / 1000, middle / 1000)


def test_an_empty_batch_has_no_statistics() -> None:
    assert statistics("count=0 p5=0 median=0 p95=0") is None
    assert statistics("Timings (microseconds): count=50 first=1 curr=1 min=1 max=2 avg=1.5 std=0") is None
