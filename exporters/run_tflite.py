"""Runs a `.tflite` once. As a program it keeps native crashes out of the caller's process:

python -m paceline.exporters.run_tflite MODEL.tflite INPUTS.npz OUTPUTS.npz xnnpack|builtin
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import numpy as np
from ai_edge_litert.interpreter import Interpreter, OpResolverType

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


def main(model: str, inputs: str, outputs: str, kernels: Kernels) -> None:
    with np.load(inputs) as arrays:
        results = run(Path(model).read_bytes(), [arrays[name] for name in arrays.files], kernels)
    np.savez(outputs, *results)


if __name__ == "__main__":
    main(*sys.argv[1:])  # type: ignore[arg-type]
