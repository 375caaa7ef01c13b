"""What lives at the other end of a transport: what it is, how it feels, and how to make it hold still."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractContextManager
from typing import Protocol


class System(Protocol):
    """Linux, Android, or an imitation of one."""

    def facts(self) -> dict[str, str]:
        """What identifies the device: build, SoC, cores and clusters, GPU. Part of its fingerprint."""

    def condition(self) -> dict[str, str]:
        """How it feels now: load, clocks, temperatures, battery; kept with every measurement. The names end in their units."""

    def trouble(self, condition: Mapping[str, str]) -> tuple[str, ...]:
        """Why figures taken in this condition would not be true; each says what to do. Empty where all is well."""

    def quiet(self) -> AbstractContextManager[None]:
        """Changes settings for the time of a measurement; what was changed is journalled on disk first and restored after."""

    def cpus(self) -> tuple[int, ...]:
        """The CPUs that a runner may be pinned to, the slowest first."""
