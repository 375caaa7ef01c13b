"""Calls that travel between hosts. An artifact travels by its content hash; its bytes go to each agent once."""

from __future__ import annotations

import hashlib
import io
import os
import pickle
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from paceline.errors import TransientDeviceError
from paceline.files import write_atomically
from paceline.measurement import Artifact


class MissingArtifactError(TransientDeviceError):
    """An artifact that an agent had and no longer has."""


def pack(function: Callable[..., Any], args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> tuple[bytes, dict[str, Artifact]]:
    """A call as bytes, and the artifacts that it needs where it is made, by the name of their copies. Functions go by name."""
    buffer = io.BytesIO()
    pickler = _Pickler(buffer)
    pickler.dump((function, args, dict(kwargs)))
    return buffer.getvalue(), pickler.artifacts


class ArtifactCache:
    """A folder of artifacts, each named after its content. Default: $XDG_CACHE_HOME/paceline/artifacts, ~/.cache/…"""

    def __init__(self, folder: Path | None = None) -> None:
        self.folder = folder or _default_folder()

    def names(self) -> set[str]:
        """What there is."""
        return {path.name for path in self.folder.glob("?" * 64 + ".*")} if self.folder.is_dir() else set()

    def keep(self, content: Mapping[str, bytes]) -> None:
        """Raises TransientDeviceError for bytes that aren't what their name says, StoreError where they can't be written."""
        for name, data in content.items():
            if hashlib.sha256(data).hexdigest() != name.partition(".")[0]:
                raise TransientDeviceError(f"artifact {name[:12]} arrived damaged; it is sent again")
            write_atomically(self.folder / name, data)

    def unpack(self, call: bytes) -> tuple[Callable[..., Any], tuple[Any, ...], dict[str, Any]]:
        """The call with artifacts of this host. Raises MissingArtifactError."""
        function, args, kwargs = _Unpickler(io.BytesIO(call), self.folder).load()
        return function, args, kwargs


class _Pickler(pickle.Pickler):
    def __init__(self, file: io.BytesIO) -> None:
        super().__init__(file)
        self.artifacts: dict[str, Artifact] = {}

    def persistent_id(self, obj: Any) -> tuple[str, str, str] | None:
        if not isinstance(obj, Artifact):
            return None
        name = f"{obj.sha256}.{obj.format}"
        self.artifacts[name] = obj
        return name, obj.subject, obj.format


class _Unpickler(pickle.Unpickler):
    def __init__(self, file: io.BytesIO, folder: Path) -> None:
        super().__init__(file)
        self._folder = folder

    def persistent_load(self, pid: Any) -> Artifact:
        name, subject, file_format = pid
        path = self._folder / name
        if not path.is_file():
            raise MissingArtifactError(f"artifact {name[:12]} is no longer in {self._folder}")
        return Artifact(path, subject, file_format)


def _default_folder() -> Path:
    home = os.environ.get("XDG_CACHE_HOME")
    return (Path(home) if home else Path.home() / ".cache") / "paceline" / "artifacts"
