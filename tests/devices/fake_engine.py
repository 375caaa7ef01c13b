"""An engine of the Python worker whose models do what their file says: its first word is a method of Model."""

import ctypes
import os
import signal
import time
from pathlib import Path

import numpy as np


class Model:
    delegation = {"partitions": 1, "delegated": None, "left": []}  # noqa: RUF012

    def __init__(self, what: str) -> None:
        self.invoke = getattr(self, what)

    def fine(self) -> None: ...

    def slow(self) -> None:
        time.sleep(0.02)

    def hang(self) -> None:
        time.sleep(1000)

    def hang_hard(self) -> None:
        ctypes.PyDLL(None).sleep(1000)  # holds the interpreter's lock

    def crash(self) -> None:
        os.write(2, b"kernel panic in the model\n")
        os.kill(os.getpid(), signal.SIGSEGV)

    def chatter(self) -> None:
        os.write(1, b'{"samples_ns": [1]}\n')

    def refuse(self) -> None:
        raise RuntimeError("operator FROB isn't known")

    def outputs(self) -> list[np.ndarray]:  # type: ignore[type-arg]
        return [np.array(sorted(os.sched_getaffinity(0)))]


class Engine:
    version = "7"
    formats = ("tflite",)

    def facts(self) -> dict[str, str]:
        return {}

    def delegates(self) -> dict[str, tuple[str, ...]]:
        return {"cpu": ("fp32",), "npu": ("int8", "fp16")}

    def load(self, path: str, settings: object) -> Model:
        return Model(Path(path).read_text().split()[0])

    def profile(self, path: str, settings: object, runs: int) -> list[tuple[str, float, bool]]:
        return [("FROB", 0.5, True)] * runs
