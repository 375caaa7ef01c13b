"""An `.onnx` -> `.tflite` by onnx2tf. Runs in that tool's own environment, knows nothing of paceline:

PYTHON convert_onnx2tf.py MODEL.onnx OUT.tflite REPORT.json REPEATS
"""

from __future__ import annotations

import importlib
import json
import shutil
import sys
import tempfile
import time
from pathlib import Path


def main(model: str, out: str, report: str, repeats: str) -> None:
    convert = importlib.import_module("onnx2tf.onnx2tf").convert
    seconds = []
    for _ in range(int(repeats)):
        with tempfile.TemporaryDirectory() as folder:
            copy = shutil.copy(model, folder)  # it simplifies the file that it is given, in place
            start = time.perf_counter()
            convert(input_onnx_file_path=copy, output_folder_path=folder, non_verbose=True)
            seconds.append(time.perf_counter() - start)
            shutil.copy(Path(folder) / f"{Path(model).stem}_float32.tflite", out)
        Path(report).write_text(json.dumps({"seconds": seconds}))


if __name__ == "__main__":
    main(*sys.argv[1:])
