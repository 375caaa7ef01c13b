"""adb's file transfer service "sync:" (AOSP, SYNC.TXT and daemon/file_sync_service.cpp)."""

from __future__ import annotations

import contextlib
import errno
import io
import os
import stat
import struct
from pathlib import Path

from paceline.devices.testing.adb_daemon.faults import Faults
from paceline.devices.testing.adb_daemon.isolation import Isolation
from paceline.devices.testing.adb_daemon.stream import Stream
from paceline.devices.testing.adb_daemon.wire import LinkLostError

MAX_DATA = 64 * 1024
MAX_PATH = 1024
SHELL_USER = 2000
_STAT_V2 = struct.Struct("<IQQIIIIQqqq")  # error dev ino mode nlink uid gid size atime mtime ctime


class SyncError(Exception):
    """The host is told; the service ends."""


class SyncService:
    """Serves one stream."""

    def __init__(self, stream: Stream, isolation: Isolation, faults: Faults) -> None:
        self.stream = stream
        self.isolation = isolation
        self.faults = faults

    async def serve(self, note: list[str]) -> None:
        """Answers requests until the host quits, and notes each. Raises LinkLostError where a fault wants the link cut."""
        try:
            while True:
                request, length = struct.unpack("<4sI", await self.stream.read(8))
                if length > MAX_PATH:
                    raise SyncError("path too long")
                path = (await self.stream.read(length)).decode(errors="surrogateescape")
                if request == b"QUIT":
                    return
                note.append(f"sync {request.decode(errors='replace')} {path}")
                await self._answer(request, path)
        except SyncError as error:
            text = str(error).encode()
            await self.stream.write(b"FAIL" + struct.pack("<I", len(text)) + text)

    async def _answer(self, request: bytes, path: str) -> None:
        match request:
            case b"STAT":
                status = _stat_or_error(self.isolation.path(path, follow=False))
                known = (
                    (status.st_mode, status.st_size & 0xFFFFFFFF, int(status.st_mtime))
                    if isinstance(status, os.stat_result)
                    else (0, 0, 0)
                )
                await self.stream.write(b"STAT" + struct.pack("<III", *known))
            case b"STA2" | b"LST2":
                status = _stat_or_error(self.isolation.path(path, follow=request == b"STA2"))
                await self.stream.write(request + _packed(status))
            case b"LIST" | b"LIS2":
                await self._list(self.isolation.path(path), version_2=request == b"LIS2")
            case b"RECV":
                await self._receive(self.isolation.path(path))
            case b"SEND":
                await self._send(path)
            case _:
                raise SyncError(f"unknown command {int.from_bytes(request, 'little'):08x}")

    async def _list(self, folder: Path, version_2: bool) -> None:
        names = [".", "..", *os.listdir(folder)] if folder.is_dir() else []
        for name in names:
            status, raw = _stat_or_error(folder / name), os.fsencode(name)
            if version_2:
                await self.stream.write(b"DNT2" + _packed(status) + struct.pack("<I", len(raw)) + raw)
            elif isinstance(status, os.stat_result):
                entry = struct.pack("<IIII", status.st_mode, status.st_size & 0xFFFFFFFF, int(status.st_mtime), len(raw))
                await self.stream.write(b"DENT" + entry + raw)
        await self.stream.write(b"DONE" + bytes(72 if version_2 else 16))

    async def _receive(self, path: Path) -> None:
        """A file to the host."""
        try:
            descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        except OSError as error:
            raise SyncError(f"open failed: {os.strerror(error.errno or 0)}") from error
        sent = 0
        try:
            while True:
                try:
                    data = os.read(descriptor, MAX_DATA - 8)
                except OSError as error:
                    raise SyncError(f"read failed: {os.strerror(error.errno or 0)}") from error
                if not data:
                    break
                if sent == 0 and self.faults.take("corrupt_pull"):
                    data = _one_bit_changed(data)
                limit = self.faults.drop_pull_after
                if limit is not None and sent + len(data) > limit:
                    self.faults.fired("drop_pull_after")
                    raise LinkLostError("drop_pull_after")
                await self.stream.write(b"DATA" + struct.pack("<I", len(data)) + data)
                sent += len(data)
        finally:
            os.close(descriptor)
        await self.stream.write(b"DONE" + bytes(4))

    async def _send(self, request: str) -> None:
        """A file, or a link, from the host."""
        name, comma, digits = request.rpartition(",")
        if not comma or not digits.strip().isdecimal():
            raise SyncError("missing , in ID_SEND" if not comma else "bad mode")
        mode = int(digits)
        path = self.isolation.path(name, follow=False)
        existing = _stat_or_error(path)
        fresh = isinstance(existing, int) or stat.S_ISREG(existing.st_mode) or stat.S_ISLNK(existing.st_mode)
        if fresh:
            with contextlib.suppress(OSError):
                path.unlink()  # where that fails, creating it will say why
        if stat.S_ISLNK(mode):
            await self._store_link(path)
        else:
            await self._store_file(path, mode & 0o777, fresh)
        await self.stream.write(b"OKAY" + bytes(4))

    async def _store_link(self, path: Path) -> None:
        target, _ = await self._data()
        if target is None:
            raise SyncError("invalid data message: expected ID_DATA")
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.symlink_to(os.fsdecode(target.split(b"\0")[0]))
        except OSError as error:
            await self._discard()
            raise SyncError(f"symlink failed: {os.strerror(error.errno or 0)}") from error
        rest, modified = await self._data()
        if rest is not None:
            raise SyncError("invalid data message: expected ID_DONE")
        os.utime(path, (modified, modified), follow_symlinks=False)

    async def _store_file(self, path: Path, mode: int, fresh: bool) -> None:
        mode |= (mode >> 3) & 0o070  # adbd gives the owner's rights to all
        mode |= (mode >> 3) & 0o007
        try:
            file = _create(path, mode)
        except SyncError:
            await self._discard()
            raise
        received = 0
        with file:
            try:
                while True:
                    data, modified = await self._data()
                    if data is None:
                        break
                    received += len(data)
                    limit = self.faults.drop_push_after
                    if limit is not None and received > limit:
                        file.write(data[: limit - received])
                        fresh = False  # the part stays, as on a phone that loses power
                        self.faults.fired("drop_push_after")
                        raise LinkLostError("drop_push_after")
                    if not self.faults.room_for(len(data)):
                        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
                    file.write(_one_bit_changed(data) if self.faults.take("corrupt_push") else data)
                file.flush()
            except (OSError, LinkLostError, SyncError) as error:
                if isinstance(error, OSError):
                    await self._discard()
                if fresh:
                    path.unlink(missing_ok=True)
                if isinstance(error, OSError):
                    raise SyncError(f"write failed: {os.strerror(error.errno or 0)}") from error
                raise
        os.utime(path, (modified, modified))

    async def _data(self) -> tuple[bytes | None, int]:
        """The next part of what the host sends, or None and the time of modification."""
        kind, size = struct.unpack("<4sI", await self.stream.read(8))
        if kind == b"DONE":
            return None, size
        if kind != b"DATA" or size > MAX_DATA:
            raise SyncError("invalid data message" if kind != b"DATA" else "oversize data message")
        return await self.stream.read(size), 0

    async def _discard(self) -> None:
        """What the host still sends: it listens for the failure only after it."""
        with contextlib.suppress(SyncError):
            while (await self._data())[0] is not None:
                pass


