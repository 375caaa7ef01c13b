"""One of the many streams in a link: at most one unacknowledged packet per direction."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable

from paceline.devices.testing.adb_daemon.wire import LinkLostError, Packet

CLOSE_PATIENCE_S = 30.0


class Stream:
    """A byte stream to the host. `local` and `remote` are the ids that the two ends call it by."""

    def __init__(self, local: int, remote: int, max_payload: int, send: Callable[[Packet], Awaitable[None]]) -> None:
        self.local = local
        self.remote = remote
        self.max_payload = max_payload
        self.send = send
        self.closed = asyncio.Event()  # by the host
        self._ready = asyncio.Event()
        self._arrived: asyncio.Queue[bytes | None] = asyncio.Queue()
        self._rest = b""
        self._ended = False

    # what the link tells the stream

    def acknowledged(self, remote: int) -> None:
        self.remote = remote
        self._ready.set()

    def arrived(self, data: bytes) -> None:
        self._arrived.put_nowait(data)

    def lost(self) -> None:
        self.closed.set()
        self._ready.set()
        self._arrived.put_nowait(None)

    # what a service does with it

    async def accepted(self) -> None:
        """Waits until the host is ready to receive."""
        await self._ready.wait()
        if self.closed.is_set():
            raise LinkLostError("the host closed the stream")

    async def write(self, data: bytes) -> None:
        """Sends all of `data`. Raises LinkLostError where the host closes the stream before."""
        for start in range(0, len(data), self.max_payload):
            await self.accepted()
            self._ready.clear()
            await self.send(Packet("WRTE", self.local, self.remote, data[start : start + self.max_payload]))

    async def read_some(self) -> bytes:
        """What has come, at least one byte; empty at the end of the stream."""
        if self._rest:
            data, self._rest = self._rest, b""
            return data
        if self._ended:
            return b""
        arrived = await self._arrived.get()
        if arrived is None:
            self._ended = True
            return b""
        await self.send(Packet("OKAY", self.local, self.remote))
        return arrived

    async def read(self, size: int) -> bytes:
        """Exactly `size` bytes. Raises LinkLostError where the stream ends before."""
        data = bytearray(self._rest)
        self._rest = b""
        while len(data) < size:
            some = await self.read_some()
            if not some:
                raise LinkLostError("the host closed the stream")
            data += some
        self._rest = bytes(data[size:])
        return bytes(data[:size])

    async def close(self) -> None:
        """Closes this end, when the host has taken what was written."""
        if not self.closed.is_set():
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._ready.wait(), CLOSE_PATIENCE_S)
        if not self.closed.is_set():
            self.closed.set()
            await self.send(Packet("CLSE", self.local, self.remote))
