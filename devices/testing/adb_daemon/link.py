"""One TCP link to a host: connection, authentication, and the streams it carries (AOSP, protocol.txt)."""

from __future__ import annotations

import asyncio
import contextlib
import secrets
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from paceline.devices.testing.adb_daemon import wire
from paceline.devices.testing.adb_daemon.auth import TOKEN_BYTES, PublicKey
from paceline.devices.testing.adb_daemon.faults import Faults
from paceline.devices.testing.adb_daemon.forward import Reverse
from paceline.devices.testing.adb_daemon.stream import Stream
from paceline.devices.testing.adb_daemon.wire import LinkLostError, Packet


@dataclass(frozen=True)
class AdbProtocol:
    """What the device's adbd can do. Without the feature "shell_v2", hosts get no exit codes, and standard error is mixed in."""

    version: int = wire.VERSION
    max_payload: int = wire.MAX_PAYLOAD
    features: tuple[str, ...] = ("shell_v2", "cmd", "stat_v2", "ls_v2", "fixed_push_mkdir", "apex")


MODERN = AdbProtocol()
OLD = AdbProtocol(wire.VERSION_WITH_CHECKSUMS, wire.MAX_PAYLOAD_OLD, ())  # Android 6: no features, checksums, small packets

Service = Callable[[Stream], Awaitable[None]]


class Link:
    """Serves one host. `find_service` gives what a name opens, None where the device refuses; `keys` are the hosts it trusts."""

    def __init__(
        self,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        protocol: AdbProtocol,
        banner: str,
        faults: Faults,
        keys: list[PublicKey],
        find_service: Callable[[Link, str], Awaitable[Service | None]],
    ) -> None:
        self.reader = reader
        self.writer = writer
        self.protocol = protocol
        self.banner = banner
        self.faults = faults
        self.keys = keys
        self.find_service = find_service
        self.reverse = Reverse(self._open_stream)
        self._version = wire.VERSION_WITH_CHECKSUMS
        self._max_payload = wire.MAX_PAYLOAD_OLD
        self._token = b""
        self._trusted = False
        self._streams: dict[int, Stream] = {}
        self._last_id = 0
        self._tasks: set[asyncio.Task[None]] = set()
        self._writing = asyncio.Lock()

    async def send(self, packet: Packet) -> None:
        """Raises LinkLostError where the host is gone."""
        if self.faults.packet_delay:
            await asyncio.sleep(self.faults.packet_delay)
        checksum = self._version < wire.VERSION or packet.command in ("CNXN", "AUTH")
        async with self._writing:
            try:
                self.writer.write(wire.encode(packet, checksum))
                await self.writer.drain()
            except OSError as error:
                raise LinkLostError("the host closed the link") from error

    def cut(self) -> None:
        """As when the cable is pulled."""
        self.writer.transport.abort()

    async def serve(self) -> None:
        """Until the link ends."""
        try:
            while True:
                packet = await wire.read_packet(self.reader)
                if not self.faults.offline:
                    await self._take(packet)
        except LinkLostError:
            pass
        finally:
            await self._end()

    async def _end(self) -> None:
        for stream in self._streams.values():
            stream.lost()
        self.reverse.close()
        self.cut()
        await asyncio.sleep(0)  # services see the end of their streams
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _take(self, packet: Packet) -> None:
        match packet.command:
            case "CNXN":
                self._version = min(packet.arg0, self.protocol.version)
                self._max_payload = min(packet.arg1, self.protocol.max_payload)
                await (self._welcome() if self.faults.auth == "open" else self._challenge())
            case "AUTH":
                await self._authenticate(packet)
            case _ if not self._trusted:
                return
            case "OPEN":
                self._start(self._serve(packet.arg0, packet.data.rstrip(b"\0").decode(errors="surrogateescape")))
            case "OKAY" if stream := self._streams.get(packet.arg1):
                stream.acknowledged(packet.arg0)
            case "WRTE" if stream := self._streams.get(packet.arg1):
                stream.arrived(packet.data)
            case "WRTE":
                await self.send(Packet("CLSE", 0, packet.arg0))
            case "CLSE" if stream := self._streams.pop(packet.arg1, None):
                stream.lost()

    async def _welcome(self) -> None:
        self._trusted = True
        text = f"{self.banner}features={','.join(self.protocol.features)}"
        await self.send(Packet("CNXN", self.protocol.version, self.protocol.max_payload, text.encode()))

    async def _challenge(self) -> None:
        self._token = secrets.token_bytes(TOKEN_BYTES)
        await self.send(Packet("AUTH", wire.AUTH_TOKEN, 0, self._token))

    async def _authenticate(self, packet: Packet) -> None:
        if packet.arg0 == wire.AUTH_SIGNATURE:
            known = self._token and self.faults.auth != "deny" and any(key.signed(self._token, packet.data) for key in self.keys)
            await (self._welcome() if known else self._challenge())
        elif packet.arg0 == wire.AUTH_PUBLIC_KEY and self.faults.auth == "prompt":
            await asyncio.sleep(self.faults.prompt_s)
            with contextlib.suppress(ValueError):  # what is no key is never trusted
                self.keys.append(PublicKey.parse(packet.data))
                await self._welcome()
        # otherwise it stays silent, and the host calls the device "unauthorized"

    async def _open_stream(self, service: str) -> Stream:
        stream = self._new_stream(0)
        await self.send(Packet("OPEN", stream.local, 0, service.encode() + b"\0"))
        return stream

    def _new_stream(self, remote: int) -> Stream:
        self._last_id += 1
        stream = Stream(self._last_id, remote, self._max_payload, self.send)
        self._streams[stream.local] = stream
        return stream

    def _start(self, work: Awaitable[None]) -> None:
        task: asyncio.Task[None] = asyncio.ensure_future(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _serve(self, remote: int, name: str) -> None:
        stream = self._new_stream(remote)
        try:
            service = await self.find_service(self, name)
            if service is None:
                await self.send(Packet("CLSE", 0, remote))
                return
            stream.acknowledged(remote)
            await self.send(Packet("OKAY", stream.local, remote))
            await service(stream)
            await stream.close()
        except LinkLostError:
            if not stream.closed.is_set():  # a fault, not the host
                self.cut()
        finally:
            self._streams.pop(stream.local, None)
