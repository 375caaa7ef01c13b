"""What runs models on a device, and says how long it took."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Protocol

import numpy as np

from paceline.measurement import Artifact, Bench, Delegation, Failure, OpTime, Summary


@dataclass(frozen=True)
class Batch:
    """Some back-to-back invokes after a warm-up.

    Milliseconds of each, or a tool's summary of them; thread CPU time over wall time of the whole (None where unknown).
    """

    samples_ms: tuple[float, ...] = ()
    cpu_share: float | None = None
    summary: Summary | None = None

    @cached_property
    def low(self) -> float:
        """The low quantile: p10 of the invokes, or the summary's."""
        return float(np.percentile(self.samples_ms, 10)) if self.summary is None else self.summary.low


class Session(Protocol):
    """A device ready to run batches under one Bench. Keeps what was loaded until it is closed."""

    def batch(self, artifact: Artifact) -> Batch | Failure:
        """Raises TransientDeviceError where the device is lost; what is wrong with one artifact is a Failure."""

    def delegation(self, artifact: Artifact) -> Delegation | None:
        """Who ran the operators of an artifact of which a batch was run. None where the runtime doesn't say."""

    def close(self) -> None: ...


class Runner(Protocol):
    """LiteRT in a Python worker, ONNX Runtime, TFLite's benchmark_model, or an imitation.

    `runtime` is what `Bench.runtime` must name, `formats` which artifacts it runs.
    """

    @property
    def runtime(self) -> str: ...

    @property
    def formats(self) -> tuple[str, ...]: ...

    def facts(self) -> dict[str, str]:
        """Versions and hashes of what runs the models. Part of the device's fingerprint."""

    def delegates(self) -> tuple[str, ...]:
        """What `Bench.delegate` may name, the usual one first."""

    def session(self, bench: Bench) -> Session: ...

    def profile(self, artifact: Artifact, bench: Bench) -> list[OpTime]:
        """The runtime's own time per executed operator, in execution order. Raises DeviceError where it has no profiler."""

    def close(self) -> None:
        """Ends what sessions share. May be called again; a new session starts it anew."""
