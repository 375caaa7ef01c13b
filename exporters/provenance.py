"""Where a file comes from and how it was made: written into it, read by `paceline inspect`."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass

from paceline import __version__
from paceline.graph import Array

KEY = "paceline"
"""The name of the metadata entry, in `.tflite` files and in ONNX's metadata_props."""


@dataclass(frozen=True)
class Provenance:
    """Source, options, passes and parity of an export. No times, no folders: the same export gives the same bytes."""

    source: str
    network: str
    options: Mapping[str, str]
    passes: tuple[str, ...] = ()
    max_abs_error: float | None = None
    max_rel_error: float | None = None
    weights_sha256: str = ""
    """Of the source's parameters and buffers, by name: what `weights_hash` gives."""
    torch: str = ""
    paceline: str = __version__

    def to_json(self) -> str:
        return json.dumps(asdict(self), sort_keys=True)


def weights_hash(weights: Mapping[str, Array]) -> str:
    """SHA-256 over names, shapes, types and values, in the order of names."""
    digest = hashlib.sha256()
    for name in sorted(weights):
        values = weights[name]
        digest.update(f"{name} {values.dtype} {values.shape}\n".encode())
        digest.update(values.tobytes())
    return digest.hexdigest()
