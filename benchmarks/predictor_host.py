"""How well whole networks are predicted on this machine: networks that no model was fitted on, at two image sizes.

    python benchmarks/predictor_host.py [--sizes 64 96] [--test 50] [--fit 60] [--seed 0]

Each size is a space of its own (3x3/5x5/7x7 x expansion 3/6, with and without squeeze-excitation, skip, re-parameterisable
convolutions); one set of models is fitted on the rows of both. The noise floor is the same network written again with other
weights and measured in a second pass. All measuring counts towards the minutes that are printed.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from rich.console import Console
from rich.table import Table

from paceline.devices.kinds.local import open_local
from paceline.latency_models.collection.collect import Collector, Pace, rows_of
from paceline.latency_models.defaults import compared_models, table_model
from paceline.latency_models.metrics import accuracy_of, coverage
from paceline.latency_models.model import Row
from paceline.measurement import usual_reference
from paceline.pipeline.latency import measured_networks
from paceline.pipeline.networks import Builder, sample_archs
from paceline.pipeline.operators import space_operators
from paceline.pipeline.spaces import SPACES, find_space
from paceline.progress import progress
from paceline.seeds import Seeds
from paceline.store import Store


class Stopwatch:
    """Adds up the seconds of the blocks that run under it."""

    seconds = 0.0

    def __enter__(self) -> None:
        self._start = time.perf_counter()

    def __exit__(self, *error: object) -> None:
        self.seconds += time.perf_counter() - self._start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--space", choices=list(SPACES), default="mobile_small")
    parser.add_argument("--sizes", type=int, nargs="+", default=[64, 96])
    parser.add_argument("--fit", type=int, default=40, help="networks of each size to fit on")
    parser.add_argument("--test", type=int, default=50, help="networks of each size to test on")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--delegate", default="xnnpack")
    options = parser.parse_args()
    measuring = Stopwatch()
    rows: list[Row] = []
    operators_measured: set[str] = set()
    tests, measured, again = [], [], []
    with tempfile.TemporaryDirectory() as place, open_local() as device, Store(Path(place) / "store.sqlite") as store:
        collector = Collector(device, device.default_bench(options.delegate), store, Path(place) / "operators")
        for size in options.sizes:
            seeds = Seeds(options.seed)
            net = find_space(options.space).chain.for_images(3, 10, size).supernet(seeds.seed("weights"))
            example = torch.zeros(1, 3, size, size)
            with progress(f"trace {size} px") as shown:
                builder = Builder(net, space_operators(net, example, progress=shown), example, Path(place) / str(size), seeds)
            specs = builder.operators.distinct()
            with measuring, progress(f"measure {size} px") as shown:
                found = collector.operators(specs, shown)
            rows += rows_of(found, [[spec] for spec in specs], usual_reference(found))
            operators_measured |= {m.artifact for m in found}
            archs = sample_archs(builder.operators.space, options.fit + options.test, seeds.rng("archs"))
            every = builder.build(archs)  # here, so that only measuring is timed below
            builder.build(archs[options.fit :], copy=1)
            reference = builder.build(sample_archs(builder.operators.space, 1, seeds.rng("reference")))[0].artifact
            with measuring:
                with progress("measure networks") as shown:
                    fit = collector.measure([n.artifact for n in every[: options.fit]], reference, shown)
                pace = Pace(reference, usual_reference(fit))
                test, test_ms = measured_networks(builder, collector, archs[options.fit :], pace, progress)
                _, again_ms = measured_networks(builder, collector, archs[options.fit :], pace, progress, copy=1)
            rows += rows_of(fit, [n.operators for n in every[: options.fit]], pace.usual_ms)
            tests += [n.operators for n in test]
            measured.append(test_ms)
            again.append(again_ms)
    truth, repeated = np.concatenate(measured), np.concatenate(again)
    table = table_model(session_noise=float(np.sqrt(np.mean((repeated / truth - 1) ** 2))), strict=True)
    models = [table, *compared_models(options.seed, folds=0)]  # every operator of the space has a row
    shown_table = Table("model", "error", "within 5 %", "within 10 %", "rank corr.", "n")
    results = [accuracy_of("noise floor", repeated, truth)]
    results += [accuracy_of(model.name, model.fit(rows).predict(tests).ms, truth) for model in models]
    for a in results:
        shown_table.add_row(a.name, f"{a.mape:.2%}", f"{a.within_5:.1%}", f"{a.within_10:.1%}", f"{a.spearman:.4f}", str(a.n))
    Console().print(shown_table)
    found_table = table.predict(tests)
    inside = coverage(found_table.low, found_table.high, truth)
    print(f"{options.space} at {options.sizes} px, {options.delegate}; {options.fit} networks of each size to fit on")
    print(f"{len(operators_measured)} operator rows, {measuring.seconds / 60:.1f} minutes of measuring")
    print(f"networks of {truth.min():.3f} to {truth.max():.3f} ms; the 90 % interval covers {inside:.1%}")


if __name__ == "__main__":
    main()
