"""Does a comparison find a slow-down of 3 %, and how often does it see one where there is none?

    python benchmarks/compare_power.py [--trials 100] [--layers 33] [--json FILE]

The model is a chain of equal convolutions; the slower one has one layer more (33 -> 34: 3.0 % more work).
The A/A trials compare two that differ in their weights alone. Each is what `paceline bench A --compare B` does. With --json
the trials are kept there one by one, and the same command goes on after it was stopped.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.table import Table

from paceline.devices.comparison import compare
from paceline.devices.kinds.local import open_local
from paceline.exporters import tflite
from paceline.graph import Array, Graph, Op, TensorSpec, attrs
from paceline.measurement import Artifact
from paceline.progress import progress
from paceline.seeds import Seeds

_SIZE, _CHANNELS = 14, 32


def chain(layers: int, path: Path, seed: int = 0) -> Artifact:
    """3x3 convolutions from 14x14x32 to the same, each with weights of its own."""
    image = TensorSpec((1, _SIZE, _SIZE, _CHANNELS))
    same = attrs(stride=(1, 1), dilation=(1, 1), padding="SAME", activation="RELU6")
    rng = np.random.default_rng(seed)
    tensors: dict[str, TensorSpec] = {"x0": image}
    weights: dict[str, Array] = {}
    ops = []
    for i in range(layers):
        weights[f"w{i}"] = rng.standard_normal((_CHANNELS, 3, 3, _CHANNELS)).astype(np.float32) / 17
        weights[f"b{i}"] = np.zeros(_CHANNELS, np.float32)
        tensors |= {f"w{i}": TensorSpec(weights[f"w{i}"].shape), f"b{i}": TensorSpec((_CHANNELS,)), f"x{i + 1}": image}
        ops.append(Op("CONV_2D", (f"x{i}", f"w{i}", f"b{i}"), (f"x{i + 1}",), same))
    tflite.save(Graph(tuple(ops), tensors, ("x0",), (f"x{layers}",), weights), path)
    return Artifact(path, path.stem)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trials", type=int, default=100)
    parser.add_argument("--layers", type=int, default=33)
    parser.add_argument("--json", type=Path, metavar="FILE")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    kept = options.json.read_text() if options.json and options.json.exists() else ""
    trials = [json.loads(line) for line in kept.splitlines()]
    with tempfile.TemporaryDirectory() as folder, open_local() as device, progress("trials") as shown:
        model = chain(options.layers, Path(folder) / "model.tflite")
        others = {
            "same": chain(options.layers, Path(folder) / "other.tflite", seed=1),
            "slower": chain(options.layers + 1, Path(folder) / "slower.tflite", seed=1),
        }
        bench = device.default_bench()
        for i in range(len(trials), 2 * options.trials):
            kind = ("same", "slower")[i % 2]
            start = time.perf_counter()
            found = compare(device, model, others[kind], bench, Seeds(options.seed).rng(f"trial {i}"))
            trials.append(
                {"kind": kind, "ratio": found.ratio, "low": found.low, "high": found.high, "verdict": found.verdict}
                | {"seconds": time.perf_counter() - start, "ms": found.first[0].ms}
            )
            if options.json:
                with options.json.open("a") as file:
                    file.write(json.dumps(trials[-1]) + "\n")
            shown(i + 1, 2 * options.trials, f"{kind}: {found.ratio:.4f} {found.verdict}")
    table = Table(
        "other model",
        "trials",
        "called slower",
        "called faster",
        "ratio, median",
        "ratio, from to",
        "half interval, median",
        "s a trial",
    )
    for kind in ("same", "slower"):
        rows = [t for t in trials if t["kind"] == kind]
        called = [sum(t["verdict"] == verdict for t in rows) for verdict in ("slower", "faster")]
        ratios = [t["ratio"] for t in rows]
        table.add_row(
            "other weights" if kind == "same" else f"{1 / options.layers:.1%} more work",
            str(len(rows)),
            *map(str, called),
            f"{np.median(ratios):.4f}",
            f"{min(ratios):.4f} {max(ratios):.4f}",
            f"{np.median([(t['high'] - t['low']) / 2 for t in rows]):.4f}",
            f"{np.median([t['seconds'] for t in rows]):.1f}",
        )
    print(f"one model takes {np.median([t['ms'] for t in trials]):.3f} ms")
    Console(width=None if sys.stdout.isatty() else 140).print(table)


if __name__ == "__main__":
    main()
