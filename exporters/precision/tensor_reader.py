"""Runs a `.tflite` in this process and reads its tensors by name, inner ones among them. Meant for child processes."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
from ai_edge_litert.interpreter import Interpreter, OpResolverType

from paceline.exporters.precision.calibration import Sample
from paceline.graph import Array

Floats = npt.NDArray[np.float64]


class TensorReader:
    """On TFLite's own kernels, the only ones that leave all tensors to be read; with `delegated` on XNNPACK, and outputs only."""

    def __init__(self, model: bytes, delegated: bool = False) -> None:
        resolver = OpResolverType.AUTO if delegated else OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES
        self._interpreter = Interpreter(
            model_content=model,
            experimental_op_resolver_type=resolver,
            experimental_preserve_all_tensors=not delegated,
            num_threads=1,
        )
        self._interpreter.allocate_tensors()
        self._details: dict[str, dict[str, Any]] = {}
        for detail in self._interpreter.get_tensor_details():
            self._details.setdefault(detail["name"], detail)  # temporary tensors of kernels come last

    def run(self, sample: Sample) -> None:
        """One inference; float arrays for quantised inputs are quantised."""
        for detail, values in zip(self._interpreter.get_input_details(), sample, strict=True):
            self._interpreter.set_tensor(detail["index"], _as_read(values, detail))
        self._interpreter.invoke()

    def stored(self, name: str) -> Array:
        """The tensor as the model holds it."""
        values: Array = self._interpreter.get_tensor(self._details[name]["index"])
        return values

    def values(self, name: str) -> Floats:
        """The tensor, dequantised."""
        return self._dequantised(self._details[name])

    def outputs(self) -> list[Floats]:
        """All outputs in order, dequantised."""
        return [self._dequantised(detail) for detail in self._interpreter.get_output_details()]

    def _dequantised(self, detail: dict[str, Any]) -> Floats:
        scale, zero_point = detail["quantization"]
        values: Floats = self._interpreter.get_tensor(detail["index"]).astype(np.float64)
        return (values - zero_point) * scale if scale else values


def _as_read(values: Array, detail: dict[str, Any]) -> Array:
    scale, zero_point = detail["quantization"]
    if not scale or values.dtype == detail["dtype"]:
        return np.ascontiguousarray(values)
    limits = np.iinfo(detail["dtype"])
    stored: Array = np.clip(np.round(values / scale) + zero_point, limits.min, limits.max).astype(detail["dtype"])
    return stored
