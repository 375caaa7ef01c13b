"""All protocols for which the data folder holds something, and their results as a table or JSON."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import asdict
from importlib import import_module
from math import isfinite
from pathlib import Path
from typing import Any, Protocol

from paceline.errors import ConfigError, DataError
from paceline.latency_models.leaderboard.result import LeaderboardProtocol, Result
from paceline.measurement import Progress

NAMES = ("nb201", "fbnet", "blocks", "phones", "host")
"""The protocols, each a module of this package."""

MEASURING = "host"
"""The one that needs no data and runs only where it is named, because it measures."""


class Show(Protocol):
    def __call__(self, title: str) -> AbstractContextManager[Progress]: ...


def protocol_of(name: str) -> LeaderboardProtocol:
    """Raises ConfigError for a name that none has."""
    if name not in NAMES:
        raise ConfigError(f"no protocol {name!r}; there are {', '.join(NAMES)}")
    found: LeaderboardProtocol = import_module(f"paceline.latency_models.leaderboard.{name}").PROTOCOL
    return found


def run(data: Path, names: Sequence[str], seeds: int, devices: Sequence[str], show: Show) -> tuple[list[Result], dict[str, str]]:
    """The results of the protocols `names` (all of them if empty), and why a protocol has none.

    A protocol that was named must have its data; of all others one without data is left out with its reason. Raises ConfigError
    for an unknown name, DataError where there is nothing at all.
    """
    results: list[Result] = []
    reasons: dict[str, str] = {}
    if set(names) != {MEASURING} and not data.is_dir():
        raise DataError(f"no folder {data} with public latency data; name it with --data")
    for name in names or [n for n in NAMES if n != MEASURING]:
        with show(name) as progress:
            try:
                results += protocol_of(name).results(data, seeds, devices, progress)
            except DataError as e:
                if names:
                    raise
                reasons[name] = str(e)
    if not results:
        raise DataError(f"{data} holds nothing for {', '.join(names or NAMES)}: " + "; ".join(reasons.values()))
    return results, reasons


def as_json(results: Sequence[Result]) -> list[dict[str, Any]]:
    """Rows for JSON; figures that don't exist (the rank correlation of a constant) are null."""
    return [{name: _plain(value) for name, value in asdict(result).items()} for result in results]


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {name: _plain(v) for name, v in value.items()}
    return value if not isinstance(value, float) or isfinite(value) else None
