"""A timm network -> `.tflite` by litert-torch. Runs in that tool's own environment, knows nothing of paceline:

PYTHON convert_litert.py NETWORK STATE.pth SHAPE OUT.tflite REPORT.json REPEATS      (SHAPE as 1x3x224x224)
"""

from __future__ import annotations

import importlib
import json
import sys
import time
from pathlib import Path

import torch

_BACKWARD = ("roi_align", "qroi_align", "ps_roi_align", "roi_pool", "ps_roi_pool", "deform_conv2d")


def main(network: str, state: str, shape: str, out: str, report: str, repeats: str) -> None:
    torch.set_num_threads(1)
    # timm imports torchvision, whose compiled operators do not fit this torch: no network here needs more than their names
    library = torch.library.Library("torchvision", "DEF")
    for name in ("nms", "qnms", *_BACKWARD, *(f"_{name}_backward" for name in _BACKWARD)):
        library.define(f"{name}(Tensor x) -> Tensor")
    timm, litert_torch = importlib.import_module("timm"), importlib.import_module("litert_torch")
    module = timm.create_model(network, pretrained=False)
    module.load_state_dict(torch.load(state))
    module = litert_torch.to_channel_last_io(module.eval(), args=[0]).eval()
    n, c, h, w = (int(size) for size in shape.split("x"))
    example = (torch.randn(n, h, w, c),)
    warm = torch.nn.Conv2d(3, 4, 3).eval()
    litert_torch.convert(warm, (torch.randn(1, 3, 8, 8),)).export(out)  # the first conversion of a process pays for its imports
    seconds = []
    for _ in range(int(repeats)):
        start = time.perf_counter()
        litert_torch.convert(module, example).export(out)
        seconds.append(time.perf_counter() - start)
        Path(report).write_text(json.dumps({"seconds": seconds}))


if __name__ == "__main__":
    main(*sys.argv[1:])
