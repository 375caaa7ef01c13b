"""A kind of device of a third party, as simple as can be: an entry point, a factory, a device that takes its time."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path

from paceline.devices.device import Health
from paceline.errors import DeviceError, TransientDeviceError
from paceline.measurement import Artifact, Bench, DeviceInfo, Failure, Measurement, OpTime, TransientFailure


class FakeDevice:
    """An artifact's bytes are its latency in milliseconds. `broken` is a file: while it is there, the device is offline."""

    def __init__(
        self, name: str, soc: str, job_s: float, broken: Path | None, delegates: tuple[str, ...], log: Path | None
    ) -> None:
        self.info = DeviceInfo(name, "fake", {"soc": soc, "serial": name}, True, delegates)
        self._job_s, self._broken, self._log = job_s, broken, log

    @property
    def address(self) -> str:
        return f"fake:{self.info.name}"

    def default_bench(self, delegate: str | None = None, threads: int = 1) -> Bench:
        return Bench("fake", delegate or self.info.delegates[0])

    def health(self) -> Health:
        return Health(True, {"load": "0"})

    def measure(self, artifacts: Sequence[Artifact], bench: Bench, reference: Artifact | None = None) -> list[Measurement]:
        if bench.delegate not in self.info.delegates:
            raise DeviceError(f"delegate {bench.delegate!r} isn't available on device {self.info.name!r}")
        self._note("start")
        time.sleep(self._job_s)
        self._note("end")
        if self._broken is not None and self._broken.exists():
            raise TransientDeviceError(f"device {self.info.name!r} is offline")
        return [self._measurement(artifact, bench) for artifact in artifacts]

    def profile(self, artifact: Artifact, bench: Bench) -> list[OpTime]:
        return [OpTime("all", float(artifact.path.read_text()), True)]

    def close(self) -> None: ...

    def _measurement(self, artifact: Artifact, bench: Bench) -> Measurement:
        text = artifact.path.read_text()
        found = Measurement(artifact.subject, artifact.sha256, self.info.fingerprint, bench.key)
        if text == "broken":
            return Measurement(**vars(found) | {"failure": Failure("this is no model")})
        if text == "crash":
            return Measurement(**vars(found) | {"failure": TransientFailure("the worker crashed")})
        if text == "bug":
            raise ZeroDivisionError("a bug of the device")
        return Measurement(artifact.subject, artifact.sha256, self.info.fingerprint, bench.key, ((float(text),) * 3,) * 3)

    def _note(self, what: str) -> None:
        if self._log is not None:
            with self._log.open("a") as log:
                log.write(f"{self.info.name} {what} {time.monotonic()}\n")


def open_fake(
    name: str,
    soc: str = "s1",
    job_s: float = 0.0,
    broken: Path | None = None,
    delegates: tuple[str, ...] = ("cpu",),
    log: Path | None = None,
    absent: Path | None = None,
) -> FakeDevice:
    """While the file `absent` is there, the device can't be opened."""
    if absent is not None and absent.exists():
        raise TransientDeviceError(f"device {name!r} is unplugged")
    return FakeDevice(name, soc, job_s, broken, delegates, log)


def install(folder: Path) -> Path:
    """A folder for PYTHONPATH: with it, `fake` is an installed kind."""
    about = folder / "fake_kind-1.0.dist-info"
    about.mkdir(parents=True)
    (about / "METADATA").write_text("Metadata-Version: 2.1\nName: fake-kind\nVersion: 1.0\n")
    (about / "entry_points.txt").write_text("[paceline.devices]\nfake = fake_kind:open_fake\n")
    (folder / "fake_kind.py").symlink_to(Path(__file__))
    return folder
