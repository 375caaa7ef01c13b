"""How warm a simulated phone is, and which part of its clock that leaves it."""

from __future__ import annotations

import math

from paceline.devices.simulated.profile import Heat


class Body:
    """A first-order thermal model: the temperature follows the power with one time constant; throttling has hysteresis."""

    def __init__(self, heat: Heat) -> None:
        self._heat = heat
        self.ambient_c = heat.ambient_c
        self.celsius = heat.ambient_c + heat.c_per_watt * heat.idle_watts
        self._level = 0
        self._held_until_s = -math.inf
        self._now_s = 0.0

    def spend(self, seconds: float, watts: float) -> None:
        """`seconds` pass under `watts` above idle."""
        self._now_s += seconds
        target = self.ambient_c + self._heat.c_per_watt * (self._heat.idle_watts + watts)
        self.celsius = target + (self.celsius - target) * math.exp(-seconds / self._heat.seconds)
        steps = self._heat.steps
        while self._level < len(steps) and self.celsius >= steps[self._level].above_c:
            self._level += 1
        while self._level and self.celsius < steps[self._level - 1].below_c:
            self._level -= 1

    def throttle(self, seconds: float) -> None:
        """Starts an episode: for so long the second step holds, whatever the temperature."""
        self._held_until_s = self._now_s + seconds

    @property
    def status(self) -> int:
        """As Android counts: 0 none, 1 light, 2 moderate, 3 severe."""
        held = min(2, len(self._heat.steps)) if self._now_s < self._held_until_s else 0
        return max(self._level, held)

    @property
    def clock(self) -> float:
        """The part of the fixed clock that is left."""
        return self._heat.steps[self.status - 1].clock if self.status else 1.0
