"""Zip files of plain members: the same bytes for the same content, read with care, because they come from anywhere."""

from __future__ import annotations

import io
import math
import re
import struct
import zipfile
import zlib
from collections.abc import Mapping

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.generic]

_NAME = re.compile(r"\w+(?:/\w+)*\.(?:json|jsonl|npy)", re.ASCII)
_DATE = (1980, 1, 1, 0, 0, 0)
_ALWAYS, _RATIO = 1 << 28, 100
"""A file may unpack to so many bytes, or to so many times its own size: real ones stay far below."""
_DAMAGE = (zipfile.BadZipFile, zlib.error, struct.error, EOFError, NotImplementedError, RuntimeError, OSError, OverflowError)


def packed(members: Mapping[str, bytes]) -> bytes:
    """A zip file of `members` (name to content)."""
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w") as archive:
        for name in sorted(members):
            info = zipfile.ZipInfo(name, _DATE)
            info.compress_type, info.create_system = zipfile.ZIP_DEFLATED, 3  # the same on every system
            archive.writestr(info, members[name])
    return content.getvalue()


def unpacked(content: bytes) -> dict[str, bytes]:
    """The members of a zip file. Raises ValueError, with the reason, where it is damaged or isn't one that `packed` wrote."""
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            infos = archive.infolist()
            names = [info.filename for info in infos]
            strange = [name for name in names if not _NAME.fullmatch(name)]
            if strange or len(set(names)) != len(names):
                raise ValueError(f"it has a strange member: {(strange or sorted(names))[0][:80]!r}")
            if any(info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED) for info in infos):
                raise ValueError("its members are compressed in an unusual way")
            size = sum(info.file_size for info in infos)
            if size > max(_ALWAYS, _RATIO * len(content)):
                raise ValueError(f"its {len(content)} bytes would unpack to {size}")
            return {info.filename: archive.read(info) for info in infos}
    except _DAMAGE as e:
        raise ValueError(f"it is no whole zip file ({e})") from e


def array_bytes(array: Array) -> bytes:
    """In numpy's .npy format, version 1.0."""
    content = io.BytesIO()
    np.lib.format.write_array(content, array, version=(1, 0), allow_pickle=False)
    return content.getvalue()


def array_of(content: bytes) -> Array:
    """The array of numbers or texts that `array_bytes` wrote. Raises ValueError where it isn't one."""
    file = io.BytesIO(content)
    if np.lib.format.read_magic(file) != (1, 0):
        raise ValueError("an array is of an unknown version")
    shape, fortran, dtype = np.lib.format.read_array_header_1_0(file)
    if dtype.kind not in "biufU":
        raise ValueError(f"an array holds {dtype}, neither numbers nor texts")
    values = content[file.tell() :]
    if len(values) != math.prod(shape) * dtype.itemsize:  # before anything of that size is made
        raise ValueError(f"an array of shape {shape} has {len(values)} bytes")
    return np.ndarray(shape, dtype, values, order="F" if fortran else "C").copy("A")
