"""The clock of a simulated phone."""

from __future__ import annotations

import time


class VirtualClock:
    """A Clock (paceline.devices.clock) that only moves when something is done or waited for.

    `real_time` is how many real seconds a virtual one takes: 0 none, 1 as many.
    """

    def __init__(self, real_time: float = 0.0) -> None:
        self._real_time = real_time
        self._now_s = 0.0
        self._owed_s = 0.0

    def monotonic(self) -> float:
        return self._now_s

    def sleep(self, seconds: float, /) -> None:
        self._now_s += seconds
        self._owed_s += seconds * self._real_time
        if self._owed_s > 1e-3:  # shorter sleeps overshoot by much of their length; what one overshoots, the next one saves
            start = time.monotonic()
            time.sleep(self._owed_s)
            self._owed_s -= time.monotonic() - start
