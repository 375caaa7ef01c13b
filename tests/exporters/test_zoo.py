"""Some of timm's mobile networks at small resolution: torch against LiteRT, and no TRANSPOSE where there is no attention."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
import torch

from paceline.errors import ExportError
from paceline.exporters import tflite
from paceline.exporters.run_tflite import run
from paceline.exporters.timm_networks import randomised, timm_network
from paceline.exporters.torch_graph import graph_of

from torch_reference import image

try:
    timm_network("lcnet_050")
except ExportError as e:
    pytest.skip(str(e), allow_module_level=True)

TRANSPOSES = {
    "mobilenetv3_small_050": 0,
    "mixnet_s": 0,
    "ghostnetv2_100": 0,
    "convnextv2_atto": 0,
    "mobilenetv4_conv_blur_medium": 0,
    "edgenext_xx_small": 12,
    "mobilevit_xxs": 30,
}


@pytest.mark.parametrize("name", TRANSPOSES)
def test_network(name: str) -> None:
    network, (channels, _, _) = timm_network(name)
    network, x = randomised(network, 0), image(1, channels, 96, 96)
    graph = graph_of(network, x)
    assert Counter(op.kind for op in graph.ops)["TRANSPOSE"] <= TRANSPOSES[name]
    assert max(len(graph.tensors[t].shape) for op in graph.ops for t in op.outputs) <= 4
    with torch.no_grad():
        expected = network(x).numpy()
    model, pixels = tflite.write(graph), x.permute(0, 2, 3, 1).numpy()
    for kernels in ("xnnpack", "builtin"):
        computed = run(model, [pixels], kernels)[0]
        assert np.abs(computed - expected).max() <= 1e-4 * (expected.max() - expected.min())
