"""What benchmark_model's output says: figures, who ran the operators, or why there are no figures."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from paceline.devices.benchmark_model.delegation import read_delegations, read_unsupported
from paceline.devices.benchmark_model.lines import NUMBER, consistent, errors, messages, statistics
from paceline.devices.benchmark_model.operator_table import OperatorTime, read_tables
from paceline.errors import DeviceError, TransientDeviceError
from paceline.measurement import Delegation, Summary

Tool = Literal["tflite", "litert"]


@dataclass(frozen=True)
class BenchmarkOutput:
    """Times in milliseconds, memory in MB; None where the output doesn't say.

    `inference` are the statistics of the timed runs, only there where the tool came to its end and its final line confirms
    them; `warmup` those of the runs before, of which `first_ms` was the first. `init_mb` and `overall_mb`: memory that was added
    by loading and by running the model. `delegations`: every delegate that was asked for or took part. `unsupported`: what a
    delegate refused, and why. `failure`: why the figures must not be used, or that there are none. `operators` of the regular
    runs, a delegate's kernel being one row, are all of them where `operators_complete`; `internal` are the operators inside of
    delegates' kernels; `initialization` what was profiled before the first run.
    """

    tool: Tool
    inference: Summary | None = None
    warmup: Summary | None = None
    init_ms: float | None = None
    first_ms: float | None = None
    warmup_avg_ms: float | None = None
    inference_avg_ms: float | None = None
    model_mb: float | None = None
    init_mb: float | None = None
    overall_mb: float | None = None
    peak_mb: float | None = None
    rss_mb: float | None = None
    delegations: tuple[Delegation, ...] = ()
    unsupported: tuple[str, ...] = ()
    failure: str | None = None
    operators: tuple[OperatorTime, ...] = ()
    operators_complete: bool = False
    internal: tuple[OperatorTime, ...] = ()
    initialization: tuple[OperatorTime, ...] = ()

    def delegation(self, delegate: str) -> Delegation | None:
        """What the delegate of that name, as Bench spells it, took. None where the output doesn't tell."""
        return next((d for d in self.delegations if d.delegate == delegate), None)


# What the tool says at its end, by how much to divide it. Each pattern is one line's; the names are BenchmarkOutput's.
_FINAL = re.compile(
    rf"Inference timings in us: Init: (?P<init_ms>{NUMBER}), First inference: (?P<first_ms>{NUMBER}), "
    rf"Warmup \(avg\): (?P<warmup_avg_ms>{NUMBER}), Inference \(avg\): (?P<inference_avg_ms>{NUMBER})"
)
_FINAL_2019 = re.compile(
    rf"Average inference timings in us: Warmup: (?P<warmup_avg_ms>{NUMBER}), Init: (?P<init_ms>{NUMBER}), "
    rf"(?:no stats|Inference): (?P<inference_avg_ms>{NUMBER})"
)
_FIGURES = (
    (re.compile(rf"Initialized session in (?P<init_ms>{NUMBER})ms\.?"), 1),
    (_FINAL, 1000),
    (_FINAL_2019, 1000),
    (re.compile(rf"Model initialization: +(?P<init_ms>{NUMBER}) ms"), 1),
    (re.compile(rf"Warmup \(first\): +(?P<first_ms>{NUMBER}) ms"), 1),
    (re.compile(rf"Warmup \(avg\): +(?P<warmup_avg_ms>{NUMBER}) ms \(\d+ runs\)"), 1),
    (re.compile(rf"Inference \(avg\): +(?P<inference_avg_ms>{NUMBER}) ms \(\d+ runs\)"), 1),
    (re.compile(rf"The input model file size \(MB\): (?P<model_mb>{NUMBER})"), 1),
    (
        re.compile(
            r"(?:Memory footprint delta from the start of the tool|Peak memory footprint) \(MB\): "
            rf"init=(?P<init_mb>{NUMBER}) overall=(?P<overall_mb>{NUMBER})"
        ),
        1,
    ),
    (re.compile(rf"Overall peak memory footprint \(MB\) via periodic monitoring: (?P<peak_mb>{NUMBER})"), 1),
    (re.compile(rf"- VmRSS +: (?P<rss_mb>{NUMBER}) MB"), 1),
    (re.compile(rf"Init footprint: +(?P<init_mb>{NUMBER}) MB"), 1),
    (re.compile(rf"Overall footprint: +(?P<overall_mb>{NUMBER}) MB"), 1),
    (re.compile(rf"Peak memory: +(?P<peak_mb>{NUMBER}) MB"), 1),
)
_BLOCK = re.compile(rf"Inference \((?P<name>avg|min|max|std)\): +(?P<value>{NUMBER})(?: ms)?(?: \((?P<count>\d+) runs\))?")

