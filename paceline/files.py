"""Files that are there whole or not at all."""

from __future__ import annotations

import contextlib
import os
import threading
from pathlib import Path

from paceline.errors import StoreError


def write_atomically(path: Path, content: bytes | str, sync: bool = True) -> None:
    """Writes beside `path`, syncs, renames. Raises StoreError (disk full, no permission, …) and leaves nothing half-written.

    Without `sync` a file may be lost when the power fails: for what can be made again at any time.
    """
    data = content.encode() if isinstance(content, str) else content
    partial = path.with_name(f".{path.name}.{os.getpid()}-{threading.get_ident()}.partial")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with partial.open("wb") as file:
            file.write(data)
            file.flush()
            if sync:
                os.fsync(file.fileno())
        partial.replace(path)
    except OSError as e:
        with contextlib.suppress(OSError):
            partial.unlink()
        raise StoreError(
            f"can't write {path} ({len(data)} bytes): {e.strerror}. Free some space or choose another folder."
        ) from e
