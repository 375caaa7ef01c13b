"""benchmark_model's flags: what its `--help` offers, and the command line that measures as a Bench asks."""

from __future__ import annotations

import re

from paceline.devices.benchmark_model.lines import messages
from paceline.devices.benchmark_model.output import Tool
from paceline.errors import DeviceError
from paceline.measurement import Bench

_FLAG = re.compile(r"\s*--([A-Za-z][\w-]*)(?:=|\s|$)")

# The flag that switches a delegate on, per tool.
_SWITCH: dict[Tool, dict[str, str]] = {
    "tflite": {
        "xnnpack": "use_xnnpack",
        "builtin": "use_xnnpack",  # explicitly false: without the default XNNPACK delegate
        "gpu": "use_gpu",
        "nnapi": "use_nnapi",
        "hexagon": "use_hexagon",
        "external": "external_delegate_path",
    },
    "litert": {"xnnpack": "use_cpu", "gpu": "use_gpu", "npu": "use_npu"},
}
# What the Bench itself or the caller says; an option of the same name would contradict it.
_OWN = frozenset(
    name
    for names in (
        "graph num_threads num_runs min_secs max_secs warmup_runs warmup_min_secs run_delay run_frequency dry_run",
        "use_xnnpack use_cpu use_gpu use_npu use_nnapi use_hexagon result_file_path enable_op_profiling use_profiler",
        "gpu_precision_loss_allowed gpu-precision xnnpack_force_fp16 nnapi_allow_fp16 allow_fp16",
        "op_profiling_output_mode op_profiling_output_file profiling_output_csv_file",
    )
    for name in names.split()
)


def known_flags(help_text: str) -> frozenset[str]:
    """The names of the flags that `--help` lists (on standard error, with exit code 1 in the classic tool).

    Raises DeviceError where it lists none.
    """
    found = frozenset(flag[1] for line in messages(help_text + "\n") if (flag := _FLAG.match(line)))
    if "graph" not in found:
        raise DeviceError(
            f"--help of this binary lists no flags of benchmark_model; is it one? It said: {help_text.strip()[:200]!r}"
        )
    return found


def tool_of(known: frozenset[str]) -> Tool:
    """Which of the two tools of that name knows the flags `known`."""
    return "litert" if "use_cpu" in known else "tflite"


def delegates(known: frozenset[str]) -> tuple[str, ...]:
    """The delegates that a tool with the flags `known` was built with, as Bench spells them."""
    return tuple(name for name, flag in _SWITCH[tool_of(known)].items() if flag in known)


def arguments(
    bench: Bench, model: str, *, profile: bool, tool: Tool, known_flags: frozenset[str], result_file: str | None = None
) -> list[str]:
    """The arguments for one batch of `bench` on the file `model`; with `profile`, the operators are timed too (as CSV on
    standard output where the tool can, otherwise as its table). `result_file` is where the BenchmarkResult goes; it is left out
    where the tool can't write one.

    Every flag is one that the tool knows: it would ignore another with a warning. The tool has no flag for `max_invokes`, and
    CPUs are chosen outside, by `taskset`. Raises DeviceError where the tool lacks the delegate, the precision or an option.
    """
    flags = {
        "graph": model,
        "num_threads": str(bench.threads),
        "num_runs": str(bench.min_invokes),
        "min_secs": f"{bench.batch_ms / 1e3:g}",
        "max_secs": f"{bench.max_batch_ms / 1e3:g}",
        "warmup_runs": "1",
        "warmup_min_secs": f"{bench.warmup_ms / 1e3:g}",
    }
    flags |= _delegate(bench, tool, known_flags)
    if profile:
        flags |= _profiling(tool, known_flags)
    if result_file is not None and "result_file_path" in known_flags:
        flags["result_file_path"] = result_file
    flags |= _options(bench, known_flags)
    missing = sorted(flags.keys() - known_flags)
    if missing:
        raise DeviceError(f"this benchmark_model has no flag --{missing[0]}, which {_what(bench)} needs; use a newer build of it")
    return [f"--{name}={value}" for name, value in flags.items()]


