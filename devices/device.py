"""What a device is: something that measures artifacts, says what it is and how it feels."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from paceline.measurement import Artifact, Bench, DeviceInfo, Measurement, OpTime


@dataclass(frozen=True)
class Health:
    """Whether measurements taken now would be true; `advice` says what to do where not."""

    ready: bool
    facts: dict[str, str]
    advice: tuple[str, ...] = ()


class Device(Protocol):
    """Measures artifacts. `paceline.devices.testing.DeviceTestSuite` is what it must pass."""

    @property
    def info(self) -> DeviceInfo: ...

    def health(self) -> Health: ...

    def measure(self, artifacts: Sequence[Artifact], bench: Bench, reference: Artifact | None = None) -> list[Measurement]:
        """Latencies of `artifacts`, in their order, by the protocol of `paceline.devices.rounds`.

        Their batches are interleaved, and `reference` is measured again before and after every round. An artifact that can't be
        measured (crash, time-out, refused by the runtime) comes back with a Failure. Raises DeviceError where nothing could be
        measured this way: an unknown runtime, a delegate that isn't there.
        """

    def profile(self, artifact: Artifact, bench: Bench) -> list[OpTime]:
        """The runtime's own time per executed operator, in execution order. Raises DeviceError where it has no profiler."""
