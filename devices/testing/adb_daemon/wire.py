"""adb's transport protocol: packets of a 24-byte header and a payload (AOSP, packages/modules/adb, protocol.txt)."""

from __future__ import annotations

import asyncio
import struct
from dataclasses import dataclass

VERSION_WITH_CHECKSUMS = 0x01000000  # devices up to Android 8
VERSION = 0x01000001
MAX_PAYLOAD_OLD = 4096
MAX_PAYLOAD = 1 << 20
HEADER = struct.Struct("<6I")
AUTH_TOKEN, AUTH_SIGNATURE, AUTH_PUBLIC_KEY = 1, 2, 3

_CODES = {
    name: int.from_bytes(name.encode(), "little") for name in ("CNXN", "AUTH", "OPEN", "OKAY", "CLSE", "WRTE", "STLS", "SYNC")
}
_NAMES = {code: name for name, code in _CODES.items()}


class LinkLostError(Exception):
    """The host went away, or a fault cut the link."""


@dataclass(frozen=True)
class Packet:
    """`command` is one of the eight four-letter names; the meaning of the two arguments depends on it."""

    command: str
    arg0: int
    arg1: int
    data: bytes = b""


def encode(packet: Packet, checksum: bool) -> bytes:
    """Header and payload. Without `checksum` its field is 0, as from protocol version 0x01000001 on."""
    code = _CODES[packet.command]
    total = sum(packet.data) & 0xFFFFFFFF if checksum else 0
    return HEADER.pack(code, packet.arg0, packet.arg1, len(packet.data), total, code ^ 0xFFFFFFFF) + packet.data


async def read_packet(reader: asyncio.StreamReader) -> Packet:
    """The next packet. Raises LinkLostError at the end of the link and where what comes is no packet."""
    try:
        code, arg0, arg1, length, _, magic = HEADER.unpack(await reader.readexactly(HEADER.size))
        if code ^ 0xFFFFFFFF != magic or code not in _NAMES or length > MAX_PAYLOAD:
            raise LinkLostError("not a packet of the adb protocol")
        return Packet(_NAMES[code], arg0, arg1, await reader.readexactly(length))
    except (asyncio.IncompleteReadError, OSError) as error:
        raise LinkLostError("the host closed the link") from error
