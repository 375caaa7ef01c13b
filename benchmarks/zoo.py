"""Predicts and measures the published networks of `paceline.pipeline.zoo` on this machine's CPU, one thread, 224x224.

    python benchmarks/zoo.py [--folder FOLDER] [--fit 6] [--seed 0] [--json FILE]
    python benchmarks/zoo.py --folder FOLDER --prepare     # all but the measuring, which a second call then does

Export: every network with random weights, its BatchNorm statistics settled on random images, is written as .tflite and compared
with torch on XNNPACK and on TFLite's own kernels; an error above 1e-4 of the output's range is exit code 1.

Prediction: the lookup table of every operator of the SPACES that the networks are of (each option of each slot), calibrated on
--fit networks of each space, from light to heavy; no network of the zoo is measured for it. The noise floor is the same networks
with other weights, measured again.

All that was done is kept in --folder: the command can be killed and called again. Rank correlations with 95 % percentile
bootstrap intervals over the networks.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from rich.console import Console
from rich.table import Table
from scipy.stats import bootstrap, spearmanr

from paceline.devices.kinds.local import open_local
from paceline.exporters import parity, tflite
from paceline.exporters.timm_networks import randomised
from paceline.exporters.torch_graph import graph_of
from paceline.files import write_atomically
from paceline.graph import OpSpec
from paceline.latency_models.collection.block_networks import reference_network
from paceline.latency_models.collection.collect import Collector, rows_of
from paceline.latency_models.defaults import macs_model, table_model
from paceline.latency_models.metrics import Accuracy, accuracy_of
from paceline.latency_models.model import Floats
from paceline.measurement import Artifact, Measurement, usual_reference
from paceline.pipeline import zoo
from paceline.pipeline.networks import Builder, leaning_archs, with_random_weights
from paceline.pipeline.operators import space_operators
from paceline.pipeline.supernet import recalibrate
from paceline.progress import progress
from paceline.seeds import Seeds
from paceline.store import Store

KERNELS = ("xnnpack", "builtin")
TOLERANCE = 1e-4
IMAGES = torch.Size((2, 3, 224, 224))


@dataclass(frozen=True)
class Network:
    """A network as files of different weights, what it executes, and how far the first file is from torch, by kernels."""

    name: str
    files: tuple[str, ...]
    operators: tuple[str, ...]
    errors: dict[str, float]


@dataclass(frozen=True)
class Prepared:
    """All that is to be measured; `operators` are those of the spaces."""

    zoo: tuple[Network, ...]
    fit: tuple[Network, ...]
    operators: tuple[str, ...]


def published(name: str, folder: Path, seeds: Seeds) -> Network:
    """Written twice: with settled statistics, compared with torch, and with other weights."""
    net = randomised(zoo.build(name, seed=seeds.seed(f"weights/{name}") % 2**31), 0)
    images = torch.randn(IMAGES, generator=torch.Generator().manual_seed(seeds.seed("images")))
    recalibrate(net, [(images, torch.zeros(len(images), dtype=torch.long))])
    graph = graph_of(net.eval(), images[:1])
    if graph.macs() != zoo.entry(name).macs:
        raise SystemExit(f"{name} has {graph.macs()} MACs, its entry says {zoo.entry(name).macs}")
    tflite.save(graph, folder / f"{name}-0.tflite")
    tflite.save(with_random_weights(graph, seeds.rng(f"again/{name}")), folder / f"{name}-1.tflite")
    artifact = Artifact(folder / f"{name}-0.tflite", name)
    errors = {k: parity.check(net, [images[:1]], artifact, float("inf"), k).max_rel_error for k in KERNELS}
    return Network(name, (f"{name}-0.tflite", f"{name}-1.tflite"), tuple(spec.key for spec in graph.operators()), errors)


def prepare(folder: Path, fit: int, seeds: Seeds) -> Prepared:
    """No network to fit on is one of the zoo."""
    published_archs = {entry.arch for entry in zoo.ENTRIES.values()}
    networks, fitted, every = [], [], dict[str, None]()
    with progress("write the zoo") as shown:
        for done, name in enumerate(zoo.names(), 1):
            networks.append(published(name, folder, seeds))
            shown(done, len(zoo.names()), name)
    for name, chain in {entry.space.name: entry.space for entry in zoo.ENTRIES.values()}.items():
        net, example = chain.supernet(seeds.seed(name)), torch.zeros(1, *IMAGES[1:])
        with progress(f"trace {name}") as shown:
            operators = space_operators(net, example, progress=shown)
        every |= dict.fromkeys(spec.key for spec in operators.distinct())
        archs = [arch for arch in leaning_archs(operators, fit, seeds.rng(f"fit/{name}")) if arch not in published_archs]
        for built in Builder(net, operators, example, folder / name, seeds).build(archs):
            keys = tuple(spec.key for spec in built.operators)
            fitted.append(Network(f"{name} {built.arch.key}", (f"{name}/{built.artifact.path.name}",), keys, {}))
    tflite.save(reference_network(), folder / "reference.tflite")
    return Prepared(tuple(networks), tuple(fitted), tuple(every))


def load_or_prepare(folder: Path, fit: int, seeds: Seeds) -> Prepared:
    path = folder / f"prepared-{seeds.root}-{fit}.json"
    if not path.exists():
        found = prepare(folder, fit, seeds)
        write_atomically(path, json.dumps(found, default=vars).encode())
    kept = json.loads(path.read_text())
    every = [
        tuple(Network(n["name"], tuple(n["files"]), tuple(n["operators"]), n["errors"]) for n in kept[k]) for k in ("zoo", "fit")
    ]
    return Prepared(*every, tuple(kept["operators"]))


def specs_of(networks: Sequence[Network]) -> list[tuple[OpSpec, ...]]:
    return [tuple(OpSpec.parse(key) for key in network.operators) for network in networks]


def measured(collector: Collector, networks: Sequence[Network], copy: int, title: str) -> list[Measurement]:
    """One Measurement for each network, all of them successful."""
    folder = collector.folder.parent
    with progress(title) as shown:
        artifacts = [Artifact(folder / n.files[copy], n.name) for n in networks]
        found = collector.measure(artifacts, Artifact(folder / "reference.tflite", "reference"), shown)
    failed = [f"{m.subject}: {m.failure.reason}" for m in found if m.failure is not None]
    if failed:
        raise SystemExit(f"{len(failed)} networks can't be measured, the first: {failed[0]}")
    return found


def at_pace(measurements: Sequence[Measurement], usual_ms: float | None) -> Floats:
    return np.array([m.ms_at(usual_ms) for m in measurements])


def rank_correlation(a: Floats, b: Floats, seed: int) -> str:
    def rho(x: Floats, y: Floats) -> float:
        return float(spearmanr(x, y).statistic)

    found = bootstrap(
        (a, b), rho, paired=True, vectorized=False, method="percentile", n_resamples=2000, rng=np.random.default_rng(seed)
    )
    low, high = found.confidence_interval
    return f"{rho(a, b):.3f} ({low:.3f} to {high:.3f}, n = {len(a)})"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, help="where models and measurements are kept; without it they are deleted")
    parser.add_argument("--prepare", action="store_true", help="stop before measuring")
    parser.add_argument("--fit", type=int, default=6, help="networks of each space to calibrate on")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=Path, metavar="FILE")
    options = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as temporary:
        folder = options.folder or Path(temporary)
        folder.mkdir(parents=True, exist_ok=True)
        prepared = load_or_prepare(folder, options.fit, Seeds(options.seed))
        print(f"{len(prepared.zoo)} networks, {len(prepared.fit)} to fit on, {len(prepared.operators)} operators of the spaces")
        if not options.prepare:
            measure_all(folder, prepared, options)
    worst = max(error for network in prepared.zoo for error in network.errors.values())
    print(f"largest export error: {worst:.1e} of the output's range")
    sys.exit(worst > TOLERANCE)


def measure_all(folder: Path, prepared: Prepared, options: argparse.Namespace) -> None:
    with open_local() as device, Store(folder / "store.sqlite") as store:
        collectors = {k: Collector(device, device.default_bench(k), store, folder / "operators") for k in KERNELS}
        specs = [OpSpec.parse(key) for key in prepared.operators]
        with progress("measure operators") as shown:
            rows = collectors["xnnpack"].operators(specs, shown)
        fit = measured(collectors["xnnpack"], prepared.fit, 0, "networks to fit")
        once = measured(collectors["xnnpack"], prepared.zoo, 0, "zoo, XNNPACK")
        again = measured(collectors["xnnpack"], prepared.zoo, 1, "zoo again")
        own = measured(collectors["builtin"], prepared.zoo, 0, "zoo, built-in")
        name = device.info.name, dict(device.info.facts)
    usual = usual_reference(fit)
    xnnpack, repeated, builtin = at_pace(once, usual), at_pace(again, usual), at_pace(own, usual_reference(own))
    learned = rows_of(rows, [[spec] for spec in specs], usual_reference(rows)) + rows_of(fit, specs_of(prepared.fit), usual)
    noise = float(np.sqrt(np.mean((repeated / xnnpack - 1) ** 2)))
    table = table_model(session_noise=noise, strict=True).fit(learned)
    networks = specs_of(prepared.zoo)
    said = table.predict(networks)
    by_macs = macs_model(folds=0).fit(learned).predict(networks).ms
    accuracies = [
        accuracy_of("noise floor", repeated, xnnpack),
        accuracy_of("table of the spaces", said.ms, xnnpack, (said.low, said.high)),
        accuracy_of("MACs only", by_macs, xnnpack),
    ]
    print(f"on {name[0]}: {name[1]}")
    console = Console(width=None if sys.stdout.isatty() else 150)
    console.print(networks_table(prepared.zoo, said.ms, xnnpack, builtin))
    console.print(accuracies_table(accuracies))
    print(f"rank correlation, predicted and measured on XNNPACK: {rank_correlation(said.ms, xnnpack, options.seed)}")
    print(f"rank correlation, XNNPACK and built-in kernels: {rank_correlation(xnnpack, builtin, options.seed)}")
    print(f"rank correlation, MACs and measured on XNNPACK: {rank_correlation(by_macs, xnnpack, options.seed)}")
    if options.json:
        figures = [
            {"name": n.name, "predicted_ms": p, "xnnpack_ms": x, "again_ms": a, "builtin_ms": b, "errors": n.errors}
            for n, p, x, a, b in zip(
                prepared.zoo, said.ms.tolist(), xnnpack.tolist(), repeated.tolist(), builtin.tolist(), strict=True
            )
        ]
        write_atomically(options.json, json.dumps({"networks": figures, "accuracies": accuracies}, default=vars).encode())


def networks_table(networks: Sequence[Network], predicted: Floats, xnnpack: Floats, builtin: Floats) -> Table:
    table = Table(title="The zoo at 224x224, milliseconds of one thread")
    for column in ("network", "params", "MACs", "top-1 (claimed)", "predicted", "XNNPACK", "error", "built-in", "export error"):
        table.add_column(column, justify="left" if column == "network" else "right")
    for network, said, fast, slow in zip(networks, predicted, xnnpack, builtin, strict=True):
        entry = zoo.entry(network.name)
        sizes = f"{entry.params:,}", f"{entry.macs:,}", f"{entry.claims.top1:.1f}"
        times = f"{said:.2f}", f"{fast:.2f}", f"{said / fast - 1:+.1%}", f"{slow:.2f}"
        table.add_row(entry.title, *sizes, *times, f"{max(network.errors.values()):.1e}")
    return table


def accuracies_table(accuracies: Sequence[Accuracy]) -> Table:
    table = Table(
        "predictor", "error", "within 5 %", "within 10 %", "rank corr.", "Kendall", "n", title="Against measured, XNNPACK"
    )
    for a in accuracies:
        shares = f"{a.within_5:.0%}", f"{a.within_10:.0%}"
        table.add_row(a.name, f"{a.mape:.2%}", *shares, f"{a.spearman:.3f}", f"{a.kendall:.3f}", str(a.n))
    return table


if __name__ == "__main__":
    main()
