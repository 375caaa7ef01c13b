"""Files attached to a `.tflite`: an uncompressed ZIP archive behind the FlatBuffer, as TFLite's metadata tools put it there."""

from __future__ import annotations

import io
import zipfile
import zlib
from collections.abc import Mapping

from paceline.errors import ExportError

_DAMAGE = (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError, ValueError, OSError, OverflowError)


def attached(model: bytes, files: Mapping[str, bytes]) -> bytes:
    """`model` with `files` behind it."""
    whole = io.BytesIO(model)
    with zipfile.ZipFile(whole, "a", zipfile.ZIP_STORED) as archive:
        for name, content in files.items():
            archive.writestr(zipfile.ZipInfo(name), content)  # with a fixed date
    return whole.getvalue()


def files_of(data: bytes) -> dict[str, bytes]:
    """The files behind a model. Raises ExportError where they are damaged or unfold to more than the whole file."""
    whole = io.BytesIO(data)
    if not zipfile.is_zipfile(whole):
        return {}
    try:
        with zipfile.ZipFile(whole) as archive:
            members = archive.infolist()
            if sum(member.file_size for member in members) > len(data) or any(member.compress_type for member in members):
                raise ExportError("the attached files are compressed, or larger than all of it; attach them uncompressed")
            return {member.filename: archive.read(member) for member in members}
    except _DAMAGE as e:
        raise ExportError(f"the attached files are damaged ({e}); get it again from its source") from e
