"""How fast single-operator models are written, and a table of 600 operators is built.

python benchmarks/operator_models.py [--rows 600]
"""

from __future__ import annotations

import argparse
import itertools
import tempfile
import time
from pathlib import Path

import numpy as np

from paceline.devices.kinds.local import open_local
from paceline.exporters import tflite
from paceline.exporters.operator_models import operator_graph
from paceline.graph import OpSpec, TensorSpec, attrs
from paceline.latency_models.collection.collect import Collector
from paceline.progress import progress
from paceline.store import Store


def operators(count: int) -> list[OpSpec]:
    """Different operators of mobile networks: pointwise and depthwise convolutions, additions, pools; weights below 1 MB."""
    found: dict[OpSpec, None] = {}
    for size, c, k in itertools.product(
        (7, 8, 10, 14, 16, 20, 28, 32, 56), (16, 24, 40, 48, 72, 80, 96, 120, 144, 192, 240), (3, 5, 7)
    ):
        image = TensorSpec((1, size, size, c))
        same = attrs(stride=(1, 1), dilation=(1, 1), padding="SAME", activation="RELU6")
        bias, wide = TensorSpec((c,)), min(4 * c, 480)
        depthwise = (image, TensorSpec((1, k, k, c)), bias)
        expand = (image, TensorSpec((wide, 1, 1, c)), TensorSpec((wide,)))
        found[OpSpec("DEPTHWISE_CONV_2D", depthwise, (image,), same, (1, 2))] = None
        found[OpSpec("CONV_2D", expand, (TensorSpec((1, size, size, wide)),), same, (1, 2))] = None
        project = (TensorSpec((1, size, size, wide)), TensorSpec((c, 1, 1, wide)), bias)
        found[OpSpec("CONV_2D", project, (image,), same, (1, 2))] = None
        found[OpSpec("ADD", (image, image), (image,), attrs(activation="NONE"))] = None
        found[OpSpec("MEAN", (image,), (TensorSpec((1, 1, 1, c)),), attrs(axes=(1, 2), keep_dims=True))] = None
    if count > len(found):
        raise SystemExit(f"there are {len(found)} operators here, not {count}")
    every = list(found)
    return [every[i] for i in np.linspace(0, len(every) - 1, count).round().astype(int)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=600)
    specs = operators(parser.parse_args().rows)
    seconds = []
    for spec in specs:
        start = time.perf_counter()
        tflite.write(operator_graph(spec))
        seconds.append(time.perf_counter() - start)
    ms = 1e3 * np.array(seconds)
    print(f"write one single-operator model: median {np.median(ms):.3f} ms, p95 {np.percentile(ms, 95):.3f} ms, n = {len(ms)}")
    with tempfile.TemporaryDirectory() as folder, open_local() as device, Store(Path(folder) / "store.sqlite") as store:
        collector = Collector(device, device.default_bench(), store, Path(folder) / "operators")
        start = time.perf_counter()
        with progress("measure operators") as shown:
            found = collector.operators(specs, shown)
        took = time.perf_counter() - start
    failed = sum(m.failure is not None for m in found)
    unstable = sum(m.unstable(collector.bench.tolerance) for m in found)
    spread = np.median([m.spread for m in found if m.failure is None])
    print(f"table of {len(found)} operators: {took:.1f} s, {failed} failed, {unstable} unstable, median spread {spread:.2%}")


if __name__ == "__main__":
    main()
