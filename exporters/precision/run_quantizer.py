"""Quantises a float `.tflite` with ai-edge-quantizer. A program of its own, because that prints, logs and runs native code:

python -m paceline.exporters.precision.run_quantizer FLOAT.tflite QUANTISED.tflite fp16|dynamic|int8 float|int8 [SAMPLES.npz]
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
from ai_edge_quantizer import qtyping
from ai_edge_quantizer.quantizer import AlgorithmName, Quantizer

from paceline.exporters import tflite
from paceline.exporters.precision import activation_ranges, int8_islands
from paceline.exporters.precision.calibration import Sample, load_samples

_ALL = qtyping.TFLOperationName.ALL_SUPPORTED
_EVERYWHERE = ".*"


def quantise(model: bytes, precision: str, interface: str, samples: list[Sample]) -> bytes:
    quantizer = Quantizer(bytearray(model))
    statistics: dict[str, Any] | None = None
    if precision == "fp16":
        quantizer.add_weight_only_config(_EVERYWHERE, _ALL, 16, algorithm_key=AlgorithmName.FLOAT_CASTING)
    elif precision == "dynamic":
        quantizer.add_dynamic_config(_EVERYWHERE, _ALL, 8)
        # XNNPACK has no dynamic depthwise convolution; with weights that it dequantises once it takes the float one.
        quantizer.add_weight_only_config(_EVERYWHERE, qtyping.TFLOperationName.DEPTHWISE_CONV_2D, 8)
    else:
        quantizer.add_static_config(_EVERYWHERE, _ALL, 8, 8)
        if interface == "float":
            for end in (qtyping.TFLOperationName.INPUT, qtyping.TFLOperationName.OUTPUT):
                quantizer.update_quantization_recipe(_EVERYWHERE, end, algorithm_key=AlgorithmName.NO_QUANTIZE)
        ranges = activation_ranges.shared(tflite.read(model).graph, activation_ranges.measured(model, samples))
        statistics = {
            name: {"min": np.asarray([low], np.float32), "max": np.asarray([high], np.float32)}
            for name, (low, high) in ranges.items()
        }
    result = quantizer.quantize(statistics, enable_progress_report=False)
    return tflite.write(int8_islands.joined(tflite.read(bytes(result.quantized_model))))


def main(source: str, target: str, precision: str, interface: str, data: str = "") -> None:
    samples = load_samples(Path(data)) if data else []
    Path(target).write_bytes(quantise(Path(source).read_bytes(), precision, interface, samples))


if __name__ == "__main__":
    main(*sys.argv[1:])
