"""Your own torch network, on this machine, without a search: merge, export, compare with torch, measure, see where the time goes.

python examples/measure_my_network.py
"""

from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from torch import nn

from paceline.devices.kinds.local import open_local
from paceline.exporters import parity, tflite
from paceline.exporters.merge import merged
from paceline.exporters.torch_graph import graph_of
from paceline.measurement import Artifact


class Block(nn.Module):
    """Three parallel branches in training, one 3x3 convolution when deployed."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.wide = nn.Sequential(nn.Conv2d(channels, channels, 3, padding=1, bias=False), nn.BatchNorm2d(channels))
        self.narrow = nn.Sequential(nn.Conv2d(channels, channels, 1, bias=False), nn.BatchNorm2d(channels))
        self.identity = nn.BatchNorm2d(channels)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.relu(self.wide(x) + self.narrow(x) + self.identity(x))


network = nn.Sequential(
    nn.Conv2d(3, 32, 3, 2, 1), Block(32), Block(32), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(32, 10)
).eval()
image = torch.randn(1, 3, 64, 64)

result = merged(network)
for merge in result.report:
    if len(merge.branches) > 1:
        print(f"{merge.name}: {len(merge.branches)} branches, {merge.params_before} -> {merge.params_after} parameters")

graph = graph_of(result.module, image)
print(f"{len(graph.operators())} operators, {graph.macs() / 1e6:.1f} M MACs, {graph.params() / 1e3:.1f} k parameters")

with TemporaryDirectory() as folder, open_local() as device:
    model = Artifact(Path(folder) / "network.tflite", "my network")
    tflite.save(graph, model.path)
    print(f"largest difference to torch: {parity.check(network, [image], model).max_abs_error:.2g}")
    for delegate in ("xnnpack", "builtin"):
        bench = device.default_bench(delegate)
        measurement = device.measure([model], bench)[0]
        slowest = max(device.profile(model, bench), key=lambda op: op.ms)
        print(f"{delegate}: {measurement.ms:.4f} ms, of which {slowest.ms:.4f} ms in the slowest operator, {slowest.name}")
