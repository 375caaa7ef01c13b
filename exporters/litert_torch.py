"""torch module -> `.tflite` through Google's litert-torch: slower and heavier, for what the own path refuses, on request only."""

from __future__ import annotations

import contextlib
import importlib
import io
import tempfile
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from paceline.errors import ExportError
from paceline.exporters.tracing import quiet


def convert(module: nn.Module, examples: tuple[Tensor, ...]) -> bytes:
    """A `.tflite` whose 4-D inputs and outputs are NHWC. Raises ExportError where litert-torch is missing or fails."""
    converter = _converter()
    with torch.no_grad():
        result = module(*(x.clone() for x in examples))
    outputs = [result] if isinstance(result, Tensor) else list(result)
    images = [i for i, x in enumerate(examples) if x.ndim == 4]
    maps = [i for i, y in enumerate(outputs) if y.ndim == 4]
    example = tuple(x.permute(0, 2, 3, 1).contiguous() if x.ndim == 4 else x for x in examples)
    wrapped = converter.to_channel_last_io(module, args=images, outputs=maps) if images or maps else module
    try:
        with quiet(), contextlib.redirect_stdout(io.StringIO()), tempfile.TemporaryDirectory(prefix="paceline-litert-") as folder:
            path = Path(folder) / "model.tflite"
            converter.convert(wrapped.eval(), example).export(str(path))
            return path.read_bytes()
    except Exception as e:
        first = (str(e).strip().splitlines() or ["no message"])[0]
        raise ExportError(f"litert-torch can't export {type(module).__name__} ({type(e).__name__}: {first})") from e


def _converter() -> Any:
    try:
        with quiet():
            return importlib.import_module("litert_torch")
    except ImportError as e:
        raise ExportError(f"--via litert-torch needs litert-torch ({e}); pip install 'paceline[litert-torch]'") from e
