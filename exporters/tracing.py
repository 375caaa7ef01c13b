"""torch.export with clear errors and without log lines: what every format starts from."""

from __future__ import annotations

import contextlib
import io
import logging
import warnings
from collections.abc import Iterator
from pathlib import Path

import torch
from torch import Tensor, nn

from paceline.errors import ExportError
from paceline.files import write_atomically


def traced(module: nn.Module, examples: tuple[Tensor, ...]) -> torch.export.ExportedProgram:
    """The ATen operators of `module` on inputs shaped like `examples`. Raises ExportError where torch.export can't trace it."""
    name = type(module).__name__
    for i, example in enumerate(examples):
        if example.dtype != torch.float32:
            raise ExportError(f"input {i} of {name} is {example.dtype}; networks are exported in float32, convert it")
    try:
        with quiet():
            return torch.export.export(module, examples, strict=False)
    except Exception as e:
        first = (str(e).strip().splitlines() or ["no message"])[0]
        raise ExportError(
            f"torch.export can't trace {name} ({type(e).__name__}: {first}); check that it runs on an input of this shape, "
            "and that no control flow in it depends on values"
        ) from e


def functional(program: torch.export.ExportedProgram) -> torch.export.ExportedProgram:
    """The same operators, those that write into tensors replaced by ones that return a new tensor."""
    try:
        with quiet():
            result: torch.export.ExportedProgram = program.run_decompositions({})
            return result
    except Exception as e:
        first = (str(e).strip().splitlines() or ["no message"])[0]
        reason = f"torch.export can't make the network functional ({type(e).__name__}: {first})"
        raise ExportError(f"{reason}; avoid operators that change tensors in place") from e


def save_program(module: nn.Module, examples: tuple[Tensor, ...], path: Path) -> None:
    """Writes `module` as an exported program, `.pt2`, with its weights and `examples`: any torch runs it without its code."""
    content = io.BytesIO()
    with quiet():
        torch.export.save(traced(module, examples), content)
    write_atomically(path, content.getvalue())


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Keeps torch's log lines, prints and warnings to itself: what matters comes as an exception."""
    loggers = [logging.getLogger(name) for name in ["torch", *logging.root.manager.loggerDict] if name.split(".")[0] == "torch"]
    handlers = [(handler, handler.level) for logger in loggers for handler in logger.handlers]
    for handler, _ in handlers:
        handler.setLevel(logging.CRITICAL + 1)
    try:
        silence = io.StringIO()
        with warnings.catch_warnings(), contextlib.redirect_stdout(silence), contextlib.redirect_stderr(silence):
            warnings.simplefilter("ignore")
            yield
    finally:
        for handler, level in handlers:
            handler.setLevel(level)
