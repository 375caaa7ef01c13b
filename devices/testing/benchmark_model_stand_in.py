"""A stand-in for TFLite's classic `benchmark_model` that really runs models, by LiteRT in Python.

It takes the tool's flags, prints its lines with figures that it measured, and ends with its exit codes. Without a GPU it does
what a phone without GPU support does: it says so in one line and runs on the CPU. `BENCHMARK_MODEL_GPU=full` or `=partial` in
the environment makes it claim that a GPU took the model, to test what believes the claim. `executable` writes it as a program
of its own; it imports nothing of paceline but, where asked for operators, the profiler.
"""

from __future__ import annotations

import ctypes
import os
import resource
import struct
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

# name: default, of which the type is the flag's; and what --help says
FLAGS: dict[str, tuple[bool | int | float | str, str]] = {
    "num_runs": (50, "fewest timed runs"),
    "min_secs": (1.0, "shortest time for the timed runs, in seconds"),
    "max_secs": (150.0, "longest time for the timed runs, in seconds"),
    "num_threads": (-1, "threads of the CPU kernels"),
    "warmup_runs": (1, "fewest runs before the timed ones"),
    "warmup_min_secs": (0.5, "shortest time for the runs before, in seconds"),
    "verbose": (False, "print flags that were not given too"),
    "dry_run": (False, "load the model without running it"),
    "report_peak_memory_footprint": (False, "report the peak of memory"),
    "graph": ("", "the model's file"),
    "require_full_delegation": (False, "fail where a delegate leaves operators"),
    "enable_op_profiling": (False, "time operators"),
    "op_profiling_output_mode": ("stdout", "format of the operators' times: stdout or csv"),
    "op_profiling_output_file": ("", "file of the operators' times"),
    "result_file_path": ("", "file of the results as a protocol buffer"),
    "help": (False, "print the flags"),
    "use_gpu": (False, "apply the GPU delegate"),
    "gpu_precision_loss_allowed": (True, "allow the GPU half precision"),
    "gpu_backend": ("", "the GPU's interface: cl or gl"),
    "use_nnapi": (False, "apply the NNAPI delegate"),
    "nnapi_accelerator_name": ("", "NNAPI's accelerator"),
    "nnapi_allow_fp16": (False, "allow NNAPI half precision"),
    "use_xnnpack": (False, "apply the XNNPACK delegate; false: not even by default"),
    "external_delegate_path": ("", "library of an external delegate"),
    "external_delegate_options": ("", "its options, name:value;name:value"),
}
_TYPES = {bool: "bool", int: "int32", float: "float", str: "string"}


class Failed(Exception):  # noqa: N818 - the tool's own word
    """The tool can't go on; the message is what it says before "Benchmarking failed."."""


def say(line: str) -> None:
    print(line, flush=True)


def log(line: str) -> None:
    """What the runtime logs, unlike the tool."""
    print(line, file=sys.stderr, flush=True)


def usage(name: str) -> str:
    rows = [
        f"\t--{flag + '=' + _shown(default):<40}\t{_TYPES[type(default)]}\toptional\t{what}"
        for flag, (default, what) in FLAGS.items()
    ]
    return "\n".join([f"usage: {name} <flags>", "Flags:", *rows])


def _shown(value: bool | int | float | str) -> str:
    return str(value).lower() if isinstance(value, bool) else f"{value:g}" if isinstance(value, float) else str(value)


def parse_flags(arguments: Sequence[str]) -> tuple[dict[str, Any], list[str]]:
    """The given flags, and the arguments that are none: the tool goes on without them."""
    given: dict[str, Any] = {}
    unknown: list[str] = []
    for argument in arguments:
        name, equals, text = argument.removeprefix("--").partition("=")
        if not (argument.startswith("--") and equals and name in FLAGS and name not in given):
            unknown.append(argument)
            continue
        kind = type(FLAGS[name][0])
        try:
            given[name] = {"true": True, "1": True, "false": False, "0": False}[text] if kind is bool else kind(text)
        except (KeyError, ValueError):
            raise Failed(f"Failed to parse flag '{name}' against argv '{argument}'") from None
    return given, unknown


