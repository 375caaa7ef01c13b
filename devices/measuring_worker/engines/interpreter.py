"""TFLite's Interpreter, which ai-edge-litert and tflite-runtime have alike."""

from __future__ import annotations

from typing import Any

import numpy as np

from paceline.devices.measuring_worker.engine import Array, Settings, delegation, random_input

DELEGATES: dict[str, tuple[str, ...]] = {"xnnpack": ("fp32",), "builtin": ("fp32",)}
"""By precision fp32 models run as they are: in float32, or in the integers that they were quantised to."""


class InterpreterModel:
    """A Model. `library` is the module `interpreter` of the runtime."""

    def __init__(self, library: Any, path: str, settings: Settings) -> None:
        resolver = library.OpResolverType
        kernels = {"xnnpack": resolver.AUTO, "builtin": resolver.BUILTIN_WITHOUT_DEFAULT_DELEGATES}[settings.delegate]
        self._interpreter = library.Interpreter(
            model_path=path, num_threads=settings.threads, experimental_op_resolver_type=kernels
        )
        self._interpreter.allocate_tensors()
        rng = np.random.default_rng(0)
        for tensor in self._interpreter.get_input_details():
            self._interpreter.set_tensor(tensor["index"], random_input(tensor["shape"], np.dtype(tensor["dtype"]), rng))
        self.invoke = self._interpreter.invoke
        self.invoke()
        self.delegation = delegation(self._interpreter._get_ops_details())

    def outputs(self) -> list[Array]:
        return [self._interpreter.get_tensor(tensor["index"]) for tensor in self._interpreter.get_output_details()]
