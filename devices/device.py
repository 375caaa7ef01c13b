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

    @property
    def address(self) -> str:
        """Two devices with the same address are the same hardware: only one of them measures at a time."""

    def default_bench(self, delegate: str | None = None, threads: int = 1) -> Bench:
        """How to measure here unless told otherwise: the device's own runtime, pinned to its fastest cores."""

    def health(self) -> Health: ...

    def measure(self, artifacts: Sequence[Artifact], bench: Bench, reference: Artifact | None = None) -> list[Measurement]:
        """Latencies of `artifacts`, in their order, by the protocol of `paceline.devices.rounds`.

        Their batches are interleaved, and `reference` is measured again before and after every round. An artifact that can't be
        measured (crash, time-out, refused by the runtime, a delegate that silently left it to the CPU) comes back with a Failure,
        one that the device was lost for with a TransientFailure. Raises DeviceError where nothing could be measured this way (an
        unknown runtime, a delegate that isn't there), TransientDeviceError where the device is not fit to be measured now.
        """

    def profile(self, artifact: Artifact, bench: Bench) -> list[OpTime]:
        """The runtime's own time per executed operator, in execution order. Raises DeviceError where it has no profiler."""

    def close(self) -> None:
        """Ends what runs on the device. It may be used again afterwards."""