_FAILURES = re.compile(
    r"Failed to (?:apply \S+ delegate|load model|compile model|initialize|allocate tensors|parse flag|create litert environment"
    r"|set thread number)"
    r"|Disallowed CPU fallback detected|Unconsumed cmdline flags:|Please specify the name of your TF Lite input file"
    r"|Required flag not provided|Signature not specified or incorrect|Run failed|Output mode.* is not supported"
    r"|Requesting full delegation and CPU acceleration are incompatible|Node number \d+ \(.*\) failed to (?:prepare|invoke)"
    r"|Segmentation fault|Aborted"
)
_FAILED = "Benchmarking failed."
_KNOWN = re.compile(r"STARTING!|Loaded model |Num threads: \[|Graph: \[|=+ BENCHMARK RESULTS =+|Running benchmark for at least")


def parse(text: str) -> BenchmarkOutput:
    """What `text` says: standard output and error of the tool, mixed or one after the other, or its lines of a logcat.

    Raises DeviceError where nothing in it comes from benchmark_model, TransientDeviceError where its figures contradict
    each other because it was damaged on its way.
    """
    lines = messages(text)
    stripped = [line.strip() for line in lines]
    litert = "BENCHMARK RESULTS" in text or "benchmark_litert_model" in text
    figures = _figures(stripped)
    batches = [summary for line in stripped if (summary := statistics(line)) is not None]
    tables = read_tables(lines)
    failure = _failure([line.strip() for line in messages(text + "\n")], errors(text))  # also from a line that is cut
    if not (figures or batches or tables.operators or tables.initialization or failure) and not any(map(_KNOWN.search, stripped)):
        raise DeviceError(f"this is not the output of benchmark_model: {text.strip()[:200]!r}")
    block = _block(stripped) if litert else None
    warmup, inference = _assign(batches, figures, block)
    return BenchmarkOutput(
        tool="litert" if litert else "tflite",
        inference=inference or block,
        warmup=warmup,
        **figures,
        delegations=read_delegations(stripped, tables.operators),
        unsupported=read_unsupported(stripped),
        failure=failure,
        operators=tables.operators,
        operators_complete=tables.complete,
        internal=tables.internal,
        initialization=tables.initialization,
    )


def _figures(lines: Sequence[str]) -> dict[str, float]:
    figures: dict[str, float] = {}
    for line in lines:
        for pattern, unit in _FIGURES:
            if found := pattern.fullmatch(line):
                figures |= {name: float(value) / unit for name, value in found.groupdict().items()}
    return figures


def _assign(
    batches: Sequence[Summary], figures: dict[str, float], block: Summary | None
) -> tuple[Summary | None, Summary | None]:
    """Which statistics are the warm-up's, which the timed runs': those that the tool's last lines repeat.

    LiteRT repeats all of them in `block`, with two decimals; the classic tool the averages, with six digits.
    """
    average, warm_average = figures.get("inference_avg_ms"), figures.get("warmup_avg_ms")
    digits = 0.00501 if block else 0.0
    if block:
        timed = [i for i, batch in enumerate(batches) if _repeats(block, batch, digits)]
    else:
        timed = [i for i, batch in enumerate(batches) if _close(average, batch.avg, digits)]
        if average == warm_average and len(batches) < 2:  # no telling which of the two it is
            timed = []
    before = batches[: timed[-1]] if timed else batches
    warm = [batch for batch in before if _close(warm_average, batch.avg, digits)]
    return (warm[-1] if warm else None), (batches[timed[-1]] if timed else None)


def _repeats(block: Summary, batch: Summary, digits: float) -> bool:
    pairs = ((block.min, batch.min), (block.avg, batch.avg), (block.max, batch.max), (block.std, batch.std))
    return block.count == batch.count and all(_close(a, b, digits) for a, b in pairs)


def _close(repeated: float | None, exact: float, digits: float) -> bool:
    return repeated is not None and abs(exact - repeated) <= (digits or 1e-5 * abs(repeated))


def _block(lines: Sequence[str]) -> Summary | None:
    """The statistics of LiteRT's block of results."""
    found = [match for line in lines if (match := _BLOCK.fullmatch(line))]
    values = {match["name"]: float(match["value"]) for match in found}
    counts = [int(match["count"]) for match in found if match["count"]]
    if len(found) != 4 or len(values) != 4 or len(counts) != 1:
        return None
    summary = Summary(counts[0], **values)
    if summary.count < 1 or not consistent(summary):
        raise TransientDeviceError(f"benchmark_model's statistics contradict themselves, measure again: {values}")
    return summary


def _failure(lines: Sequence[str], logged: Sequence[str]) -> str | None:
    """The line that names the failure best, and the first error that was logged on the way to it."""
    named = [line for line in lines if _FAILURES.match(line)]
    if not named and _FAILED not in lines:
        return None
    reason = named[0] if named else _FAILED
    causes = [line for line in logged if line != reason and line != _FAILED]
    return f"{reason} ({causes[0]})" if causes else reason
