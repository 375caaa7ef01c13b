"""Faults that a simulated phone has on command: by chance, by schedule, or at its next operation."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal, get_args

import numpy as np

from paceline.errors import ConfigError

Kind = Literal[
    "offline",
    "unauthorised",
    "reboot",
    "disconnect_push",
    "full_disk",
    "corrupt_push",
    "disconnect_run",
    "hang",
    "corrupt_result",
    "crash",
    "fallback",
    "throttle",
]
KINDS: tuple[Kind, ...] = get_args(Kind)


@dataclass(frozen=True)
class Faults:
    """How likely each fault is (0 to 1) per operation that it can strike, how long it lasts, and what is scheduled.

    Any operation: `offline` (gone for `offline_s`), `unauthorised` (for `unauthorised_s`), `reboot` (back after `reboot_s`,
    settings lost). A push: `disconnect_push` half-way, `full_disk`, `corrupt_push` (wrong hash). A command or batch:
    `disconnect_run` half-way, `hang` until the deadline, `corrupt_result` (garbage text; a pulled file with a wrong hash).
    A load: `fallback`, when the delegate silently leaves all to the CPU. A batch: `throttle` for `throttle_s`; `crash` is the
    part of all models that end the runtime here, always the same ones (scheduled: that of the next batch, from then on).
    `schedule` holds (virtual seconds, kind): each strikes once, at the first operation that it can strike from then on.
    """

    __pydantic_config__: ClassVar[dict[str, str]] = {"extra": "forbid"}  # a table in devices.toml is checked by it

    offline: float = 0.0
    unauthorised: float = 0.0
    reboot: float = 0.0
    disconnect_push: float = 0.0
    full_disk: float = 0.0
    corrupt_push: float = 0.0
    disconnect_run: float = 0.0
    hang: float = 0.0
    corrupt_result: float = 0.0
    crash: float = 0.0
    fallback: float = 0.0
    throttle: float = 0.0
    offline_s: float = 30.0
    unauthorised_s: float = 60.0
    reboot_s: float = 40.0
    throttle_s: float = 120.0
    schedule: tuple[tuple[float, Kind], ...] = ()

    def __post_init__(self) -> None:
        for kind in KINDS:
            if not 0 <= self.rate(kind) <= 1:
                raise ConfigError(f"fault {kind} = {self.rate(kind)!r} is no probability: give 0 to 1")
        for _, kind in self.schedule:
            if kind not in KINDS:
                raise ConfigError(f"unknown fault {kind!r} in the schedule; there are {', '.join(KINDS)}")

    def rate(self, kind: Kind) -> float:
        return float(getattr(self, kind))

    @classmethod
    def next(cls, *kinds: Kind) -> Faults:
        """Each once, as soon as there is an operation that it can strike."""
        return cls(schedule=tuple((0.0, kind) for kind in kinds))


class Dice:
    """Whether a fault strikes now."""

    def __init__(self, rng: np.random.Generator) -> None:
        self._rng = rng
        self._due: list[tuple[float, Kind]] = []
        self.faults = Faults()

    def load(self, faults: Faults) -> None:
        self.faults = faults
        self._due = sorted(faults.schedule)

    def struck(self, kind: Kind, now_s: float) -> bool:
        return self.due(kind, now_s) or self._by_chance(self.faults.rate(kind))

    def due(self, kind: Kind, now_s: float) -> bool:
        """Whether it is scheduled for now, or was for a while ago."""
        for at, (due_s, scheduled) in enumerate(self._due):
            if scheduled == kind and due_s <= now_s:
                del self._due[at]
                return True
        return False

    def _by_chance(self, rate: float) -> bool:
        return rate > 0 and bool(self._rng.random() < rate)
