"""A device of scripted parts: what its link, its condition and its runner do is a list."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from paceline.devices.runners.runner import Batch
from paceline.devices.transports.transport import Completed
from paceline.errors import TransientDeviceError
from paceline.measurement import Artifact, Bench, Delegation, Failure, OpTime

QUICK = Bench(runtime="script", delegate="cpu", batches=3, repeats=1)


class Hours:
    """A clock that is read in seconds and costs none."""

    def __init__(self) -> None:
        self.now = 0.0

    def monotonic(self) -> float:
        return self.now

    def sleep(self, seconds: float, /) -> None:
        self.now += seconds


@dataclass
class Link:
    """`down` is for how many commands the device can't be reached."""

    address: str = "script:1"
    down: int = 0

    def run(self, command: str, timeout_s: float) -> Completed:
        if self.down > 0:
            self.down -= 1
            raise TransientDeviceError("device script:1 is offline")
        return Completed(0, b"", b"")

    def push(self, path: Path, executable: bool = False) -> str:
        return str(path)

    def pull(self, remote: str, timeout_s: float) -> bytes:
        return Path(remote).read_bytes()

    def start(self, command: str) -> subprocess.Popen[bytes]:
        raise NotImplementedError

    def close(self) -> None:
        """Nothing is kept open."""


@dataclass
class Body:
    """`heats` are the temperatures that are read one after the other; the last stays. Above 40 is trouble."""

    heats: list[float] = field(default_factory=lambda: [30.0])
    quieted: list[str] = field(default_factory=list)

    def facts(self) -> dict[str, str]:
        return {"soc": "script"}

    def condition(self) -> dict[str, str]:
        return {"skin_celsius": f"{self.heats.pop(0) if len(self.heats) > 1 else self.heats[0]:g}"}

    def trouble(self, condition: Mapping[str, str]) -> tuple[str, ...]:
        return ("too hot: let it cool",) if float(condition["skin_celsius"]) > 40 else ()

    @contextmanager
    def quiet(self) -> Iterator[None]:
        self.quieted.append("changed")
        yield
        self.quieted.append("restored")

    def cpus(self) -> tuple[int, ...]:
        return (0, 1, 2, 3)


@dataclass
class Script:
    """A runner whose answers per subject are a list; the last repeats. An exception in it is raised."""

    answers: dict[str, list[float | Failure | TransientDeviceError]]
    delegated: Delegation | None = None
    sessions: int = 0
    runtime: str = "script"
    formats: tuple[str, ...] = ("tflite",)

    def facts(self) -> dict[str, str]:
        return {"script": "1"}

    def delegates(self) -> tuple[str, ...]:
        return ("cpu", "gpu")

    def session(self, bench: Bench) -> Script:
        self.sessions += 1
        return self

    def batch(self, artifact: Artifact) -> Batch | Failure:
        script = self.answers[artifact.subject]
        answer = script.pop(0) if len(script) > 1 else script[0]
        if isinstance(answer, TransientDeviceError):
            raise answer
        return answer if isinstance(answer, Failure) else Batch((answer,) * 10, 1.0)

    def delegation(self, artifact: Artifact) -> Delegation | None:
        return self.delegated

    def profile(self, artifact: Artifact, bench: Bench) -> list[OpTime]:
        return [OpTime("CONV_2D", 1.0, False)]

    def close(self) -> None:
        pass
