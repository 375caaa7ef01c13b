"""A device-side adb daemon: what `adb` and adbutils talk to instead of a phone's adbd."""

from __future__ import annotations

import asyncio
import re
import threading
from collections.abc import Coroutine
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import TracebackType
from typing import Any, TypeVar

from paceline.devices.testing.adb_daemon.activity import Activity, PhoneFiles
from paceline.devices.testing.adb_daemon.auth import PublicKey
from paceline.devices.testing.adb_daemon.commands import AndroidCommands
from paceline.devices.testing.adb_daemon.faults import Faults
from paceline.devices.testing.adb_daemon.forward import bridge
from paceline.devices.testing.adb_daemon.isolation import Mode, isolate
from paceline.devices.testing.adb_daemon.link import MODERN, AdbProtocol, Link, Service
from paceline.devices.testing.adb_daemon.programs import serve_programs, write_programs
from paceline.devices.testing.adb_daemon.shell import Shell
from paceline.devices.testing.adb_daemon.sync import SyncService
from paceline.devices.testing.adb_daemon.wire import LinkLostError
from paceline.devices.testing.phone import Phone

T = TypeVar("T")
REFRESH_S = 0.25  # of the files that tell the phone's state, while commands run
BOOT_S = 1.0
COMMANDS_AT_ONCE = 256
_SHELL = re.compile(r"(shell|exec)(?:,([^:]*))?:(.*)", re.DOTALL)


