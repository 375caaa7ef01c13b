"""How to measure (Bench), on what (DeviceInfo), what was measured (Artifact) and what came back (Measurement)."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
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
    after `warmup_ms` of its own, and of at most `max_batch_ms` and `max_invokes`; the batches of different artifacts are
    interleaved. Three batches are enough where all of them lie within `agreement` (relative). The figure is unstable when the
    batches disagree by more than `tolerance` after `repeats` more rounds. Every timed region ends when the outputs can be read.
    `options` are settings of one runtime alone, for example ("nnapi_accelerator_name", "qti-dsp").
    """

    runtime: str = "litert"
    delegate: str = "xnnpack"
    threads: int = 1
    precision: str = "fp32"
    affinity: tuple[int, ...] = ()
    options: tuple[tuple[str, str], ...] = ()
    batches: int = 5
    min_invokes: int = 50
    batch_ms: float = 8.0
    warmup_ms: float = 2.0
    max_batch_ms: float = 400.0
    max_invokes: int = 500
    agreement: float = 0.01
    tolerance: float = 0.05
    repeats: int = 2
    timeout_s: float = 60.0

    @cached_property
    def key(self) -> str:
        """A stable short text of all settings."""
        return json.dumps(asdict(self), sort_keys=True)


@dataclass(frozen=True)
class DeviceInfo:
    """What a device is: hardware, system, runtime. Two with the same fingerprint may share measurements.

    `kind` is its entry point ("local", "adb", …), `delegates` what its runtime can use there.
    """

    name: str
    kind: str
    facts: Mapping[str, str]
    simulated: bool = False
    delegates: tuple[str, ...] = ()

    def runtime_of(self, bench: Bench) -> str:
        """With its version, where the device tells."""
        return f"{bench.runtime} {self.facts.get(bench.runtime, '')}".strip()

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
class Delegation:
    """Who ran the operators of a model: the delegate `delegated` of them in `partitions` pieces, the runtime itself those `left`.

    Where the runtime doesn't say which operators, `delegated` and `left` are None; `left` is () where nothing was left.
    """

    delegate: str
    partitions: int
    delegated: int | None = None
    left: tuple[str, ...] | None = None

    @property
    def state(self) -> Literal["full", "partial", "none"]:
        if self.partitions == 0 or self.delegated == 0:
            return "none"
        return "full" if self.left == () else "partial"


_CLOCK_MS = 0.001  # of the tools whose statistics these are


@dataclass(frozen=True)
class Summary:
    """What a tool says about a batch of which it doesn't give the invokes: milliseconds over `count` of them."""

    count: int
    min: float
    avg: float
    max: float
    std: float
    p5: float | None = None
    median: float | None = None
    p95: float | None = None

    @property
    def low(self) -> float:
        """The low quantile: p5 where the tool knows it, else the minimum.

        Tools count whole microseconds. Where p5 and p95 are a step or two apart, the average is finer than either.
        """
        if self.p5 is None:
            return self.min
        calm = self.p95 is not None and self.p95 - self.p5 <= 2 * _CLOCK_MS
        return self.avg if calm else self.p5


@dataclass(frozen=True)
class Measurement:
    """The latency of one artifact under one Bench, or why there is none.

    `samples_ms` holds every timed invoke, one tuple a batch; where the device's tool gives only statistics, there is one of
    `summaries` a batch instead. Per batch there are `cpu_share`, thread CPU time over wall time (below 1 where the thread was
    preempted; only meaningful with one thread; empty where unknown), and `reference_ms`, what the reference took at that moment
    (empty without a reference).
    """

    subject: str
    artifact: str
    device: str
    bench: str
    samples_ms: tuple[tuple[float, ...], ...] = ()
    cpu_share: tuple[float, ...] = ()
    reference_ms: tuple[float, ...] = ()
    failure: Failure | None = None
    context: Mapping[str, str] = field(default_factory=dict)
    summaries: tuple[Summary, ...] = ()
    delegation: Delegation | None = None

    @cached_property
    def batch_ms(self) -> tuple[float, ...]:
        """The low quantile of each batch: p10 of its invokes, or that of its summary."""
        return tuple(float(np.percentile(batch, 10)) for batch in self.samples_ms) or tuple(s.low for s in self.summaries)

    @property
    def ms(self) -> float:
        """The figure as the clock showed it: the median over batches of each batch's low quantile. NaN where there is none."""
        return float(np.median(self.batch_ms)) if self.batch_ms else float("nan")

    @property
    def median_ms(self) -> float:
        """The median over batches of each batch's median (its average where a tool gives no median). NaN where there is none."""
        middles = [float(np.median(batch)) for batch in self.samples_ms]
        middles = middles or [s.avg if s.median is None else s.median for s in self.summaries]
        return float(np.median(middles)) if middles else float("nan")

    def ms_at(self, usual_ms: float | None) -> float:
        """The figure at the device's usual pace, the one at which the reference takes `usual_ms`.

        Clocks drift by some percent within minutes, on phones and on shared hosts, for all operators alike: each batch is
        scaled by what the reference took at that moment. Without a reference the figure is that of the clock.
        """
        if not self.reference_ms or usual_ms is None:
            return self.ms
        return float(np.median(self._relative)) * usual_ms

    @property
    def spread(self) -> float:
        """How far the batches disagree, drift of the device apart: their interquartile range over their median."""
        if len(self.batch_ms) < 2:
            return 0.0
        low, middle, high = np.percentile(self._relative, [25, 50, 75])
        return float((high - low) / middle)

    @property
    def _relative(self) -> tuple[float, ...]:
        references = self.reference_ms or (1.0,) * len(self.batch_ms)
        return tuple(ms / reference for ms, reference in zip(self.batch_ms, references, strict=True))

    def joined(self, later: Measurement) -> Measurement:
        """The batches of two sessions as those of one, with the later context; where one failed, the other."""
        if later.failure is not None or self.failure is not None:
            return later if self.failure is not None else self
        both = self.reference_ms + later.reference_ms if self.reference_ms and later.reference_ms else ()
        return replace(
            later,
            samples_ms=self.samples_ms + later.samples_ms,
            cpu_share=self.cpu_share + later.cpu_share,
            reference_ms=both,
            summaries=self.summaries + later.summaries,
        )

    def unstable(self, tolerance: float) -> bool:
        return self.failure is None and self.spread > tolerance


REFERENCE_KEY = "reference"
"""Where a measurement's context has the SHA-256 of the reference that was measured beside it."""


def usual_reference(measurements: Iterable[Measurement]) -> float | None:
    """What the reference takes at the device's usual pace: its median over all batches. None where there was no reference."""
    seen = [ms for m in measurements for ms in m.reference_ms]
    return float(np.median(seen)) if seen else None


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
