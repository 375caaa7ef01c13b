"""The connection to a simulated phone: commands run on this host, faults and delays come from the phone."""

from __future__ import annotations

import subprocess
from dataclasses import replace
from pathlib import Path

from paceline.devices.simulated.phone import SimulatedPhone
from paceline.devices.transports.transport import CommandTimeoutError, Completed, Transport
from paceline.errors import TransientDeviceError

_GARBAGE = b"\x00\xff\x07garbage of a broken link\xfe"


class SimulatedTransport:
    """A Transport around `shell`, which does the real work (a LocalTransport). Raises what a real phone's would."""

    def __init__(self, phone: SimulatedPhone, shell: Transport) -> None:
        self.phone, self._shell = phone, shell

    @property
    def address(self) -> str:
        return self.phone.address

    def run(self, command: str, timeout_s: float) -> Completed:
        self._begin(command, timeout_s)
        done = self._shell.run(command, timeout_s)
        return replace(done, out=_GARBAGE) if self.phone.struck("corrupt_result") else done

    def push(self, path: Path, executable: bool = False) -> str:
        self.phone.receive(path)
        return self._shell.push(path, executable)

    def pull(self, remote: str, timeout_s: float) -> bytes:
        self._begin(f"the pull of {remote}", timeout_s)
        content = self._shell.pull(remote, timeout_s)
        self.phone.spend(len(content) / (self.phone.profile.link_mb_s * 1e6))
        if self.phone.struck("corrupt_result"):
            raise TransientDeviceError(f"{remote} arrived from device {self.address} with a wrong hash")
        return content

    def start(self, command: str) -> subprocess.Popen[bytes]:
        self.phone.reach()
        return self._shell.start(command)

    def close(self) -> None:
        """Nothing is kept open."""

    def _begin(self, what: str, timeout_s: float) -> None:
        phone = self.phone
        phone.reach()
        phone.spend(phone.profile.command_ms / 1e3)
        if phone.struck("disconnect_run"):
            raise phone.cut(what)
        if phone.struck("hang"):
            phone.spend(timeout_s)
            raise CommandTimeoutError(f"no end of {what!r} on device {self.address} within {timeout_s:g} s; it was ended")
