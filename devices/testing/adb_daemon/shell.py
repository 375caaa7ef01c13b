"""adb's shell services: "shell:" with and without the shell protocol, and "exec:" (AOSP, daemon/shell_service.cpp)."""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import struct
import subprocess
import termios
import tty
from collections.abc import AsyncIterator, Callable
from concurrent.futures import Executor
from typing import Any

from paceline.devices.testing.adb_daemon.faults import Faults
from paceline.devices.testing.adb_daemon.isolation import Isolation
from paceline.devices.testing.adb_daemon.stream import Stream
from paceline.devices.testing.adb_daemon.wire import LinkLostError

STDIN, STDOUT, STDERR, EXIT, CLOSE_STDIN, WINDOW_SIZE = range(6)
CHUNK = 64 * 1024
_SETSID = shutil.which("setsid") or "setsid"  # not toybox's, which comes first on the phone
FRAME = struct.Struct("<BI")


class Shell:
    """One command. `protocol`: streams are told apart and the exit code is reported; `pty`: the command has a terminal.

    started: told the process id when the command runs, and again, with its CPU seconds, when it has ended.
    """

    def __init__(
        self,
        stream: Stream,
        isolation: Isolation,
        faults: Faults,
        executor: Executor,
        started: Callable[[int], None],
        ended: Callable[[int, float], None],
    ) -> None:
        self.stream = stream
        self.isolation = isolation
        self.faults = faults
        self.executor = executor
        self.started = started
        self.ended = ended
        self._printed = 0
        self._protocol = False

    async def serve(self, command: str, protocol: bool, pty: bool) -> None:
        """Runs `command` to its end. Raises LinkLostError where the host goes away or a fault wants the link cut."""
        self._protocol = protocol
        if delay := self.faults.take("shell_delay"):
            await asyncio.sleep(delay)
        if self.faults.take("shell_hang"):
            await self.stream.closed.wait()
            return
        ends = _Ends.open(protocol, pty)
        try:
            process = await asyncio.get_running_loop().run_in_executor(self.executor, self._start, command, ends)
        finally:
            ends.close_childs()
        self.started(process.pid)
        feeder = asyncio.create_task(self._feed(ends, process))
        outputs = [self._pump(ends.out, STDOUT)] + ([self._pump(ends.err, STDERR)] if ends.err is not None else [])
        waiter = asyncio.get_running_loop().run_in_executor(self.executor, self._wait, process)
        tasks = [asyncio.create_task(output) for output in outputs]
        try:
            await asyncio.gather(*tasks)
            code = await asyncio.shield(waiter)
            if (wanted := self.faults.take("shell_exit")) is not None:
                code = wanted
            if protocol:
                await self.stream.write(FRAME.pack(EXIT, 1) + bytes([code & 0xFF]))
        finally:
            for task in (feeder, *tasks):
                task.cancel()
            await asyncio.gather(feeder, *tasks, return_exceptions=True)
            if waiter.done() or protocol:
                self._hang_up(process)
                ends.close()
            else:  # adbd leaves a command without the protocol alone, its terminal included
                waiter.add_done_callback(lambda _: ends.close())

    def _hang_up(self, process: subprocess.Popen[bytes]) -> None:
        if process.returncode is None:
            self.isolation.hang_up(process.pid)

    def _start(self, command: str, ends: _Ends) -> subprocess.Popen[bytes]:
        argv = self.isolation.argv(command)
        return subprocess.Popen(
            [_SETSID, "--ctty", *argv] if ends.pty else argv,
            stdin=ends.childs[0], stdout=ends.childs[1], stderr=ends.childs[2],
            start_new_session=not ends.pty, env=self.isolation.environment(), cwd=self.isolation.home,
        )  # fmt: skip

    def _wait(self, process: subprocess.Popen[bytes]) -> int:
        """The exit code, 128 and more for a signal's number, as a shell has it."""
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        self.ended(process.pid, usage.ru_utime + usage.ru_stime)
        return process.returncode if process.returncode >= 0 else 128 - process.returncode

    async def _pump(self, descriptor: int, kind: int) -> None:
        async for data in _chunks(descriptor):
            await self._print(kind, self.isolation.printed(data))

    async def _print(self, kind: int, data: bytes) -> None:
        limit = self.faults.shell_truncate
        if limit is not None and self._printed + len(data) > limit:
            await self.stream.write(self._framed(kind, data[: max(limit - self._printed, 0)]))
            self.faults.fired("shell_truncate")
            raise LinkLostError("shell_truncate")
        self._printed += len(data)
        await self.stream.write(self._framed(kind, data))

    def _framed(self, kind: int, data: bytes) -> bytes:
        return FRAME.pack(kind, len(data)) + data if self._protocol else data

    async def _feed(self, ends: _Ends, process: subprocess.Popen[bytes]) -> None:
        """What the host types, to the command; the host's end, as a hang-up."""
        open_ = True
        with contextlib.suppress(LinkLostError):
            while True:
                kind, data = await self._typed()
                if kind == STDIN and open_ and ends.stdin is not None:
                    open_ = await _write(ends.stdin, data)
                elif kind == CLOSE_STDIN:
                    ends.close_stdin()
                elif kind == WINDOW_SIZE and ends.pty:
                    rows, columns = (int(part) for part in data.rstrip(b"\0").split(b",")[0].split(b"x"))
                    termios.tcsetwinsize(ends.out, (rows, columns))
        if self._protocol:
            self._hang_up(process)

    async def _typed(self) -> tuple[int, bytes]:
        if self._protocol:
            kind, size = FRAME.unpack(await self.stream.read(FRAME.size))
            return kind, await self.stream.read(size) if size else b""
        data = await self.stream.read_some()
        if not data:
            raise LinkLostError("the host closed the stream")
        return STDIN, data


