"""Exports the networks of zoo.py by Paceline's own path and proves them; with --peers, beside litert-torch and onnx2tf.

    python benchmarks/export_zoo.py [NETWORKS…] [--latency] [--json FILE] [--keep FOLDER] [--seed 0]
    python benchmarks/export_zoo.py --peers --litert ENV/bin/python --onnx2tf ENV/bin/python --json zoo.jsonl

Random weights and random BatchNorm statistics, the default resolution, batch 1. Each row: seconds until the file is written
(torch.export included; the median of --repeats, in a warm process), operators, TRANSPOSE operators between
the first and the last convolution, bytes, the largest difference to torch relative to the output's range on XNNPACK and on
TFLite's own kernels, the same for .onnx in onnxruntime, and with --latency milliseconds on XNNPACK, one thread.

Where float32 itself (torch against float64) loses more than 1e-5 of the output's range on such a network, no export can be
judged: its statistics are then drawn around those of its own activations, and the row is marked *.

--json appends a line per network as it is done; networks that stand there already, made in the same way, are skipped, those
that failed are tried again. A failure is a row with its reason, and exit code 1. For --peers see peers/comparison.py: a peer
is an interpreter in whose environment it is installed; its failures are rows too, and no failure of ours.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from peers import comparison
from rich.console import Console
from rich.table import Table
from timm_zoo import FAMILIES, NETWORKS
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from paceline.devices.device import Device
from paceline.devices.kinds.local import open_local
from paceline.errors import PacelineError
from paceline.exporters import onnx, parity, tflite
from paceline.exporters.inspect import transposes_inside
from paceline.exporters.timm_networks import randomised, timm_network
from paceline.exporters.torch_graph import graph_of
from paceline.measurement import Artifact, Bench

TOLERANCE = 1e-4
FLOAT32_LOSS = 1e-5

Row = dict[str, Any]


def network(name: str, seed: int) -> tuple[nn.Module, Tensor, float, bool]:
    """A network, an input, what float32 loses on it, and whether its statistics had to be drawn around its activations."""
    torch.manual_seed(seed)
    module, shape = timm_network(name)
    randomised(module, seed)
    x = torch.randn(1, *shape, generator=torch.Generator().manual_seed(seed))
    loss = float32_loss(module, x)
    if loss <= FLOAT32_LOSS:
        return module, x, loss, False
    settle(module, x, seed)
    return module, x, float32_loss(module, x), True


@torch.no_grad()
def float32_loss(module: nn.Module, x: Tensor) -> float:
    single, double = module(x), module.double()(x.double())
    module.float()
    return float((single - double).abs().max() / (double.max() - double.min()))


@torch.no_grad()
def settle(module: nn.Module, x: Tensor, seed: int) -> None:
    """Draws BatchNorm statistics around those of the activations that `x` causes, as training would leave them."""
    generator = torch.Generator().manual_seed(seed)

    def draw(part: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        assert isinstance(part, _BatchNorm)
        y = inputs[0].transpose(0, 1).flatten(1)
        if y.shape[1] < 2 or part.running_mean is None or part.running_var is None:
            return
        var = y.var(1, unbiased=False)
        var = var.clamp_min(0.01 * float(var.mean()))
        part.running_mean.copy_(y.mean(1) + (torch.rand(var.shape, generator=generator) * 0.4 - 0.2) * var.sqrt())
        part.running_var.copy_(var * (torch.rand(var.shape, generator=generator) + 0.5))

    hooks = [part.register_forward_pre_hook(draw) for part in module.modules() if isinstance(part, _BatchNorm)]
    module(x)
    for hook in hooks:
        hook.remove()


def export_own(module: nn.Module, x: Tensor, path: Path, repeats: int) -> Row:
    seconds = []
    for _ in range(repeats):
        start = time.perf_counter()
        graph = graph_of(module, x)
        path.write_bytes(tflite.write(graph))
        seconds.append(time.perf_counter() - start)
    artifact = Artifact(path, path.stem)
    kernels = {name: parity.check(module, [x], artifact, TOLERANCE, name) for name in ("xnnpack", "builtin")}
    return {
        "seconds": float(np.median(seconds)),
        "operators": len(graph.ops),
        "kinds": dict(Counter(op.kind for op in graph.ops)),
        "transposes_inside": transposes_inside(graph),
        "bytes": path.stat().st_size,
        "max_rel_error": {name: found.max_rel_error for name, found in kernels.items()},
    }


def export_onnx(module: nn.Module, x: Tensor, path: Path) -> Row:
    start = time.perf_counter()
    onnx.write(module, x, path)
    seconds = time.perf_counter() - start
    found = parity.check(module, [x], Artifact(path, path.stem, "onnx"), TOLERANCE)
    return {"seconds": seconds, "bytes": path.stat().st_size, "max_rel_error": found.max_rel_error}


def attempt(export: Callable[[nn.Module, Tensor, Path], Row], module: nn.Module, x: Tensor, path: Path) -> Row:
    """The result, or why there is none: whatever goes wrong with one network is a row."""
    try:
        return export(module, x, path)
    except PacelineError as e:
        return {"reason": str(e)}
    except Exception as e:
        return {"reason": f"{type(e).__name__}: {e} (not an error with a remedy: report it)"}


def row_of(name: str, options: argparse.Namespace, folder: Path, device: Device, bench: Bench) -> Row:
    family = next((family for family, names in FAMILIES.items() if name in names), "")
    row: Row = {"network": name, "family": family, "made": made(options)}
    try:
        module, x, loss, settled = network(name, options.seed)
    except PacelineError as e:
        return {**row, "own": {"reason": str(e)}, "onnx": {"reason": str(e)}}
    row |= {"input": list(x.shape), "float32_loss": loss, "settled": settled}
    row["own"] = attempt(partial(export_own, repeats=options.repeats), module, x, folder / f"{name}.tflite")
    row["onnx"] = attempt(export_onnx, module, x, folder / f"{name}.onnx")
    files = {"own": folder / f"{name}.tflite"} if "reason" not in row["own"] else {}
    if options.peers:
        found = comparison.convert_all(module, x, name, row, folder, options.litert, options.onnx2tf, options.repeats)
        row["peers"], theirs = found
        files |= theirs
    if files and (options.latency or options.peers):
        row |= comparison.latencies(files, device, bench)
    return row


def made(options: argparse.Namespace) -> Row:
    return {"seed": options.seed, "peers": options.peers, "latency": options.latency or options.peers, "repeats": options.repeats}


def earlier(path: Path | None, options: argparse.Namespace) -> dict[str, Row]:
    """The rows of an earlier run, the last one of each network."""
    if path is None or not path.exists():
        return {}
    rows = {row["network"]: row for row in map(json.loads, path.read_text().splitlines())}
    if any(row["made"] != made(options) for row in rows.values()):
        raise SystemExit(f"{path} was made with other options ({next(iter(rows.values()))['made']}); name another file")
    return {name: row for name, row in rows.items() if not failed(row)}


def failed(row: Row) -> bool:
    return "reason" in row["own"] or "reason" in row["onnx"]


def line(row: Row) -> str:
    own, other = row["own"], row["onnx"]
    text = own.get("reason") or (
        f"{own['seconds']:.2f} s, {own['operators']} operators, {own['transposes_inside']} transposes inside, "
        f"error {max(own['max_rel_error'].values()):.1e}"
    )
    onnx_text = other.get("reason") or f"{other['seconds']:.2f} s, error {other['max_rel_error']:.1e}"
    peers = "".join(f"; {n} {p.get('reason') or '{:.2f} s'.format(p['seconds'])}" for n, p in row.get("peers", {}).items())
    return " ".join(f"{text}; onnx {onnx_text}{peers}".split())[:400]


def table_of(rows: list[Row]) -> Table:
    table = Table("network", "s", "operators", "TRANSPOSE", "MB", "XNNPACK", "builtin", "onnx s", "onnx", "ms", title="own path")
    for row in rows:
        own, other = row["own"], row["onnx"]
        mark = "*" if row.get("settled") else ""
        if "reason" in own:
            cells = [row["network"] + mark, "failed: " + own["reason"].splitlines()[0][:70], *[""] * 5]
        else:
            errors = own["max_rel_error"]
            sizes = (f"{own['seconds']:.2f}", str(own["operators"]), str(own["transposes_inside"]), f"{own['bytes'] / 1e6:.1f}")
            cells = [row["network"] + mark, *sizes, f"{errors['xnnpack']:.1e}", f"{errors['builtin']:.1e}"]
        cells += ["", "failed"] if "reason" in other else [f"{other['seconds']:.2f}", f"{other['max_rel_error']:.1e}"]
        latency = row.get("latency", {}).get("own", {})
        table.add_row(*cells, f"{latency['ms']:.3f}" if "ms" in latency else str(latency.get("reason", ""))[:40])
    return table


def summary(rows: list[Row]) -> list[str]:
    fine = [row for row in rows if "reason" not in row["own"]]
    onnx_fine = [row for row in rows if "reason" not in row["onnx"]]
    families = {row["family"] for row in fine} - {""}
    lines = [f"own path: {len(fine)} of {len(rows)} networks, {len(families)} families; ONNX: {len(onnx_fine)} of {len(rows)}"]
    if fine:
        seconds = [row["own"]["seconds"] for row in fine]
        worst = max(fine, key=lambda row: float(max(row["own"]["max_rel_error"].values())))
        inside = [f"{row['network']} {row['own']['transposes_inside']}" for row in fine if row["own"]["transposes_inside"]]
        lines += [
            f"seconds: median {np.median(seconds):.2f}, most {max(seconds):.2f}",
            f"largest error: {max(worst['own']['max_rel_error'].values()):.1e} ({worst['network']})",
            f"TRANSPOSE operators between convolutions: {', '.join(inside) or 'none'}",
        ]
    if onnx_fine:
        seconds = [row["onnx"]["seconds"] for row in onnx_fine]
        lines.append(f"ONNX seconds: median {np.median(seconds):.2f}, most {max(seconds):.2f}")
    for row in rows:
        lines += [f"{row['network']} failed ({what}): {row[what]['reason']}" for what in ("own", "onnx") if "reason" in row[what]]
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("networks", nargs="*", default=NETWORKS, metavar="NETWORKS")
    parser.add_argument("--latency", action="store_true", help="measure our files on this machine")
    parser.add_argument("--peers", action="store_true", help="convert by the peers too, and measure all files")
    parser.add_argument("--litert", metavar="PYTHON", help="interpreter with litert-torch and timm")
    parser.add_argument("--onnx2tf", metavar="PYTHON", help="interpreter with onnx2tf")
    parser.add_argument("--json", type=Path, metavar="FILE", help="JSON Lines, one network a line")
    parser.add_argument("--keep", type=Path, metavar="FOLDER", help="where the files go; without it they are deleted")
    parser.add_argument("--repeats", type=int, default=3, help="exports that a network's seconds are the median of")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    if options.peers and not (options.litert or options.onnx2tf):
        parser.error("--peers needs --litert PYTHON, --onnx2tf PYTHON or both")
    torch.set_num_threads(1)
    known = earlier(options.json, options)
    rows: list[Row] = []
    with tempfile.TemporaryDirectory() as temporary, open_local() as device:
        folder = options.keep or Path(temporary)
        folder.mkdir(parents=True, exist_ok=True)
        for i, name in enumerate(options.networks, start=1):
            row = known.get(name) or row_of(name, options, folder, device, device.default_bench())
            rows.append(row)
            print(f"{i}/{len(options.networks)} {name}: {line(row)}", file=sys.stderr, flush=True)
            if options.json and name not in known:
                with options.json.open("a") as file:
                    file.write(json.dumps(row) + "\n")
            if options.keep is None:
                for path in folder.iterdir():
                    path.unlink()
    console = Console(width=None if sys.stdout.isatty() else 170)
    console.print(table_of(rows))
    print("\n".join(summary(rows)))
    if options.peers:
        comparison.print_comparison(rows, console)
    sys.exit(any(failed(row) for row in rows))


if __name__ == "__main__":
    main()
