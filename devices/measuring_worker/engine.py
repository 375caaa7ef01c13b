"""What an engine is, and what engines share: random inputs, who ran the operators, the lines that a library prints."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, Protocol

import numpy as np

Array = np.ndarray[Any, Any]
OperatorTimes = Sequence[tuple[str, float, bool]]
"""Per executed operator: name, mean milliseconds, whether a delegate ran it."""


class UnavailableError(Exception):
    """What was asked for can't be had here, whatever the model. The text says what to do."""


@dataclass(frozen=True)
class Settings:
    """How a model is run."""

    delegate: str
    threads: int
    precision: str
    options: Mapping[str, str] = field(default_factory=dict)


class Model(Protocol):
    """A loaded model with seeded random inputs, run once already."""

    @property
    def invoke(self) -> Callable[[], object]:
        """Runs the model; on return the outputs can be read, or have been read."""

    @property
    def delegation(self) -> dict[str, Any]:
        """`partitions`, `delegated`, `left` of paceline.measurement.Delegation."""

    def outputs(self) -> list[Array]:
        """Of the last invoke."""


class Engine(Protocol):
    """A runtime. Made without arguments: an ImportError then says that its library is missing."""

    @property
    def version(self) -> str: ...

    @property
    def formats(self) -> Sequence[str]: ...

    def facts(self) -> Mapping[str, str]:
        """What else there is to know of what it runs on: a GPU and its driver."""

    def delegates(self) -> Mapping[str, Sequence[str]]:
        """The delegates that can be asked for, each with its precisions; of both the usual one first."""

    def load(self, path: str, settings: Settings) -> Model: ...

    def profile(self, path: str, settings: Settings, runs: int) -> OperatorTimes:
        """In execution order. Raises UnavailableError where the runtime has no profiler."""


def refuse_options(runtime: str, settings: Settings) -> None:
    """For what has no options of its own: an option without effect would look like a setting that was measured."""
    if settings.options:
        raise UnavailableError(f"{runtime} with delegate {settings.delegate} has no option {next(iter(settings.options))!r}")


def random_input(shape: Sequence[int], dtype: np.dtype[Any], rng: np.random.Generator) -> Array:
    """Normal floats, bytes of any value. Wider integers are mostly indices: 0 or 1, which any table has."""
    if dtype.kind == "f":
        return np.asarray(rng.standard_normal(tuple(shape))).astype(dtype)
    if dtype.kind == "b":
        return np.asarray(rng.random(tuple(shape)) < 0.5)
    if dtype.kind not in "iu":
        raise ValueError(f"no random input of type {dtype}")
    if dtype.itemsize > 2:
        return rng.integers(0, 2, tuple(shape), dtype)
    limits = np.iinfo(dtype)
    return rng.integers(limits.min, limits.max, tuple(shape), dtype, endpoint=True)


def delegation(ops: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
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


class Printed:
    """Reads along what native libraries print to file descriptor 2 inside a `with` block; it still gets to where it went.

    `lines` are there after the block.
    """

    def __init__(self) -> None:
        self.lines: list[str] = []

    def __enter__(self) -> Printed:
        self._real = os.dup(2)
        self._pipe, end = os.pipe()
        os.dup2(end, 2)
        os.close(end)
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()
        return self

    def _read(self) -> None:
        parts = []
        while chunk := os.read(self._pipe, 1 << 16):
            parts.append(chunk)
            os.write(self._real, chunk)
        self.lines = b"".join(parts).decode(errors="replace").splitlines()

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        os.dup2(self._real, 2)  # the pipe's last open end: the reader comes to its end
        self._reader.join()
        os.close(self._pipe)
        os.close(self._real)
