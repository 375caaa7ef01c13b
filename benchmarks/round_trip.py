"""Real `.tflite` files read and written again: the same outputs? And the sum of their operators, cut out, beside the whole.

    python benchmarks/round_trip.py FOLDER [--latency] [--delegate xnnpack] [--seed 0]

Outputs are compared bit by bit on random inputs, on XNNPACK's and on TFLite's own kernels. With --latency the whole and every
different operator with its real weights are measured with interleaved batches on this machine, and an invoke by itself, which
the sum pays once instead of once an operator. Exit code 1 where outputs differ, or where a file runs on no kernels.
"""

from __future__ import annotations

import argparse
import tempfile
from collections import Counter
from itertools import pairwise
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.table import Table

from paceline.devices.device import Device
from paceline.devices.kinds.local import open_local
from paceline.errors import ExportError
from paceline.exporters import tflite
from paceline.exporters.cut import cut
from paceline.exporters.run_tflite import Kernels, run_apart
from paceline.graph import Array, Graph, Op, TensorSpec
from paceline.measurement import Artifact
from paceline.progress import progress

_CHAIN = 33
_KERNELS: tuple[Kernels, ...] = ("xnnpack", "builtin")


def random_input(spec: TensorSpec, rng: np.random.Generator) -> Array:
    """Standard normal floats, all values of 8-bit integers, 0 and 1 of booleans, 0 to 9 of larger integers."""
    dtype = np.dtype(spec.dtype)
    if dtype.kind in "fc":
        return rng.standard_normal(spec.shape).astype(dtype)
    if dtype.kind == "b":
        return rng.random(spec.shape) < 0.5
    limits = np.iinfo(dtype) if dtype.itemsize == 1 else np.iinfo(np.int8)
    return rng.integers(max(limits.min, 0) if dtype.itemsize > 1 else limits.min, limits.max, spec.shape).astype(dtype)


def compared(data: bytes, written: bytes, graph: Graph, kernels: Kernels, rng: np.random.Generator) -> str:
    """ "identical", "different", or why the file does not run at all."""
    inputs = [random_input(graph.tensors[name], rng) for name in graph.inputs]
    try:
        before, after = run_apart([data, written], inputs, kernels)
    except ExportError as e:
        lines = str(e).strip().splitlines()
        return next((line for line in lines if "Error:" in line), lines[-1])
    same = [(a.dtype, a.shape, a.tobytes()) for a in before] == [(a.dtype, a.shape, a.tobytes()) for a in after]
    return "identical" if same else "different"


def chain(path: Path, length: int) -> Artifact:
    """NEG upon NEG of one value: next to nothing to compute."""
    names = [f"t{i}" for i in range(length + 1)]
    ops = tuple(Op("NEG", (x,), (y,)) for x, y in pairwise(names))
    tflite.save(Graph(ops, dict.fromkeys(names, TensorSpec((1, 1, 1, 1))), (names[0],), (names[-1],), {}), path)
    return Artifact(path, f"{length} NEG")


def latency(device: Device, path: Path, graph: Graph, delegate: str, folder: Path) -> list[str]:
    """Whole, sum of operators, the sum with one invoke instead of one each, its ratio, what was left to TFLite's own kernels."""
    parts = cut(graph)
    counts = Counter(spec for spec, _ in parts)
    artifacts = [Artifact(path, path.name), chain(folder / "one.tflite", 1), chain(folder / "many.tflite", _CHAIN)]
    for i, (spec, part) in enumerate(dict(parts).items()):
        artifacts.append(Artifact(folder / f"{path.stem}-{i}.tflite", spec.key))
        tflite.save(part, artifacts[-1].path)
    whole, one, many, *measured = device.measure(artifacts, device.default_bench(delegate))
    failed = [m for m in (whole, one, many, *measured) if m.failure is not None]
    if failed:
        return ["", "", "", "", f"{failed[0].subject[:40]}: {failed[0].failure.reason[:60]}"]  # type: ignore[union-attr]
    assert whole.delegation is not None
    left = ", ".join(dict.fromkeys(whole.delegation.left or ())) or "nothing"
    total = sum(m.ms * n for m, n in zip(measured, counts.values(), strict=True))
    invoke = one.ms - (many.ms - one.ms) / (_CHAIN - 1)  # what one costs beyond the operators in it
    once = total - (len(parts) - 1) * invoke
    return [f"{whole.ms:.4f}", f"{total:.4f}", f"{once:.4f}", f"{once / whole.ms:.3f}", left]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--latency", action="store_true")
    parser.add_argument("--delegate", default="xnnpack")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    paths = sorted(options.folder.glob("*.tflite"))
    if not paths:
        raise SystemExit(f"no .tflite files in {options.folder}")
    rng, different = np.random.default_rng(options.seed), 0
    figures = ("whole ms", "sum ms", "one invoke", "/ whole", "not delegated") if options.latency else ()
    table = Table("file", "operators", *_KERNELS, *figures)
    with tempfile.TemporaryDirectory() as place, open_local() as device, progress("round trip") as shown:
        for i, path in enumerate(paths):
            data = path.read_bytes()
            model = tflite.read(path)
            found = [compared(data, tflite.write(model), model.graph, kernels, rng) for kernels in _KERNELS]
            different += "different" in found or "identical" not in found  # some need a kernel that only XNNPACK's set has
            row = [path.name, str(len(model.graph.operators())), *found]
            if options.latency:
                row += latency(device, path, model.graph, options.delegate, Path(place))
            table.add_row(*row)
            shown(i + 1, len(paths), path.name)
    Console().print(table)
    return int(bool(different))


if __name__ == "__main__":
    raise SystemExit(main())