class AdbDaemon:
    """`with AdbDaemon(folder, Phone()) as daemon:` and then `adb connect {daemon.address}`.

    Commands really run, on this machine, with `root` as the phone's file system (see the module `isolation`). It has a thread of
    its own; any number of them fit into a process. Everything listens on the loopback interface only.

    root: folder for the phone's files; kept
    port: 0 for any free one
    isolation: "namespaces" raises DeviceError where they can't be had; "auto" then rewrites paths
    """

    def __init__(
        self,
        root: Path,
        phone: Phone | None = None,
        *,
        faults: Faults | None = None,
        protocol: AdbProtocol = MODERN,
        isolation: Mode = "auto",
        port: int = 0,
    ) -> None:
        self.root = root
        self.phone = phone or Phone()
        self.faults = faults or Faults()
        self.protocol = protocol
        self.port = port
        self.keys: list[PublicKey] = []  # of the hosts it trusts
        self.history: list[str] = []  # services opened and requests for files
        self._mode: Mode = isolation
        self._activity = Activity()
        self._links: set[Link] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._present = asyncio.Event()

    def __enter__(self) -> AdbDaemon:
        self.phone.tick()
        self._files = PhoneFiles(self.root, self.phone)
        self._files.refresh()
        self._isolation = isolate(self.root, self._files.proc, self._mode)
        self._executor = ThreadPoolExecutor(COMMANDS_AT_ONCE, thread_name_prefix="adb-shell")
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name=f"adbd-{self.phone.serial}", daemon=True)
        self._thread.start()
        try:
            self._call(self._start())
        except BaseException:
            self._end()
            raise
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._call(self._stop())
        self._end()

    def _end(self) -> None:
        self._isolation.close()
        self._activity.kill()
        self._executor.shutdown()  # its commands are dead
        self._call(asyncio.sleep(0))  # which the loop learns of here
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    @property
    def address(self) -> str:
        """For `adb connect`, and the device's serial from then on."""
        return f"127.0.0.1:{self.port}"

    @property
    def isolation(self) -> str:
        """What commands run in: "namespaces" or "rewriting"."""
        return self._isolation.name

    @property
    def commands(self) -> list[str]:
        """The shell commands in the history."""
        found = (_SHELL.fullmatch(entry) for entry in self.history)
        return [match[3] for match in found if match is not None]

    def path(self, remote: str) -> Path:
        """This machine's path of a file on the phone."""
        return self._isolation.path(remote)

    def cut(self) -> None:
        """Breaks all links, as when the cable is pulled and put back: adb connects again by itself."""
        self._loop.call_soon_threadsafe(self._cut)

    def reboot(self, away_s: float = BOOT_S) -> None:
        """Restarts the phone: its programs end, its links break, and hosts that connect get no answer for a while ("offline").

        Returns when it is away.
        """
        self._call(self._go_away())
        self._loop.call_soon_threadsafe(self._start_task, self._come_back(away_s))

    def _call(self, work: Coroutine[Any, Any, T]) -> T:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result()

    # below: in the daemon's thread

    async def _start(self) -> None:
        android = AndroidCommands(self.phone, lambda: self._start_task(self._reboot(BOOT_S)))
        self._programs = await serve_programs(android.run)
        port = self._programs.sockets[0].getsockname()[1]
        write_programs(self.root / "system/bin", android.names, port, self.phone.cpus)
        self._present.set()
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", self.port)
        self.port = self._server.sockets[0].getsockname()[1]
        self._start_task(self._keep_fresh())

    async def _stop(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self._programs.close()
        self._server.close()
        self._present.set()
        self._cut()
        self._isolation.close()
        await asyncio.gather(*(asyncio.all_tasks() - {asyncio.current_task()}), return_exceptions=True)

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        names = ("ro.product.name", "ro.product.model", "ro.product.device")
        banner = "device::" + "".join(f"{name}={self.phone.props.get(name, '')};" for name in names)
        link = Link(reader, writer, self.protocol, banner, self.faults, self.keys, self._find_service)
        self._links.add(link)
        try:
            await self._present.wait()
            await link.serve()
        finally:
            self._links.discard(link)

    def _cut(self) -> None:
        for link in self._links:
            link.cut()

    def _start_task(self, work: Coroutine[Any, Any, None]) -> None:
        task = self._loop.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _reboot(self, away_s: float) -> None:
        await self._go_away()
        await self._come_back(away_s)

    async def _go_away(self) -> None:
        self._present.clear()
        self._cut()
        self._isolation.kill_all()

    async def _come_back(self, away_s: float) -> None:
        await asyncio.sleep(away_s)
        self._present.set()

    def _refresh(self) -> None:
        self.phone.tick(self._activity.take())
        self._files.refresh()

    async def _keep_fresh(self) -> None:
        while True:
            await asyncio.sleep(REFRESH_S)
            if self._activity.busy:
                self._refresh()

    async def _find_service(self, link: Link, name: str) -> Service | None:
        self.history.append(name)
        if self.faults.refuse_services and name.startswith(self.faults.refuse_services):
            self.faults.fired("refuse_services")
            return None
        shell = _SHELL.fullmatch(name)
        if shell is not None:
            if self.faults.counts_down():
                raise LinkLostError("drop_after")
            if (away_s := self.faults.take("reboot")) is not None:
                self._start_task(self._reboot(away_s))
                raise LinkLostError("reboot")
            options = (shell[2] or "").split(",")
            protocol = "v2" in options
            if protocol and "shell_v2" not in self.protocol.features:
                return None
            pty = "pty" in options or (not shell[3] and "raw" not in options)
            return self._shell(shell[3], protocol, pty and shell[1] == "shell")
        match name.partition(":"):
            case ("sync", _, ""):
                return lambda stream: SyncService(stream, self._isolation, self.faults).serve(self.history)
            case ("tcp", _, port) if port.isdecimal():
                return await _connected(int(port))
            case ("reverse", _, request):
                return _says(await link.reverse.answer(request))
            case ("reboot", _, _):
                self._start_task(self._reboot(BOOT_S))
                return _says(b"")
            case ("root", _, _):
                return _says(b"adbd cannot run as root in production builds\n")
            case ("unroot", _, _):
                return _says(b"adbd not running as root\n")
        return None

    def _shell(self, command: str, protocol: bool, pty: bool) -> Service:
        self._refresh()
        return lambda stream: Shell(
            stream, self._isolation, self.faults, self._executor, self._activity.started, self._activity.ended
        ).serve(command, protocol, pty)


def _says(reply: bytes) -> Service:
    return lambda stream: stream.write(reply)


async def _connected(port: int) -> Service | None:
    try:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
    except OSError:
        return None
    return lambda stream: bridge(stream, reader, writer)
