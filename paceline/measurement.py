"""How to measure (Bench), on what (DeviceInfo), what was measured (Artifact) and what came back (Measurement)."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Literal, Protocol

import numpy as np


@dataclass(frozen=True)
class Artifact:
    """A model file that a device can run. `subject` says what it is: an operator key, or a network's name."""

    path: Path
    subject: str
    format: Literal["tflite", "onnx"] = "tflite"

    @cached_property
    def sha256(self) -> str:
        return hashlib.sha256(self.path.read_bytes()).hexdigest()


@dataclass(frozen=True)
class Bench:
    """How to measure. All of it is part of a measurement's key.

    One figure comes from `batches` batches of at least `min_invokes` invokes and `batch_ms` milliseconds each, every batch
    after `warmup_ms` of its own, the batches of different artifacts interleaved. It is unstable when the batches disagree by more
    than `tolerance` (relative) after `repeats` more rounds.
    """

    runtime: str = "litert"
    delegate: str = "xnnpack"
    threads: int = 1
    precision: str = "fp32"
    affinity: tuple[int, ...] = ()
    batches: int = 5
    min_invokes: int = 50
    batch_ms: float = 10.0
    warmup_ms: float = 4.0
    tolerance: float = 0.05
    repeats: int = 2
    timeout_s: float = 60.0

    @cached_property
    def key(self) -> str:
        """A stable short text of all settings."""
        return json.dumps(asdict(self), sort_keys=True)


@dataclass(frozen=True)
class DeviceInfo:
    """What a device is. Two devices with the same fingerprint may share measurements."""

    name: str
    kind: str
    facts: Mapping[str, str]
    simulated: bool = False

    @cached_property
    def fingerprint(self) -> str:
        text = json.dumps([self.kind, dict(self.facts), self.simulated], sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:16]


@dataclass(frozen=True)
class Failure:
    """Why there is no figure. Measuring again would fail again."""

    reason: str


@dataclass(frozen=True)
class TransientFailure(Failure):
    """Why there is no figure this time. Measuring again may succeed."""


@dataclass(frozen=True)
class Measurement:
    """The latency of one artifact under one Bench, or why there is none.

    `samples_ms` holds every timed invoke, one tuple a batch. `cpu_share` is thread CPU time over wall time of each batch: below 1
    where the thread was preempted (only meaningful with one thread).
    """

    subject: str
    artifact: str
    device: str
    bench: str
    samples_ms: tuple[tuple[float, ...], ...] = ()
    cpu_share: tuple[float, ...] = ()
    failure: Failure | None = None
    context: Mapping[str, str] = field(default_factory=dict)

    @cached_property
    def batch_ms(self) -> tuple[float, ...]:
        """The low quantile (p10) of each batch."""
        return tuple(float(np.percentile(batch, 10)) for batch in self.samples_ms)

    @property
    def ms(self) -> float:
        """The figure: the median over batches of each batch's p10. NaN where there is none."""
        return float(np.median(self.batch_ms)) if self.samples_ms else float("nan")

    @property
    def spread(self) -> float:
        """How far the batches disagree: interquartile range of the batch figures over their median."""
        if len(self.samples_ms) < 2:
            return 0.0
        low, high = np.percentile(self.batch_ms, [25, 75])
        return float((high - low) / self.ms)

    def unstable(self, tolerance: float) -> bool:
        return self.failure is None and self.spread > tolerance

    def failed(self, failure: Failure) -> Measurement:
        """The same measurement without a figure."""
        return replace(self, samples_ms=(), cpu_share=(), failure=failure)


@dataclass(frozen=True)
class OpTime:
    """One line of a runtime's own operator profile: mean milliseconds of an operator over the profiled invokes."""

    name: str
    ms: float
    delegated: bool


class Progress(Protocol):
    """Told how far a long job is. `paceline.progress` draws it: a bar on a terminal, plain lines elsewhere."""

    def __call__(self, done: int, total: int, note: str = "") -> None: ...


def silent(done: int, total: int, note: str = "") -> None:
    """The Progress that says nothing."""
