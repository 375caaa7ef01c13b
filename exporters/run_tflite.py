"""Runs `.tflite` models once. As a program it keeps native crashes out of the caller's process:

python -m paceline.exporters.run_tflite MODEL.tflite INPUTS.npz OUTPUTS.npz xnnpack|builtin [MODEL.tflite …]
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import numpy as np
from ai_edge_litert.interpreter import Interpreter, OpResolverType

from paceline.exporters.child_process import run_program
from paceline.graph import Array

Kernels = Literal["xnnpack", "builtin"]
"""Which kernels compute: those of the XNNPACK delegate where it takes an operator, or TFLite's own throughout."""

_RESOLVERS = {"xnnpack": OpResolverType.AUTO, "builtin": OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES}


def run(model: bytes, inputs: Sequence[Array], kernels: Kernels) -> list[Array]:
    """The outputs of `model` in order, for `inputs` in order."""
    interpreter = Interpreter(model_content=model, experimental_op_resolver_type=_RESOLVERS[kernels], num_threads=1)
    interpreter.allocate_tensors()
    for detail, values in zip(interpreter.get_input_details(), inputs, strict=True):
        interpreter.set_tensor(detail["index"], np.ascontiguousarray(values))
    interpreter.invoke()
    return [interpreter.get_tensor(detail["index"]) for detail in interpreter.get_output_details()]


def run_apart(
    models: Sequence[bytes], inputs: Sequence[Array], kernels: Kernels = "xnnpack", timeout_s: float = 120.0
) -> list[list[Array]]:
    """The outputs of each of `models` for the same `inputs`, all computed in one process of their own.

    Raises ExportError where a model does not run, crashes or takes too long.
    """
    with tempfile.TemporaryDirectory(prefix="paceline-run-") as place:
        folder = Path(place)
        np.savez(folder / "inputs.npz", *inputs)
        arguments: list[str] = []
        for i, model in enumerate(models):
            (folder / f"{i}.tflite").write_bytes(model)
            arguments += [str(folder / name) for name in (f"{i}.tflite", "inputs.npz", f"{i}.npz")] + [kernels]
        run_program("paceline.exporters.run_tflite", arguments, timeout_s, f"running a model on {kernels} kernels")
        return [_loaded(folder / f"{i}.npz") for i in range(len(models))]


def _loaded(path: Path) -> list[Array]:
    with np.load(path) as arrays:
        return [arrays[name] for name in arrays.files]


def main(*arguments: str) -> None:
    for model, inputs, outputs, kernels in zip(*(arguments[i::4] for i in range(4)), strict=True):
        np.savez(outputs, *run(Path(model).read_bytes(), _loaded(Path(inputs)), kernels))


if __name__ == "__main__":
    main(*sys.argv[1:])
