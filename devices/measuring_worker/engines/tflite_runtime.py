"""tflite-runtime, LiteRT's predecessor, which small boards still have."""

from __future__ import annotations

from importlib import import_module
from importlib.metadata import version

import numpy as np

from paceline.devices.measuring_worker.engine import Model, OperatorTimes, Settings, UnavailableError, refuse_options
from paceline.devices.measuring_worker.engines.interpreter import DELEGATES, InterpreterModel


class Engine:
    """See `engine.Engine`."""

    formats = ("tflite",)

    def __init__(self) -> None:
        if int(np.__version__.split(".")[0]) >= 2:
            raise ImportError(f"tflite-runtime is built for numpy 1, here is numpy {np.__version__}")
        self._library = import_module("tflite_runtime.interpreter")
        self.version = version("tflite-runtime")

    def facts(self) -> dict[str, str]:
        return {}

    def delegates(self) -> dict[str, tuple[str, ...]]:
        return DELEGATES

    def load(self, path: str, settings: Settings) -> Model:
        refuse_options("tflite-runtime", settings)
        return InterpreterModel(self._library, path, settings)

    def profile(self, path: str, settings: Settings, runs: int) -> OperatorTimes:
        raise UnavailableError("tflite-runtime has no operator profiler; use runtime litert, or a benchmark_model on the device")