class _Ends:
    """Descriptors: what the command gets, and our ends of it."""

    def __init__(self, childs: tuple[int, int, int], stdin: int | None, out: int, err: int | None, pty: bool) -> None:
        self.childs = childs
        self.stdin = stdin
        self.out = out
        self.err = err
        self.pty = pty
        for descriptor in {stdin, out, err} - {None}:
            assert descriptor is not None
            os.set_blocking(descriptor, False)

    @classmethod
    def open(cls, protocol: bool, pty: bool) -> _Ends:
        """With the protocol, each stream has a pipe; without, all goes through one terminal, raw where none was asked for."""
        if pty or not protocol:
            ours, childs = os.openpty()
            if not pty:
                tty.setraw(childs)
            return cls((childs, childs, childs), ours, ours, None, True)
        stdin, ours_in = os.pipe()
        ours_out, out = os.pipe()
        ours_err, err = os.pipe()
        return cls((stdin, out, err), ours_in, ours_out, ours_err, False)

    def close_childs(self) -> None:
        for descriptor in set(self.childs):
            os.close(descriptor)

    def close_stdin(self) -> None:
        if self.stdin is not None and not self.pty:
            os.close(self.stdin)
            self.stdin = None

    def close(self) -> None:
        self.close_stdin()
        for descriptor in (self.out, self.err):
            if descriptor is not None:
                os.close(descriptor)


def _set(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)


async def _ready(descriptor: int, add: Callable[..., Any], remove: Callable[[int], Any]) -> None:
    future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
    add(descriptor, _set, future)
    try:
        await future
    finally:
        remove(descriptor)


async def _chunks(descriptor: int) -> AsyncIterator[bytes]:
    """What is printed, as it comes, to the end."""
    loop = asyncio.get_running_loop()
    while True:
        await _ready(descriptor, loop.add_reader, loop.remove_reader)
        try:
            data = os.read(descriptor, CHUNK)
        except BlockingIOError:
            continue
        except OSError:
            return  # EIO: the last process left the terminal
        if not data:
            return
        yield data


async def _write(descriptor: int, data: bytes) -> bool:
    """False where nobody reads any more."""
    loop = asyncio.get_running_loop()
    while data:
        try:
            data = data[os.write(descriptor, data) :]
        except BlockingIOError:
            await _ready(descriptor, loop.add_writer, loop.remove_writer)
        except OSError:
            return False
    return True
