"""What waits. A simulated device has a clock of its own, so that waiting for it costs no time."""

from __future__ import annotations

from typing import Protocol


class Clock(Protocol):
    """The `time` module is one."""

    def monotonic(self) -> float: ...

    def sleep(self, seconds: float, /) -> None: ...
