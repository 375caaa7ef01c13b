"""MoGA's lookup table on this machine's CPU: the full ImageNet space, 224x224, one thread, built in one command.

    python benchmarks/moga_table.py [--delegates xnnpack builtin] [--fit 20] [--test 30] [--seed 0] [--json FILE]
    python benchmarks/moga_table.py --folder FOLDER --prepare     # all but the measuring, which a second call then does

Every operator of the 12 options of the 14 layers (10 different shapes) and of stem and tail is measured by itself, then --fit
networks of the space whole, from light to heavy, which calibrate their sum: that is the table, and its minutes are printed. Then
--test random networks are measured, and again with other weights in a second pass (the noise floor): what is predicted are these.

"sum" is the sum of the table's rows as it is. A second delegate is a second target with a table of its own: how differently the
two order networks, and the options of each layer.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

import numpy as np
import torch
from rich.console import Console
from rich.table import Table
from scipy.stats import kendalltau, spearmanr

from paceline.devices.kinds.local import open_local
from paceline.files import write_atomically
from paceline.latency_models.collection.collect import Collector
from paceline.latency_models.metrics import Accuracy, accuracy_of
from paceline.measurement import Bench, Progress
from paceline.pipeline.latency import Predictors, calibration_archs, fit_predictors
from paceline.pipeline.networks import Builder
from paceline.pipeline.operators import space_operators
from paceline.pipeline.spaces import find_space
from paceline.progress import progress
from paceline.seeds import Seeds
from paceline.space_operators import SpaceOperators
from paceline.store import Store


def quick(bench: Bench) -> Bench:
    """With few invokes: to see that it works, not to report."""
    return replace(bench, batches=2, min_invokes=5, batch_ms=3.0, warmup_ms=1.0, max_batch_ms=60.0, repeats=0)


@dataclass
class Clock:
    """Seconds of each part of the work, in order."""

    parts: list[tuple[str, float]] = field(default_factory=list)

    @contextmanager
    def __call__(self, title: str) -> Iterator[Progress]:
        start = time.monotonic()
        with progress(title) as shown:
            yield shown
        self.parts.append((title, time.monotonic() - start))


@dataclass(frozen=True)
class Target:
    """One delegate with its table."""

    delegate: str
    predictors: Predictors
    accuracies: tuple[Accuracy, ...]
    parts: tuple[tuple[str, float], ...]

    @property
    def built_s(self) -> float:
        """Seconds until the table stood: all parts up to the first networks that were measured."""
        titles = [title for title, _ in self.parts]
        return sum(s for _, s in self.parts[: titles.index("measure networks") + 1])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--delegates", nargs="+", default=["xnnpack"])
    parser.add_argument("--fit", type=int, default=20, help="networks to calibrate with")
    parser.add_argument("--test", type=int, default=30, help="networks to predict")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--folder", type=Path, help="keeps what was exported and measured (default: a temporary one)")
    parser.add_argument("--prepare", action="store_true", help="trace and export only")
    parser.add_argument("--quick", action="store_true", help="few invokes: to see that it works, not to report")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    with ExitStack() as stack:
        folder = options.folder or Path(stack.enter_context(tempfile.TemporaryDirectory()))
        clock, seeds = Clock(), Seeds(options.seed)
        chain = find_space("moga").chain
        net = chain.supernet(seeds.seed("weights"))
        example = torch.zeros(1, chain.in_channels, chain.image_size, chain.image_size)
        with clock("trace operators") as shown:
            operators = space_operators(net, example, progress=shown)
        builder = Builder(net, operators, example, folder / "networks", seeds)
        traced = tuple(clock.parts)
        print(f"{len(operators.distinct())} different operators in {operators.space.size:.3g} networks")
        if options.prepare:
            prepare(builder, options.fit, options.test, seeds, clock)
            return
        device = stack.enter_context(open_local())
        store = stack.enter_context(Store(folder / "store.sqlite"))
        targets = []
        for delegate in options.delegates:
            bench = device.default_bench(delegate)
            collector = Collector(device, quick(bench) if options.quick else bench, store, folder / "operators")
            targets.append(measured(builder, collector, options.fit, options.test, seeds, traced))
    for target in targets:
        tell(target, options.fit)
    if len(targets) > 1:
        compare(targets, operators)
    if options.json:
        write_atomically(options.json, json.dumps([to_json(t) for t in targets], indent=2) + "\n")


def prepare(builder: Builder, fit: int, test: int, seeds: Seeds, clock: Clock) -> None:
    """Exports what `fit_predictors` will want."""
    fitted, tested = calibration_archs(builder.operators, fit, test, seeds)
    with clock("export networks") as shown:
        builder.build([*fitted, *tested], shown)
        builder.build(tested, shown, copy=1)
    print(", ".join(f"{title}: {s:.0f} s" for title, s in clock.parts))


def measured(
    builder: Builder, collector: Collector, fit: int, test: int, seeds: Seeds, traced: tuple[tuple[str, float], ...]
) -> Target:
    """Builds the table of one delegate and tests it."""
    clock = Clock()
    found = fit_predictors(builder, collector, fit_networks=fit, test_networks=test, confidence=0.9, seeds=seeds, show=clock)
    networks = [network.operators for network in found.test.networks]
    alone = [float(found.table.predict_operators(operators).ms.sum()) for operators in networks]
    accuracies = (found.accuracies[0], accuracy_of("sum", np.array(alone), found.test.measured), *found.accuracies[1:])
    return Target(collector.bench.delegate, found, accuracies, traced + tuple(clock.parts))


def tell(target: Target, fit: int) -> None:
    """Prints what the table cost and how well it predicts."""
    found = target.predictors
    ms, minutes = found.test.measured, target.built_s / 60
    table = Table("", "error", "within 5 %", "within 10 %", "Spearman", title=f"{target.delegate}: {len(ms)} networks")
    for a in target.accuracies:
        table.add_row(a.name, f"{a.mape:.2%}", f"{a.within_5:.1%}", f"{a.within_10:.1%}", f"{a.spearman:.4f}")
    Console().print(table)
    print(f"networks of {ms.min():.2f} to {ms.max():.2f} ms; the 90 % interval covers {found.coverage:.1%}")
    print(f"the table: {found.rows} operators ({found.unstable_rows} unstable), {fit} networks, {minutes:.1f} minutes")
    print(", ".join(f"{title} {s:.0f} s" for title, s in target.parts))


def compare(targets: Sequence[Target], operators: SpaceOperators) -> None:
    """Prints how differently each further target orders the same networks, and the options of each layer."""
    first, *others = targets
    for other in others:
        both = f"{first.delegate} and {other.delegate}"
        ms = first.predictors.test.measured, other.predictors.test.measured
        rng = np.random.default_rng(0)
        drawn = [spearmanr(ms[0][at], ms[1][at]).statistic for at in rng.integers(len(ms[0]), size=(2000, len(ms[0])))]
        low, high = np.quantile(drawn, [0.025, 0.975])
        print(f"{both}, {len(ms[0])} networks measured: Spearman {spearmanr(*ms).statistic:.3f} [{low:.3f}, {high:.3f}]")
        taus = []
        for c in operators.space.choices:
            one, two = (option_ms(target, operators, c.name, c.options) for target in (first, other))
            taus.append(float(kendalltau(one, two).statistic))
        print(f"{both}, options of one layer by their tables: tau {np.mean(taus):.2f} ({min(taus):.2f} to {max(taus):.2f})")


def option_ms(target: Target, operators: SpaceOperators, choice: str, options: Sequence[str]) -> list[float]:
    """What each option of a layer adds to a network."""
    return [float(target.predictors.table.operator_ms(operators.options[choice, option]).sum()) for option in options]


def to_json(target: Target) -> dict[str, object]:
    found = target.predictors
    predicted = found.table.predict([network.operators for network in found.test.networks])
    columns = {
        "measured_ms": found.test.measured,
        "again_ms": found.test.again,
        "predicted_ms": predicted.ms,
        "low_ms": predicted.low,
        "high_ms": predicted.high,
    }
    return {
        "delegate": target.delegate,
        "table_s": target.built_s,
        "operators": found.rows,
        "unstable": found.unstable_rows,
        "noise_floor": found.test.noise_floor,
        "covered": found.coverage,
        "accuracies": [asdict(a) for a in target.accuracies],
        "networks": [
            {"key": network.arch.key, **{name: float(values[i]) for name, values in columns.items()}}
            for i, network in enumerate(found.test.networks)
        ],
        "parts": [list(part) for part in target.parts],
    }


if __name__ == "__main__":
    main()
