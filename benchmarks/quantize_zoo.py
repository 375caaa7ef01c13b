"""Networks of benchmarks/zoo.py in fp16, dynamic int8 and static int8: size, error, and what XNNPACK leaves to slower kernels.

python benchmarks/quantize_zoo.py [NETWORKS…] [--precisions fp16 dynamic int8] [--samples 8] [--seed 0] [--json FILE]

Weights are random, and BatchNorm statistics are those of synthetic images (smooth random fields with shapes), as training would
leave them; ranges are calibrated on other images of that kind, and errors are taken on yet others. SNR is that of the logits,
SNR' counts only what differs between images, and top-1 is agreement with the float network. Untrained networks tell images apart
by small differences and amplify noise, so SNR' and top-1 are not those of a trained network: they compare precisions, networks.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from collections import Counter
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageDraw
from rich.console import Console
from rich.table import Table
from timm_zoo import NETWORKS
from torch import nn

from paceline.devices.device import Device
from paceline.devices.kinds.local import open_local
from paceline.errors import PacelineError
from paceline.exporters import tflite
from paceline.exporters.precision.calibration import Calibration
from paceline.exporters.precision.quantize import quantised
from paceline.exporters.precision.report import PrecisionReport, compare
from paceline.exporters.timm_networks import randomised, timm_network
from paceline.exporters.torch_graph import graph_of
from paceline.measurement import Artifact, Bench
from paceline.seeds import Seeds

_ONCE = Bench(batches=1, min_invokes=1, batch_ms=0, warmup_ms=0)  # nothing is timed: who runs it is all that is asked
DEFAULT = (
    *("mobilenetv2_050", "mobilenetv3_small_100", "mobilenetv4_conv_small", "efficientnet_lite0", "mnasnet_100", "semnasnet_100"),
    *(
        "mixnet_s",
        "ghostnet_100",
        "tinynet_e",
        "lcnet_050",
        "hardcorenas_a",
        "rexnet_100",
        "mobileone_s0",
        "repvgg_a0",
        "resnet18",
    ),
    "regnety_002",
)


def picture(height: int, width: int, rng: np.random.Generator) -> np.ndarray[Any, np.dtype[np.float32]]:
    """H x W x 3, roughly standard normal: a smooth random field with some ellipses, and little noise."""
    rows, columns = rng.integers(3, 9, 2)
    coarse = rng.uniform(0, 255, (rows, columns, 3)).astype(np.uint8)
    image = Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC)
    draw = ImageDraw.Draw(image)
    for _ in range(rng.integers(1, 6)):
        (x, y), (w, h) = rng.integers(0, (width, height)), rng.integers(4, (width // 2, height // 2))
        draw.ellipse((int(x), int(y), int(x + w), int(y + h)), fill=tuple(map(int, rng.integers(0, 256, 3))))
    values = np.asarray(image, np.float32) / 255 + 0.02 * rng.standard_normal((height, width, 3))
    return ((values - 0.45) / 0.225).astype(np.float32)


def pictures(shape: tuple[int, int, int], count: int, rng: np.random.Generator) -> Calibration:
    channels, height, width = shape
    if channels != 3:
        raise PacelineError(f"pictures have 3 channels, the network reads {channels}")
    return Calibration(tuple((picture(height, width, rng)[np.newaxis],) for _ in range(count)), "synthetic pictures")


def settled(module: nn.Module, images: Calibration) -> nn.Module:
    """`module` with the BatchNorm statistics of `images`."""
    norms = [m for m in module.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm) and m.track_running_stats]
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None
        norm.train()
    with torch.no_grad():
        module(torch.from_numpy(np.concatenate([sample[0] for sample in images.samples]).transpose(0, 3, 1, 2)).contiguous())
    return module.eval()


def rows_of(name: str, precisions: list[str], samples: int, seeds: Seeds, device: Device) -> list[dict[str, Any]]:
    torch.manual_seed(seeds.seed("weights"))
    module, shape = timm_network(name)
    drawn = {use: pictures(shape, samples, seeds.rng(f"{name}/{use}")) for use in ("statistics", "calibration", "evaluation")}
    module = settled(randomised(module, seeds.seed("statistics")), drawn["statistics"])
    exact = tflite.write(graph_of(module, torch.zeros(1, *shape)))
    rows = []
    for precision in precisions:
        start = time.perf_counter()
        model = quantised(exact, precision, drawn["calibration"])  # type: ignore[arg-type]
        seconds = time.perf_counter() - start
        report = compare(exact, model, drawn["evaluation"])
        with tempfile.TemporaryDirectory() as folder:
            artifact = Artifact(Path(folder) / f"{name}.tflite", name)
            artifact.path.write_bytes(model)
            (m,) = device.measure([artifact], _ONCE)
            left = Counter(m.delegation.left or ()) if m.delegation else Counter({m.failure.reason: 1} if m.failure else {})
        rows.append(
            {**_row(report), "network": name, "precision": precision, "bytes": len(model), "seconds": seconds, "left": left}
        )
    return rows


def _row(report: PrecisionReport) -> dict[str, Any]:
    (output,) = report.outputs
    return {
        **asdict(output),
        "conversions": report.conversions,
        "in_float": report.in_float,
        "first_wrong": report.first_wrong and asdict(report.first_wrong),
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("networks", nargs="*", default=DEFAULT, metavar="NETWORK")
    parser.add_argument("--precisions", nargs="+", default=["fp16", "dynamic", "int8"], choices=["fp16", "dynamic", "int8"])
    parser.add_argument("--samples", type=int, default=8, help="images per use")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=Path, help="rows go here, too")
    options = parser.parse_args()
    unknown = sorted(set(options.networks) - set(NETWORKS))
    if unknown:
        parser.error(f"not in benchmarks/zoo.py: {', '.join(unknown)}")
    torch.set_num_threads(1)
    rows, failures = [], []
    with open_local() as device:
        for name in options.networks:
            try:
                rows += rows_of(name, options.precisions, options.samples, Seeds(options.seed), device)
                print(f"{name} done", file=sys.stderr, flush=True)
            except PacelineError as e:
                failures.append({"network": name, "failure": str(e)})
                print(f"{name} failed: {e}", file=sys.stderr, flush=True)
    Console(width=None if sys.stdout.isatty() else 240).print(_table(rows))
    for failure in failures:
        print(f"{failure['network']}: {failure['failure']}")
    if options.json:
        options.json.write_text(json.dumps([*rows, *failures], indent=1))
    return 1 if failures else 0


def _table(rows: list[dict[str, Any]]) -> Table:
    table = Table(
        "network", "precision", "bytes", "s", "SNR dB", "SNR' dB", "top-1", "Q/DQ", "left by XNNPACK", "goes wrong first"
    )
    for row in rows:
        wrong = row["first_wrong"]
        table.add_row(
            row["network"],
            row["precision"],
            f"{row['bytes']:,}",
            f"{row['seconds']:.2f}",
            f"{row['snr_db']:.1f}",
            f"{row['varying_snr_db']:.1f}",
            f"{row['top1_agreement']:.0%}",
            str(row["conversions"]),
            ", ".join(f"{n} {kind}" for kind, n in row["left"].items()) or "nothing",
            wrong and f"{wrong['kind']} {wrong['tensor']} {wrong['snr_before_db']:.0f} -> {wrong['snr_after_db']:.0f} dB",
        )
    return table


if __name__ == "__main__":
    sys.exit(main())
