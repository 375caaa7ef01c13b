"""timm's re-parameterisable networks: as they train, merged by timm's own code, and merged by `paceline.exporters.merge`.

    python benchmarks/merge_timm.py [NETWORKS…] --folder FOLDER [--seed 0] [--json FILE]
    python benchmarks/merge_timm.py --folder FOLDER --prepare      # all but the measuring, which a second call then does

Random weights, BatchNorm statistics drawn around those of the network's own activations, 224x224 or the network's own size. All
three forms are exported (BatchNorm is folded in all of them) and compared with the unmerged network in torch on XNNPACK and on
TFLite's own kernels. MACs and weights are those of the exported operators. "to timm's" is the largest difference between the
outputs of ours and timm's merged network in torch, relative to the largest output, over --inputs random images: above 1e-5 is
exit code 1.
Milliseconds by `paceline bench`'s protocol on this machine's CPU, one thread, all files interleaved, --passes times: the median,
and the range over passes. What was exported is kept in --folder, so that the command can be killed and called again.
"""

from __future__ import annotations

import argparse
import copy
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch
from export_zoo import network, settle
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn

from paceline.devices.kinds.local import open_local
from paceline.errors import DeviceError, PacelineError
from paceline.exporters import export, parity
from paceline.exporters.merge import check_merge
from paceline.files import write_atomically
from paceline.measurement import Artifact

NETWORKS = ("repvgg_a0", "mobileone_s0", "repghostnet_100", "fastvit_t8", "repvit_m1")
FORMS = ("unmerged", "timm", "ours")
TOLERANCE = 1e-5

Row = dict[str, Any]


def prepared(name: str, folder: Path, seed: int, inputs: int) -> Row:
    """Exports the three forms of one network, or reads what an earlier call found."""
    place = folder / f"{name}.json"
    made = {"seed": seed, "inputs": inputs}
    if place.exists():
        row: Row = json.loads(place.read_text())
        if row["made"] == made:
            return row
    module, x, _, settled = network(name, seed)
    if not settled:
        settle(module, x, seed)
    from timm.utils.model import reparameterize_model  # once `network` has made timm importable beside any torchvision

    theirs = reparameterize_model(copy.deepcopy(module)).eval()
    files = {
        "unmerged": export(module, x, folder / f"{name}.unmerged.tflite", source=f"timm:{name}"),
        "timm": export(theirs, x, folder / f"{name}.timm.tflite", source=f"timm:{name}, merged by timm"),
        "ours": export(module, x, folder / f"{name}.ours.tflite", source=f"timm:{name}", merge=True),
    }
    ours = files["ours"].merging
    assert ours is not None
    rng = np.random.default_rng(seed)
    images = [torch.from_numpy(rng.standard_normal(tuple(x.shape), np.float32)) for _ in range(inputs)]
    row = {
        "network": name,
        "made": made,
        "input": list(x.shape),
        "places": len(ours.merges),
        "refused": len(ours.refused),
        "to_timm": max(check_merge(theirs, ours.module, image, float("inf")) for image in images),
        "in_float64": in_float64(theirs, ours.module, images[0]),
        "proof": {"randomised": ours.proof.randomised_error, "error": ours.proof.error},
    }
    for form, file in files.items():
        assert file.graph is not None
        found = parity.check(module, (x,), file, 1e-4)
        row[form] = {
            "operators": len(file.graph.ops),
            "params": file.graph.params(),
            "macs": file.graph.macs(),
            "bytes": file.report.bytes,
            "rel_error": max(found.max_rel_error, file.report.max_rel_error),
        }
    write_atomically(place, json.dumps(row, indent=1).encode())
    return row


def in_float64(theirs: nn.Module, ours: nn.Module, x: Tensor) -> float:
    """The difference of both merged networks without the rounding of their activations: what is left is that of the weights."""
    return check_merge(copy.deepcopy(theirs).double(), copy.deepcopy(ours).double(), x.double(), float("inf"))


def measure(rows: list[Row], folder: Path, passes: int) -> None:
    """Adds milliseconds to each form of each row: the median over passes, the least and the most."""
    forms = [(row, form) for row in rows for form in FORMS]
    artifacts = [Artifact(folder / f"{row['network']}.{form}.tflite", f"{row['network']}.{form}") for row, form in forms]
    found: list[list[float]] = [[] for _ in forms]
    with open_local() as device:
        bench = device.default_bench()
        for _ in range(passes):
            for ms, m in zip(found, device.measure(artifacts, bench), strict=True):
                if m.failure is not None:
                    raise DeviceError(f"{m.artifact} can't be measured: {m.failure.reason}")
                ms.append(m.ms)
    for (row, form), ms in zip(forms, found, strict=True):
        row[form]["ms"] = ms


def table_of(rows: list[Row]) -> Table:
    table = Table("network", "form", "operators", "weights", "MMACs", "ms", "min-max", "of unmerged", "error", "to timm's")
    for row in rows:
        for form in FORMS:
            cell = row[form]
            times = ["", "", ""]
            if "ms" in cell:
                base = float(np.median(row["unmerged"]["ms"]))
                ms = float(np.median(cell["ms"]))
                times = [f"{ms:.2f}", f"{min(cell['ms']):.2f}-{max(cell['ms']):.2f}", f"{ms / base:.3f}"]
            table.add_row(
                row["network"] if form == FORMS[0] else "",
                form + (f" ({row['places']} places)" if form == "ours" else ""),
                str(cell["operators"]),
                f"{cell['params']:,}",
                f"{cell['macs'] / 1e6:,.1f}",
                *times,
                f"{cell['rel_error']:.1e}",
                f"{row['to_timm']:.1e}" if form == "ours" else "",
                end_section=form == FORMS[-1],
            )
    return table


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("networks", nargs="*", default=NETWORKS, metavar="NETWORK")
    parser.add_argument("--folder", type=Path, required=True, help="where files and rows are kept")
    parser.add_argument("--prepare", action="store_true", help="export only")
    parser.add_argument("--passes", type=int, default=3)
    parser.add_argument("--inputs", type=int, default=3, help="random images on which ours and timm's are compared")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=Path, metavar="FILE")
    options = parser.parse_args()
    torch.set_num_threads(1)
    options.folder.mkdir(parents=True, exist_ok=True)
    rows, failed = [], False
    for name in options.networks:
        try:
            rows.append(prepared(name, options.folder, options.seed, options.inputs))
            print(f"{name} prepared", file=sys.stderr, flush=True)
        except PacelineError as e:
            failed = True
            print(f"{name} failed: {e}", file=sys.stderr, flush=True)
    if not options.prepare:
        measure(rows, options.folder, options.passes)
    Console(width=None if sys.stdout.isatty() else 160).print(table_of(rows))
    for row in rows:
        print(
            f"{row['network']}: ours and timm's differ by {row['to_timm']:.1e}, in float64 by {row['in_float64']:.1e}; "
            f"proof on random statistics {row['proof']['randomised']:.1e}; {row['refused']} merges refused"
        )
    if options.json:
        options.json.write_text(json.dumps(rows, indent=1))
    return int(failed or any(row["to_timm"] > TOLERANCE for row in rows))


if __name__ == "__main__":
    sys.exit(main())
