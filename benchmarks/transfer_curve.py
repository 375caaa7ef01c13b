"""What measuring buys on a new device: error against minutes of device time, with the known devices' help.

    python benchmarks/transfer_curve.py --data FOLDER

Each known device of NAS-Bench-201 (those of the leaderboard's protocol nb201) takes its turn as the new one; the first 900
architectures are the pool, the error is that on those that were not measured. Beside it the same with random picks.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.table import Table

from paceline.latency_models.leaderboard.nb201 import POOL, SOURCES, read
from paceline.latency_models.leaderboard.nb201_cells import features
from paceline.latency_models.model import Floats
from paceline.latency_models.transfer.curve import expected_curve
from paceline.latency_models.transfer.prior import KnownDevice, device_prior
from paceline.latency_models.transfer.transfer import TransferRegressor

COUNTS = (3, 5, 10, 20, 50, 100)
SETUP_S, INVOKES = 0.5, 200
"""Writing, pushing and loading a network, and how often it is then invoked."""


def seconds(ms: Floats) -> Floats:
    return SETUP_S + INVOKES * ms / 1e3


def at_random(known: list[KnownDevice], seeds: int) -> list[tuple[float, float]]:
    """(median error, its standard deviation over the seeds) with random picks, by count; means over the devices."""
    found = []
    for count in COUNTS:
        errors = np.zeros((seeds, len(known)))
        for i, device in enumerate(known):
            prior = device_prior([other for other in known if other is not device])
            for seed in range(seeds):
                order = np.random.default_rng(seed).permutation(len(device.ms))
                picks, rest = order[:count], order[count:]
                model = TransferRegressor(prior).fit(device.X[picks], device.ms[picks])
                errors[seed, i] = np.median(np.abs(model.predict(device.X[rest]) / device.ms[rest] - 1))
        found.append((float(errors.mean()), float(errors.mean(axis=1).std(ddof=1))))
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--seeds", type=int, default=3, help="of the random picks")
    options = parser.parse_args()
    cells = read(options.data)
    pool = features(cells.codes[:POOL])
    known = [KnownDevice(name, pool, cells.ms[name][:POOL]) for name in SOURCES if name in cells.ms][:6]
    table = Table("measured", "device minutes", "error, chosen", "error, random", title=f"{len(known)} devices, each new once")
    for point, (mean, sd) in zip(expected_curve(known, COUNTS, seconds), at_random(known, options.seeds), strict=True):
        row = str(point.measurements), f"{point.minutes:.2f}", f"{point.error:.2%}", f"{mean:.2%} ± {sd:.2%}"
        table.add_row(*row)
    Console().print(table)


if __name__ == "__main__":
    main()
