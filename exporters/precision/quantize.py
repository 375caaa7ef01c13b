"""A float `.tflite` in another precision: fp16 weights, dynamic int8 or static int8, through ai-edge-quantizer."""

from __future__ import annotations

import tempfile
import typing
from pathlib import Path
from typing import Literal

import numpy as np

from paceline.errors import ConfigError, ExportError
from paceline.exporters import tflite
from paceline.exporters.child_process import run_program
from paceline.exporters.precision.calibration import Calibration
from paceline.graph import TensorSpec

Precision = Literal["fp32", "fp16", "dynamic", "int8"]
"""fp32: as it is. fp16: weights stored in half precision. dynamic: int8 weights, float activations. int8: all of it."""

Interface = Literal["float", "int8"]
"""What an int8 model reads and returns: float32, converted by its first and last operators, or int8 as computed."""

_FP16_WEIGHTS = {"CONV_2D": 1, "DEPTHWISE_CONV_2D": 1, "TRANSPOSE_CONV": 0, "FULLY_CONNECTED": 1, "EMBEDDING_LOOKUP": 1}
"""The operand that fp16 stores in half precision."""


def quantised(
    model: bytes,
    precision: Precision,
    calibration: Calibration | None = None,
    interface: Interface = "float",
    timeout_s: float = 600.0,
) -> bytes:
    """`model`, a float `.tflite` with one sub-graph, in `precision`. The same arguments give the same bytes.

    fp16: DEQUANTIZE operators make float32 of the weights of convolutions and matrix products, which XNNPACK does once, when
    the model is loaded. dynamic: their weights are int8 with a scale per output channel (0-centred); runtimes quantise
    activations on the fly, depthwise convolutions (which XNNPACK can't do so) compute in float. int8: activations too, with
    a scale and a zero point per tensor from the extreme values in `calibration`.

    Raises ConfigError for settings that do not exist; ExportError without calibration data for int8, for data that does not fit
    the model, and where the model can't be quantised.
    """
    for name, value, allowed in (("precision", precision, Precision), ("interface", interface, Interface)):
        if value not in typing.get_args(allowed):
            raise ConfigError(f"{name} {value!r} does not exist; it is one of {', '.join(typing.get_args(allowed))}")
    if interface == "int8" and precision != "int8":
        raise ConfigError(f"an int8 interface needs precision int8; a model in {precision} computes on floats")
    if precision == "fp32":
        return model
    if precision == "int8" and calibration is None:
        raise ExportError(
            "static int8 needs calibration data, to know the ranges of activations: give a folder of images or an .npz "
            "(Calibration.of), or choose precision dynamic or fp16, which need none"
        )
    _check_float(tflite.read(model), precision)
    with tempfile.TemporaryDirectory(prefix="paceline-quantize-") as folder:
        source, target, data = (Path(folder) / name for name in ("float.tflite", "quantised.tflite", "samples.npz"))
        source.write_bytes(model)
        arguments = [str(source), str(target), precision, interface]
        if precision == "int8" and calibration is not None:
            check_fit(model, calibration)
            calibration.save(data)
            arguments.append(str(data))
        run_program("paceline.exporters.precision.run_quantizer", arguments, timeout_s, f"quantising to {precision}")
        return target.read_bytes()


def input_specs(model: bytes) -> dict[str, TensorSpec]:
    """Name, shape and element type of each input of a `.tflite`, in order: what `Calibration.of` asks for."""
    graph = tflite.read(model).graph
    return {name: graph.tensors[name] for name in graph.inputs}


def check_fit(model: bytes, calibration: Calibration) -> None:
    """Raises ExportError where a sample is not what the model reads."""
    specs = list(input_specs(model).values())
    expected = [(spec.shape, spec.dtype) for spec in specs]
    for i, sample in enumerate(calibration.samples):
        found = [(values.shape, values.dtype.name) for values in sample]
        if found != expected:
            raise ExportError(
                f"sample {i} of {calibration.source} is {found}, the model reads {expected}; "
                "make it with Calibration.of(path, input_specs(model), …)"
            )


def _check_float(model: tflite.Model, precision: str) -> None:
    if len(model.graphs) != 1:
        raise ExportError(f"a model of {len(model.graphs)} sub-graphs can't be quantised; export one without control flow")
    graph = model.graph
    for name, spec in graph.tensors.items():
        for what, found in (("quantised", name in graph.quantization), ("in half precision", spec.dtype == "float16")):
            if found:
                raise ExportError(f"the model is {what} already (tensor {name!r}); start from the float32 model")
    for op in graph.ops if precision == "fp16" else ():
        if op.kind in _FP16_WEIGHTS and op.inputs[_FP16_WEIGHTS[op.kind]] in graph.weights:
            name = op.inputs[_FP16_WEIGHTS[op.kind]]
            largest = float(np.abs(np.asarray(graph.weights[name], np.float32)).max(initial=0))
            if largest > float(np.finfo(np.float16).max):
                raise ExportError(f"weights {name!r} reach {largest:.3g}, fp16 ends at 65504; choose precision fp32 or dynamic")
