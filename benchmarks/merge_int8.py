"""Static int8 after merging, against int8 of the unmerged network, on the same calibration and evaluation images.

    python benchmarks/merge_int8.py [NETWORKS…] [--seeds 5] [--samples 8] --json FILE

Networks are timm's re-parameterisable ones (random weights, BatchNorm statistics of synthetic pictures, 1 seed) and, named
-digits, small networks of `paceline.pipeline.ops.rep` blocks trained for --epochs on scikit-learn's 8x8 digits (--seeds seeds,
evaluated on images that training did not see). SNR (dB) is that of the logits of the int8 file against its own float file, on
XNNPACK; SNR' counts only what differs between images; top-1 is agreement with float. "wider" tells how many merged layers got
weights at least twice as wide (largest over root mean square, per channel) as the widest of their branches had, and the largest
such factor: what `paceline export --merge --precision int8` warns of. For the digits the difference of SNR' is given with its
95 % confidence interval over seeds (Student's t).

--json holds a line per network and seed as soon as it is done; a second call continues there.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from quantize_zoo import pictures, settled
from rich.console import Console
from rich.table import Table
from scipy import stats
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.nn import functional

from paceline.exporters import export
from paceline.exporters.precision import Calibration, compare, quantised
from paceline.exporters.precision.weight_ranges import WIDENED, weight_ranges
from paceline.exporters.timm_networks import randomised, timm_network
from paceline.pipeline.ops.rep import ACNET, DBB, REPVGG, Place, fitting, mobileone, rep_block
from paceline.seeds import Seeds

TIMM = ("repvgg_a0", "mobileone_s0", "repghostnet_100", "fastvit_t8", "repvit_m1")
BLOCKS = {"repvgg-digits": REPVGG, "acnet-digits": (*ACNET, "identity"), "dbb-digits": DBB, "mobileone-digits": mobileone(4)}
_TRAINED_ON = 1_400

Row = dict[str, Any]


def digits_network(branches: Sequence[str]) -> nn.Module:
    """Six blocks of these branches on 1x8x8 images, the width doubled at each of two strides."""
    places = [Place(1, 16), Place(16, 16), Place(16, 32, stride=2), Place(32, 32), Place(32, 64, stride=2), Place(64, 64)]
    blocks = [rep_block(place, fitting(place, branches)) for place in places]
    return nn.Sequential(*blocks, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(64, 10))


def trained(branches: Sequence[str], epochs: int, seeds: Seeds) -> tuple[nn.Module, Tensor, Calibration, Calibration]:
    """A trained network, an example, images of its training set for calibration and others for evaluation."""
    images, labels = load_digits(return_X_y=True)
    order = seeds.rng("split").permutation(len(images))
    x = torch.from_numpy(images[order].astype(np.float32) / 8 - 1).view(-1, 1, 8, 8)
    y = torch.from_numpy(labels[order]).long()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seeds.seed("weights"))
        network = digits_network(branches)
    steps = epochs * (_TRAINED_ON // 64)
    optimiser = torch.optim.SGD(network.parameters(), 0.05, momentum=0.9, weight_decay=1e-4)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, steps)
    rng = seeds.rng("batches")
    for _ in range(steps):
        batch = torch.from_numpy(rng.choice(_TRAINED_ON, 64, replace=False))
        optimiser.zero_grad()
        functional.cross_entropy(network(x[batch]), y[batch]).backward()  # type: ignore[no-untyped-call]
        optimiser.step()
        schedule.step()
    network.eval()
    return network, x[:1], _samples(x[:64], "digits trained on"), _samples(x[_TRAINED_ON:], "digits not trained on")


def _samples(x: Tensor, source: str) -> Calibration:
    return Calibration(tuple((np.ascontiguousarray(image.permute(1, 2, 0).numpy()[np.newaxis]),) for image in x), source)


def untrained(name: str, samples: int, seeds: Seeds) -> tuple[nn.Module, Tensor, Calibration, Calibration]:
    module, shape = timm_network(name, seed=seeds.seed("weights"))
    drawn = {use: pictures(shape, samples, seeds.rng(f"{name}/{use}")) for use in ("statistics", "calibration", "evaluation")}
    module = settled(randomised(module, seeds.seed("statistics")), drawn["statistics"])
    return module, torch.zeros(1, *shape), drawn["calibration"], drawn["evaluation"]


def row_of(name: str, seed: int, samples: int, epochs: int) -> Row:
    seeds = Seeds(seed)
    if name in BLOCKS:
        module, x, calibration, evaluation = trained(BLOCKS[name], epochs, seeds)
    else:
        module, x, calibration, evaluation = untrained(name, samples, seeds)
    row: Row = {"network": name, "seed": seed, "samples": samples, "epochs": epochs}
    with tempfile.TemporaryDirectory() as folder:
        for form in ("unmerged", "merged"):
            file = export(module, x, Path(folder) / f"{form}.tflite", merge=form == "merged", source=name)
            exact = file.path.read_bytes()
            model = quantised(exact, "int8", calibration)
            report = compare(exact, model, evaluation, traced=1)
            (output,) = report.outputs
            row[form] = {
                "operators": sum(file.report.ops.values()),
                "bytes": len(model),
                "snr_db": output.snr_db,
                "varying_snr_db": output.varying_snr_db,
                "top1": output.top1_agreement,
            }
            if file.merging is not None:
                ranges = weight_ranges(module, file.merging.module, file.merging.merges)
                row["ranges"] = [(layer.layer, layer.before, layer.after) for layer in ranges]
    return row


def rows_of(names: Sequence[str], options: argparse.Namespace) -> Iterator[Row]:
    known: list[Row] = []
    if options.json.exists():
        known = [json.loads(line) for line in options.json.read_text().splitlines()]
    for name in names:
        for seed in range(options.seeds if name in BLOCKS else 1):
            key = {"network": name, "seed": seed, "samples": options.samples, "epochs": options.epochs}
            found = next((row for row in known if key.items() <= row.items()), None)
            if found is None:
                found = row_of(name, seed, options.samples, options.epochs)
                with options.json.open("a") as file:
                    file.write(json.dumps(found) + "\n")
                print(f"{name}, seed {seed} done", file=sys.stderr, flush=True)
            yield found


def table_of(rows: list[Row]) -> Table:
    table = Table("network", "n", "form", "operators", "bytes", "SNR dB", "SNR' dB", "top-1", "SNR' gained by merging", "wider")
    for name in dict.fromkeys(row["network"] for row in rows):
        mine = [row for row in rows if row["network"] == name]
        widening = [[after / before for _, before, after in row["ranges"]] for row in mine]
        for form in ("unmerged", "merged"):
            mean = {key: float(np.mean([row[form][key] for row in mine])) for key in mine[0][form]}
            wider = ""
            if form == "merged":
                count = float(np.mean([sum(w >= WIDENED for w in row) for row in widening]))
                wider = f"{count:g} of {len(widening[0])}, most {max(max(row, default=1.0) for row in widening):.2f}"
            table.add_row(
                name if form == "unmerged" else "",
                str(len(mine)) if form == "unmerged" else "",
                form,
                f"{mean['operators']:.0f}",
                f"{mean['bytes']:,.0f}",
                f"{mean['snr_db']:.1f}",
                f"{mean['varying_snr_db']:.1f}",
                f"{mean['top1']:.1%}",
                gained(mine) if form == "merged" else "",
                wider,
                end_section=form == "merged",
            )
    return table


def gained(rows: list[Row]) -> str:
    """The mean gain, with its interval where there are several seeds."""
    gains = np.array([row["merged"]["varying_snr_db"] - row["unmerged"]["varying_snr_db"] for row in rows])
    if len(gains) < 2:
        return f"{gains.mean():+.1f}"
    low, high = stats.t.interval(0.95, len(gains) - 1, gains.mean(), stats.sem(gains))
    return f"{gains.mean():+.1f} ({low:+.1f} to {high:+.1f})"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("networks", nargs="*", default=(*TIMM, *BLOCKS), metavar="NETWORK")
    parser.add_argument("--seeds", type=int, default=5, help="of the trained networks")
    parser.add_argument("--samples", type=int, default=8, help="pictures per use, of the untrained ones")
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--json", type=Path, required=True, metavar="FILE", help="JSON Lines")
    options = parser.parse_args()
    torch.set_num_threads(1)
    rows = list(rows_of(options.networks, options))
    Console(width=None if sys.stdout.isatty() else 170).print(table_of(rows))
    for row in rows:
        lost = row["unmerged"]["varying_snr_db"] - row["merged"]["varying_snr_db"]
        if lost > 1:
            print(f"{row['network']}, seed {row['seed']}: merging costs {lost:.1f} dB")
    return 0


if __name__ == "__main__":
    sys.exit(main())
