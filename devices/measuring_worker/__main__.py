"""Reads one JSON request a line from standard input, answers one JSON object a line on standard output.

Native libraries print to standard output, too: so the answers go to a private duplicate of it, and what is printed goes to
standard error. The first line says who is there. The program ends with its standard input, and at the deadline of a request,
whatever a native call is busy with: a thread waits for the one, the kernel's alarm for the other.
"""

from __future__ import annotations

import json
import os
import platform
import queue
import signal
import sys
import threading
from importlib import import_module
from typing import Any

_PIP = {
    "litert": "ai-edge-litert",
    "onnxruntime": "onnxruntime",
    "tflite_runtime": "'tflite-runtime==2.14.0' 'numpy<2'",
}
_MARGIN_S = 2.0
"""The alarm is the last resort: whoever asked has a deadline of his own, which comes first."""


def main() -> None:
    name, cpus = sys.argv[1], [int(c) for c in sys.argv[2].split(",") if c]
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)
    requests: queue.SimpleQueue[str] = queue.SimpleQueue()
    threading.Thread(target=_read, args=(requests,), daemon=True).start()

    def answer(content: dict[str, Any]) -> None:
        answers.write(json.dumps(content) + "\n")

    try:
        measuring = _measuring(name, cpus)
    except _UnavailableError as e:
        return answer({"unavailable": str(e)})
    host = {"pid": os.getpid(), "python": platform.python_version(), "machine": platform.machine()}
    answer({**host, "engine": name, **measuring.hello()})
    while True:
        answer(_answer(measuring, json.loads(requests.get())))


class _UnavailableError(Exception):
    """This host can't do what the command line says."""


def _measuring(name: str, cpus: list[int]) -> Any:
    try:
        if cpus:
            os.sched_setaffinity(0, cpus)
    except OSError as e:
        raise _UnavailableError(f"can't be pinned to CPUs {sys.argv[2]}: {e.strerror}") from e
    try:
        from paceline.devices.measuring_worker.measuring import Measuring  # needs numpy

        return Measuring(import_module(f"paceline.devices.measuring_worker.engines.{name}").Engine())
    except ImportError as e:
        here = f"{sys.executable} (Python {platform.python_version()})"
        remedy = f". Try: {sys.executable} -m pip install {_PIP[name]}" if name in _PIP else ""
        raise _UnavailableError(f"{here} can't run {name}: {e}{remedy}") from e


def _read(requests: queue.SimpleQueue[str]) -> None:
    with os.fdopen(os.dup(0)) as own:  # an interpreter whose thread waits for sys.stdin itself can't end in peace
        for line in own:
            requests.put(line)
    os._exit(0)


def _answer(measuring: Any, request: dict[str, Any]) -> dict[str, Any]:
    from paceline.devices.measuring_worker.engine import UnavailableError

    signal.setitimer(signal.ITIMER_REAL, request["timeout_s"] + _MARGIN_S)
    try:
        found: dict[str, Any] = getattr(measuring, request["do"])(**request["with"])
    except UnavailableError as e:
        found = {"unavailable": str(e)}
    except Exception as e:  # whatever a runtime raises for one model is the answer about that model
        found = {"error": f"{type(e).__name__}: {e}"}
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
    return found


if __name__ == "__main__":
    main()