@dataclass
class Stats:
    us: list[int]

    @property
    def figures(self) -> dict[str, float]:
        """In microseconds, counted and rounded as the tool does."""
        values, ordered = np.asarray(self.us, np.int64), sorted(self.us)
        percentiles = {name: ordered[len(ordered) * p // 100] for name, p in (("p5", 5), ("median", 50), ("p95", 95))}
        return {"min": ordered[0], "max": ordered[-1], "avg": self.average, "std": float(int(values.std())), **percentiles}

    @property
    def average(self) -> float:
        return float(np.mean(self.us)) if self.us else 0.0

    @property
    def line(self) -> str:
        if not self.us:
            return "count=0 p5=0 median=0 p95=0"
        f = self.figures
        percentiles = f"p5={f['p5']:.0f} median={f['median']:.0f} p95={f['p95']:.0f}"
        if min(self.us) == max(self.us):
            return f"count={len(self.us)} curr={self.us[-1]}{'(all same)' * (len(self.us) > 1)} {percentiles}"
        return (
            f"count={len(self.us)} first={self.us[0]} curr={self.us[-1]} min={f['min']:.0f} max={f['max']:.0f} "
            f"avg={f['avg']:.6g} std={f['std']:.0f} {percentiles}"
        )


class Model:
    """A loaded model with random inputs, and who runs its operators."""

    def __init__(self, flags: dict[str, Any], given: dict[str, Any]) -> None:
        from ai_edge_litert.interpreter import Interpreter, OpResolverType, load_delegate

        path, threads = flags["graph"], max(flags["num_threads"], 1)
        if not os.access(path, os.R_OK):
            log(f"ERROR: Could not open '{path}'.")
            raise Failed(f"Failed to load model {path}")
        self.xnnpack = given.get("use_xnnpack", True)
        kernels = OpResolverType.AUTO if self.xnnpack else OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES
        external = []
        if flags["external_delegate_path"]:
            options = dict(o.split(":", 1) for o in flags["external_delegate_options"].split(";") if ":" in o)
            try:
                ctypes.CDLL(flags["external_delegate_path"])  # where this fails, load_delegate leaves a broken object behind
                external = [load_delegate(flags["external_delegate_path"], options)]
            except (OSError, ValueError) as e:
                log(f"ERROR: {e}")
                raise Failed("Failed to apply EXTERNAL delegate.") from None
        try:
            self.interpreter = Interpreter(
                model_path=path, num_threads=threads, experimental_op_resolver_type=kernels, experimental_delegates=external
            )
        except (ValueError, RuntimeError) as e:
            log(f"ERROR: {e}")
            raise Failed(f"Failed to load model {path}") from None
        say(f"Loaded model {path}")
        started = time.monotonic_ns()
        try:
            self.interpreter.allocate_tensors()
        except (ValueError, RuntimeError) as e:
            log(f"ERROR: {e}")
            raise Failed("Failed to allocate tensors!") from None
        self.allocate_us = (time.monotonic_ns() - started) // 1000
        rng = np.random.default_rng()
        self.inputs = [
            (t["index"], random_tensor(t["shape"], np.dtype(t["dtype"]), rng)) for t in self.interpreter.get_input_details()
        ]
        ops = self.interpreter._get_ops_details()
        self.nodes = [op for op in ops if op["op_name"] != "DELEGATE"]
        self.kernels = [op for op in ops if op["op_name"] == "DELEGATE"]
        self.taken = nodes_inside(self.nodes, self.kernels)

    def invoke_us(self) -> int:
        for index, value in self.inputs:
            self.interpreter.set_tensor(index, value)
        start = time.perf_counter_ns()
        try:
            self.interpreter.invoke()
        except (ValueError, RuntimeError) as e:
            raise Failed(f"ERROR: {e}") from None
        return (time.perf_counter_ns() - start) // 1000

    def name_of(self, node: dict[str, Any]) -> str:
        names = [self.interpreter._get_tensor_details(int(t), 0)["name"] for t in node["outputs"]]
        return f"[{', '.join(names)}]:{node['index']}"


def random_tensor(shape: Any, dtype: np.dtype[Any], rng: np.random.Generator) -> np.ndarray[Any, Any]:
    if dtype.kind == "f":
        return (rng.random(tuple(shape)) - 0.5).astype(dtype)
    return rng.integers(0, 2 if dtype.kind == "b" else 100, tuple(shape)).astype(dtype)


def nodes_inside(nodes: list[dict[str, Any]], kernels: list[dict[str, Any]]) -> set[int]:
    """Which of `nodes` the delegate's `kernels` replace: those between a kernel's outputs and its inputs."""
    producer = {int(t): i for i, node in enumerate(nodes) for t in node["outputs"]}
    taken: set[int] = set()
    for kernel in kernels:
        borders, pending = {int(t) for t in kernel["inputs"]}, [int(t) for t in kernel["outputs"]]
        while pending:
            i = producer.get(pending.pop())
            if i is not None and i not in taken:
                taken.add(i)
                pending += [int(t) for t in nodes[i]["inputs"] if int(t) not in borders]
    return taken


def pieces(nodes: list[dict[str, Any]], taken: set[int]) -> int:
    """How many pieces the runtime cuts the graph into: as many nodes at a time as can run, all taken or none of them."""
    waiting, count = list(range(len(nodes))), 0
    while waiting:
        kind, before = None, len(waiting)
        pending = {int(t) for i in waiting for t in nodes[i]["outputs"]}
        for i in list(waiting):
            ready = pending.isdisjoint(int(t) for t in nodes[i]["inputs"])
            if ready and kind in (None, i in taken):
                kind = i in taken
                waiting.remove(i)
                pending -= {int(t) for t in nodes[i]["outputs"]}
        count += 1
        if len(waiting) == before:  # a loop through variables: the rest is one piece
            break
    return count


def report_delegates(model: Model, flags: dict[str, Any], given: dict[str, Any]) -> None:
    """What the tool and the runtime say about delegates. Raises Failed where full delegation is required and isn't there."""
    nodes, taken = len(model.nodes), len(model.taken)
    asked: dict[str, tuple[int, bool]] = {}  # delegate: how many kernels it made, and whether these are the whole graph
    mine = (len(model.kernels), taken == nodes and len(model.kernels) == 1)
    claim = os.environ.get("BENCHMARK_MODEL_GPU", "") if flags["use_gpu"] else ""
    if flags["use_gpu"]:
        log("INFO: Created TensorFlow Lite delegate for GPU.")
        asked["GPU"] = {"full": (1, True), "partial": (2, False)}.get(claim, (0, False))
    if claim:
        counts = (nodes, nodes, 1) if claim == "full" else (max(nodes - 1, 1), max(nodes, 2), 3)
        log(replacing("TfLiteGpuDelegateV2", *counts))
        log(f"INFO: Created {asked['GPU'][0]} GPU delegate kernels.")
    if flags["use_nnapi"]:
        say("NNAPI acceleration is unsupported on this platform.")
    if flags["external_delegate_path"]:
        asked["EXTERNAL"] = mine
    elif given.get("use_xnnpack"):
        asked["XNNPACK"] = mine
    if model.kernels and not claim:
        own = "TfLiteExternalDelegate" if flags["external_delegate_path"] else "TfLiteXNNPackDelegate"
        log(replacing(own, taken, nodes, pieces(model.nodes, model.taken)))
    if flags["require_full_delegation"] and not (asked and all(whole for _, whole in asked.values())):
        raise Failed("Disallowed CPU fallback detected.")
    for name, (kernels, whole) in asked.items():
        applied = f"Explicitly applied {name} delegate, and the model graph will be"
        if kernels == 0:
            say(f"Though {name} delegate is explicitly applied, the model graph will not be executed by the delegate.")
        elif whole:
            say(f"{applied} completely executed by the delegate.")
        else:
            say(f"{applied} partially executed by the delegate w/ {kernels} delegate kernels.")


def replacing(delegate: str, taken: int, nodes: int, partitions: int) -> str:
    where = f"yielding {partitions} partitions for subgraph 0."
    return f"INFO: Replacing {taken} out of {nodes} node(s) with delegate ({delegate}) node, {where}"


def run(model: Model, runs: int, min_s: float, max_s: float) -> Stats:
    limits = f"at least {runs} iterations and at least {min_s:g} seconds but terminate if exceeding {max_s:g} seconds."
    say(f"Running benchmark for {limits}")
    us: list[int] = []
    now = start = time.monotonic()
    while (len(us) < runs or now < start + min_s) and now <= start + max_s:
        us.append(model.invoke_us())
        now = time.monotonic()
    stats = Stats(us)
    say(stats.line + "\n")
    return stats


def profile(model: Model, flags: dict[str, Any]) -> None:
    """Prints or writes the operators' times, measured by LiteRT's own profiler."""
    try:
        from paceline.devices.measuring_worker.engine import Settings
        from paceline.devices.measuring_worker.engines.litert_c import Library
        from paceline.devices.measuring_worker.engines.litert_profiler import profile as measure
        from paceline.devices.testing.benchmark_model_tables import report
    except ImportError:
        raise Failed("Op profiling needs paceline beside this stand-in.") from None
    delegate = "xnnpack" if model.xnnpack else "builtin"
    settings = Settings(delegate, max(flags["num_threads"], 1), "fp32")
    times = measure(Library(), flags["graph"], settings, max(flags["num_runs"], 1))
    left = [model.name_of(node) for i, node in enumerate(model.nodes) if i not in model.taken]
    kernels = [model.name_of(kernel) for kernel in model.kernels]
    text = report(times, left, kernels, model.allocate_us / 1e3, flags["op_profiling_output_mode"] == "csv")
    if flags["op_profiling_output_file"]:
        Path(flags["op_profiling_output_file"]).write_text(text, encoding="utf-8")
    else:
        say(text)


def resident_kb() -> int:
    with open("/proc/self/statm", encoding="ascii") as statm:
        return int(statm.read().split()[1]) * os.sysconf("SC_PAGE_SIZE") // 1024


def field(number: int, value: int | float | bytes) -> bytes:
    """One field of a protocol buffer: an integer, a 32-bit float or a nested message."""
    if isinstance(value, float):
        return varint(number << 3 | 5) + struct.pack("<f", value)
    if isinstance(value, int):
        return varint(number << 3) + varint(value % (1 << 64))
    return varint(number << 3 | 2) + varint(len(value)) + value


def varint(value: int) -> bytes:
    digits = bytearray()
    while value > 127:
        digits.append(value & 127 | 128)
        value >>= 7
    return bytes([*digits, value])


def message(*values: int | float | bytes) -> bytes:
    return b"".join(field(i, value) for i, value in enumerate(values, 1))


def benchmark(arguments: Sequence[str], name: str) -> None:
    """What the tool does. Raises Failed where it would end with exit code 1."""
    given, unknown = parse_flags(arguments)
    flags = {flag: default for flag, (default, _) in FLAGS.items()} | given
    if flags["help"] or unknown[:1] == ["--help"]:
        raise Failed(usage(name))
    if unknown:
        say(f"Unconsumed cmdline flags: {' '.join(unknown)}")
    if not flags["graph"]:
        raise Failed("Please specify the name of your TF Lite input file with --graph")
    if flags["enable_op_profiling"] and flags["op_profiling_output_mode"] not in ("stdout", "csv"):
        raise Failed(f"Output mode {flags['op_profiling_output_mode']} is not supported.")
    say(f"Log parameter values verbosely: [{flags['verbose']:d}]")
    for flag in FLAGS if flags["verbose"] else given:
        value = int(flags[flag]) if isinstance(flags[flag], bool) else flags[flag]
        say(f"{flag.replace('_', ' ').capitalize()}: [{value}]")
    import ai_edge_litert.interpreter  # noqa: F401 - the tool links the runtime, so its loading is no part of the session's start

    before_kb, start = resident_kb(), time.monotonic_ns()
    model = Model(flags, given)
    report_delegates(model, flags, given)
    init_us, init_kb = (time.monotonic_ns() - start) // 1000, resident_kb() - before_kb
    model_mb = os.path.getsize(flags["graph"]) / 1e6
    say(f"The input model file size (MB): {model_mb:.6g}\nInitialized session in {init_us / 1e3:.6g}ms.")
    if flags["dry_run"]:
        flags |= {"warmup_runs": 0, "warmup_min_secs": -1.0, "num_runs": 0, "min_secs": -1.0}
    warmup = run(model, flags["warmup_runs"], flags["warmup_min_secs"], flags["max_secs"])
    timed = run(model, flags["num_runs"], flags["min_secs"], flags["max_secs"])
    overall_kb, peak_mb = resident_kb() - before_kb, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    first, warm, average = (warmup.us or [0])[0], warmup.average, timed.average
    say(
        f"Inference timings in us: Init: {init_us}, First inference: {first}, "
        f"Warmup (avg): {warm:.6g}, Inference (avg): {average:.6g}"
    )
    say(
        "Note: as the benchmark tool itself affects memory footprint, the following is only APPROXIMATE to the actual memory "
        "footprint of the model at runtime. Take the information at your discretion."
    )
    say(f"Memory footprint delta from the start of the tool (MB): init={init_kb / 1024:.6g} overall={overall_kb / 1024:.6g}")
    if flags["report_peak_memory_footprint"]:
        say(f"Overall peak memory footprint (MB) via periodic monitoring: {peak_mb:.6g}")
    if flags["enable_op_profiling"]:
        profile(model, flags)
    if flags["result_file_path"] and timed.us:
        f = {figure: value / 1e3 for figure, value in timed.figures.items()}
        latency = (f["avg"], f["min"], f["max"], f["std"], f["median"], f["p5"], f["p95"], init_us / 1e3, first / 1e3, warm / 1e3)
        throughput = sum(value.nbytes for _, value in model.inputs) / average if average else 0.0
        misc = message(model_mb, len(timed.us), len(warmup.us), throughput)
        Path(flags["result_file_path"]).write_bytes(
            field(2, message(*latency)) + field(3, message(init_kb, overall_kb)) + field(4, misc)
        )


def main() -> int:
    say("STARTING!")
    try:
        benchmark(sys.argv[1:], sys.argv[0])
    except Failed as e:
        log(str(e))
        log("Benchmarking failed.")
        return 1
    return 0


def executable(folder: Path) -> Path:
    """Writes this stand-in into `folder` as a program `benchmark_model` that the current interpreter runs."""
    program = folder / "benchmark_model"
    program.write_text(f"#!{sys.executable}\n" + Path(__file__).read_text(encoding="utf-8"), encoding="utf-8")
    program.chmod(0o755)
    return program


if __name__ == "__main__":
    sys.exit(main())
