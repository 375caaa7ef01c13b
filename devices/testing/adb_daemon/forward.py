"""Connections through the device: "tcp:" for `adb forward`, "reverse:" for `adb reverse`."""

from __future__ import annotations

import asyncio
import contextlib
import re
from collections.abc import Awaitable, Callable

from paceline.devices.testing.adb_daemon.stream import Stream

_FORWARD = re.compile(r"forward:(norebind:)?tcp:(\d+);(.+)")


async def bridge(stream: Stream, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Copies both ways until one side ends."""

    async def up() -> None:
        while data := await reader.read(65536):
            await stream.write(data)

    async def down() -> None:
        while data := await stream.read_some():
            writer.write(data)
            await writer.drain()

    tasks = [asyncio.create_task(up()), asyncio.create_task(down())]
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        writer.close()
        with contextlib.suppress(OSError):
            await writer.wait_closed()


class Reverse:
    """The ports of the device that lead to the host. `open_stream` asks the host for a service."""

    def __init__(self, open_stream: Callable[[str], Awaitable[Stream]]) -> None:
        self.open_stream = open_stream
        self._ports: dict[str, tuple[asyncio.Server, str]] = {}

    async def answer(self, request: str) -> bytes:
        """The reply to what follows "reverse:"."""
        if request == "list-forward":
            lines = "".join(f"host {local} {remote}\n" for local, (_, remote) in self._ports.items())
            return _counted(lines)
        if request == "killforward-all":
            self.close()
            return b"OKAY"
        if request.startswith("killforward:"):
            name = request.removeprefix("killforward:")
            if name not in self._ports:
                return b"FAIL" + _counted(f"listener '{name}' not found")
            self._ports.pop(name)[0].close()
            return b"OKAY"
        found = _FORWARD.fullmatch(request)
        if found is None:
            return b"FAIL" + _counted(f"bad forward: {request}")
        no_rebind, port, remote = found[1], int(found[2]), found[3]
        name = f"tcp:{port}"
        if name in self._ports:
            if no_rebind:
                return b"FAIL" + _counted("cannot rebind existing socket")
            self._ports[name] = (self._ports[name][0], remote)
            return b"OKAY"
        try:
            server = await asyncio.start_server(lambda r, w: self._connected(name, r, w), "127.0.0.1", port)
        except OSError as error:
            return b"FAIL" + _counted(f"cannot bind listener: {error.strerror}")
        chosen = server.sockets[0].getsockname()[1]
        name = f"tcp:{chosen}"
        self._ports[name] = (server, remote)
        return b"OKAY" + (_counted(str(chosen)) if port == 0 else b"")

    async def _connected(self, name: str, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        found = self._ports.get(name)
        if found is None:
            writer.close()
            return
        stream = await self.open_stream(found[1])
        try:
            await stream.accepted()
            await bridge(stream, reader, writer)
        finally:
            writer.close()
            await stream.close()

    def close(self) -> None:
        for server, _ in self._ports.values():
            server.close()
        self._ports.clear()


def _counted(text: str) -> bytes:
    return f"{len(text):04x}{text}".encode()