def _create(path: Path, mode: int) -> io.BufferedWriter:
    """A new file, with its folders; an existing one that is no regular file is written over."""
    flags = os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC
    try:
        try:
            descriptor = os.open(path, flags, mode)
        except FileNotFoundError:
            try:
                path.parent.mkdir(parents=True, exist_ok=True)
            except OSError as error:
                raise SyncError(f"secure_mkdirs failed: {os.strerror(error.errno or 0)}") from error
            descriptor = os.open(path, flags, mode)
    except OSError as error:
        raise SyncError(f"couldn't create file: {os.strerror(error.errno or 0)}") from error
    with contextlib.suppress(PermissionError):  # as adbd: not all file systems have modes
        os.fchmod(descriptor, mode)
    return os.fdopen(descriptor, "wb")


def _stat_or_error(path: Path) -> os.stat_result | int:
    try:
        return os.lstat(path)
    except OSError as error:
        return error.errno or errno.EIO


def _packed(status: os.stat_result | int) -> bytes:
    if isinstance(status, int):
        return _STAT_V2.pack(status, *([0] * 10))
    times = (int(status.st_atime), int(status.st_mtime), int(status.st_ctime))
    owner = (SHELL_USER, SHELL_USER)
    return _STAT_V2.pack(0, status.st_dev, status.st_ino, status.st_mode, status.st_nlink, *owner, status.st_size, *times)


def _one_bit_changed(data: bytes) -> bytes:
    return bytes([data[0] ^ 1]) + data[1:]