def _what(bench: Bench) -> str:
    return f"delegate {bench.delegate!r} with precision {bench.precision!r}"


def _delegate(bench: Bench, tool: Tool, known: frozenset[str]) -> dict[str, str]:
    switch = _SWITCH[tool].get(bench.delegate)
    if switch is None or switch not in known:
        offered = ", ".join(name for name, flag in _SWITCH[tool].items() if flag in known)
        raise DeviceError(f"this benchmark_model ({tool}) was built without the delegate {bench.delegate!r}; it has {offered}")
    if bench.precision not in ("fp32", "fp16"):
        raise DeviceError(f"benchmark_model has no precision {bench.precision!r}; use 'fp32' or 'fp16', or a quantised model")
    if bench.delegate == "external":
        if "external_delegate_path" not in dict(bench.options):
            raise DeviceError("delegate 'external' needs the option external_delegate_path: the library's path on the device")
        flags = {}  # the option is the switch
    else:
        flags = {switch: "false" if bench.delegate == "builtin" else "true"}
    flags |= _litert_only(bench, known) if tool == "litert" else {}
    flags |= _precision(bench, tool, known)
    # LiteRT's tool doesn't say what a delegate left; the classic one does, and partial delegation is told.
    if tool == "litert" and bench.delegate in ("gpu", "npu") and "require_full_delegation" in known:
        flags["require_full_delegation"] = "true"
    return flags


def _litert_only(bench: Bench, known: frozenset[str]) -> dict[str, str]:
    if bench.delegate == "xnnpack":
        return {}
    if bench.delegate == "gpu" and "gpu_low_priority" not in known:
        # The first releases of LiteRT's tool timed the submission alone; those with this flag wait for the GPU (benchmark mode).
        raise DeviceError("this LiteRT benchmark_model stops the clock before the GPU is done; use a newer build of it")
    return {"use_cpu": "false"}  # with it, an operator that the accelerator refuses would run on the CPU


def _precision(bench: Bench, tool: Tool, known: frozenset[str]) -> dict[str, str]:
    """The flag that sets the arithmetic of floating-point models. What a tool does by default is said too where it can be."""
    half = bench.precision == "fp16"
    value = "true" if half else "false"
    match tool, bench.delegate:
        case "tflite", "gpu":
            return {"gpu_precision_loss_allowed": value}
        case "tflite", "nnapi":
            return {"nnapi_allow_fp16": value} if half or "nnapi_allow_fp16" in known else {}
        case "tflite", "xnnpack":
            return {"xnnpack_force_fp16": value} if half else {}
        case "litert", "gpu":
            return {"gpu-precision": bench.precision} if "gpu-precision" in known else {"allow_fp16": value}
    if half:
        raise DeviceError(
            f"benchmark_model ({tool}) can't set the precision of {bench.delegate!r}; use 'fp32', which leaves it to the file"
        )
    return {}


def _profiling(tool: Tool, known: frozenset[str]) -> dict[str, str]:
    if tool == "litert":
        return {"use_profiler": "true"}
    flags = {"enable_op_profiling": "true"}
    if "op_profiling_output_mode" in known:
        flags["op_profiling_output_mode"] = "csv"  # six digits; the table has whole microseconds
    if "allow_dynamic_profiling_buffer_increase" in known:
        flags["allow_dynamic_profiling_buffer_increase"] = "true"
    return flags


def _options(bench: Bench, known: frozenset[str]) -> dict[str, str]:
    options = dict(bench.options)
    for name, value in options.items():
        if name in _OWN:
            raise DeviceError(f"option {name!r} is no option: the Bench itself decides it")
        if name not in known:
            raise DeviceError(f"option {name!r} is no flag of this benchmark_model; see its --help")
        if name == "gpu_wait_type" and value == "do_not_wait":
            raise DeviceError("option gpu_wait_type='do_not_wait' would time the submission alone; use 'passive' or 'active'")
    return options
