"""The process that runs models: `python -m paceline.devices.worker REPLY_FD CPU,CPU,…`.

Reads one JSON request a line from standard input, answers one JSON object a line on REPLY_FD. Standard output and error
belong to the native libraries, which print to them. It may crash or hang: whoever started it kills it and starts another.
"""

from __future__ import annotations

import ctypes
import gc
import json
import os
import signal
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

_MOST_INVOKES = 500
_FEWEST_INVOKES = 10


class Models:
    """The loaded models, by path. A model is loaded under the settings of its first request."""

    def __init__(self) -> None:
        self._loaded: dict[str, Any] = {}

    def load(self, path: str, delegate: str, threads: int) -> dict[str, Any]:
        """Loads and runs once. Answers which operators the delegate took, in how many partitions."""
        from ai_edge_litert.interpreter import Interpreter, OpResolverType

        kernels = {"xnnpack": OpResolverType.AUTO, "builtin": OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES}[delegate]
        interpreter = Interpreter(model_path=path, num_threads=threads, experimental_op_resolver_type=kernels)
        interpreter.allocate_tensors()
        rng = np.random.default_rng(0)
        for tensor in interpreter.get_input_details():
            interpreter.set_tensor(tensor["index"], _random(tensor["shape"], np.dtype(tensor["dtype"]), rng))
        interpreter.invoke()
        self._loaded[path] = interpreter
        return delegation(interpreter._get_ops_details())

    def unload(self) -> dict[str, Any]:
        self._loaded.clear()
        gc.collect()
        return {}

    def batch(self, path: str, warmup_ms: float, batch_ms: float, min_invokes: int, max_ms: float) -> dict[str, Any]:
        """Warms up, then times back-to-back invokes: `min_invokes` or more, for about `batch_ms`, at most for about `max_ms`."""
        invoke = self._loaded[path].invoke
        now = time.perf_counter_ns
        fastest, start = 1 << 62, now()
        while now() - start < warmup_ms * 1e6 or fastest == 1 << 62:
            before = now()
            invoke()
            fastest = min(fastest, now() - before)
        wanted = max(min_invokes, round(batch_ms * 1e6 / fastest))
        allowed = max(_FEWEST_INVOKES, round(max_ms * 1e6 / fastest))
        invokes = min(wanted, allowed, _MOST_INVOKES)
        stamps = [0] * (invokes + 1)
        gc.disable()
        cpu = time.thread_time_ns()
        stamps[0] = now()
        for i in range(1, invokes + 1):
            invoke()
            stamps[i] = now()
        cpu = time.thread_time_ns() - cpu
        gc.enable()
        samples = np.diff(np.asarray(stamps, np.int64))
        return {"samples_ns": samples.tolist(), "cpu_share": cpu / float(stamps[-1] - stamps[0])}

    def profile(self, path: str, delegate: str, threads: int, runs: int) -> dict[str, Any]:
        from paceline.devices.litert_profiler import profile

        return {"operators": profile(Path(path), delegate, threads, runs)}

    def ping(self) -> dict[str, Any]:
        return {"pid": os.getpid()}


def delegation(ops: list[dict[str, Any]]) -> dict[str, Any]:
    """How many partitions a delegate took and which operators it left; `ops` are the interpreter's nodes, the delegate's too."""
    nodes = [op for op in ops if op["op_name"] != "DELEGATE"]
    partitions = [op for op in ops if op["op_name"] == "DELEGATE"]
    producer = {int(t): i for i, op in enumerate(nodes) for t in op["outputs"]}
    taken: set[int] = set()
    for partition in partitions:
        inputs = {int(t) for t in partition["inputs"]}
        open_tensors = [int(t) for t in partition["outputs"]]
        while open_tensors:
            i = producer.get(open_tensors.pop())
            if i is not None and i not in taken:
                taken.add(i)
                open_tensors += [int(t) for t in nodes[i]["inputs"] if int(t) not in inputs]
    left = [op["op_name"] for i, op in enumerate(nodes) if i not in taken]
    return {"partitions": len(partitions), "delegated": len(taken), "left": left}


def _random(shape: Any, dtype: np.dtype[Any], rng: np.random.Generator) -> np.ndarray[Any, Any]:
    if dtype.kind == "f":
        return rng.standard_normal(tuple(shape)).astype(dtype)
    if dtype.kind == "b":
        return rng.random(tuple(shape)) < 0.5
    limits = np.iinfo(dtype)
    return rng.integers(limits.min, limits.max, tuple(shape), dtype, endpoint=True)


def main() -> None:
    reply_fd, cpus = int(sys.argv[1]), [int(c) for c in sys.argv[2].split(",") if c]
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # die with the parent, also in the middle of a hung kernel
    if cpus:
        os.sched_setaffinity(0, cpus)
    models = Models()
    with os.fdopen(reply_fd, "w", buffering=1) as replies:
        for line in sys.stdin:
            request = json.loads(line)
            try:
                answer = getattr(models, request["do"])(**request["with"])
            except Exception as e:  # whatever a runtime raises for one model is the answer about that model
                answer = {"error": f"{type(e).__name__}: {e}"}
            replies.write(json.dumps(answer) + "\n")


if __name__ == "__main__":
    main()
