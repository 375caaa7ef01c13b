"""Is the form that the merge planner picks the fastest of all equivalent forms of a block, and does merging everything pay?

    python benchmarks/merge_planner.py --folder FOLDER [--targets xnnpack,int8,builtin,onnxruntime] [--seed 0] [--json FILE]
    python benchmarks/merge_planner.py --folder FOLDER --prepare   # all but the measuring, which a second call then does

Blocks of mobile networks with random weights, each followed by ReLU, on this machine's CPU with one thread. The planner has a
store of its own: operators, forms and close calls that it measures. The truth is every form measured whole in two more sessions,
in fresh processes: the figure of a form is the mean of both, the noise of a block how far its forms differ between them.
What was measured is kept in --folder: the command can be killed and called again. Shares with 95 % intervals (Clopper-Pearson).
"""

from __future__ import annotations

import argparse
import hashlib
import json
import sys
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, dataclass
from itertools import combinations
from pathlib import Path

import numpy as np
import torch
from merge_blocks import blocks
from rich.console import Console
from rich.table import Table
from scipy.stats import binomtest
from torch import Tensor, nn

from paceline.devices.composed import ComposedDevice
from paceline.devices.kinds.local import Runtime, open_local
from paceline.exporters import tflite
from paceline.exporters.merge import merged
from paceline.exporters.merge_forms import optional_merges
from paceline.exporters.precision import Calibration, quantised
from paceline.exporters.precision.quantize import input_specs
from paceline.exporters.timm_networks import randomised
from paceline.exporters.torch_graph import graph_of
from paceline.files import write_atomically
from paceline.latency_models.collection.collect import Collector
from paceline.latency_models.defaults import table_model
from paceline.latency_models.model import Network
from paceline.measurement import Artifact, Measurement, Progress, silent, usual_reference
from paceline.pipeline.merge_costs import Deployment, NetworkCosts, OnnxDeployment, OperatorCosts, TfliteDeployment
from paceline.pipeline.merge_device import ONNX, reference_of
from paceline.pipeline.merge_planner import MergePlanner
from paceline.pipeline.merge_segments import Form, Made
from paceline.progress import progress
from paceline.seeds import Seeds
from paceline.store import Store

TARGETS = ("xnnpack", "int8", "builtin", ONNX)
LARGEST = 0.03
"""No form of the planner may be slower than the fastest by more than this."""


@dataclass(frozen=True, eq=False)
class Block:
    name: str
    module: nn.Module
    example: tuple[Tensor, ...]
    forms: tuple[Form, ...]


def all_blocks(seeds: Seeds) -> list[Block]:
    """With every form: each choice of merges, those that come to the same once."""
    found = []
    for name, module, (c, size) in blocks():
        torch.manual_seed(seeds.seed(name) % 2**31)
        net = randomised(nn.Sequential(module, nn.ReLU()), seeds.seed(name) % 2**31).eval()
        example = (torch.zeros(1, c, size, size),)
        names = [merge.name for merge in optional_merges(net)]
        forms: dict[str, Form] = {}
        for made in (frozenset(some) for n in range(len(names) + 1) for some in combinations(names, n)):
            form = Form(made, merged(net, {n: n in made for n in names}).module, example)
            forms.setdefault(form.signature, form)
        found.append(Block(name, net, example, tuple(forms.values())))
    return found


@dataclass(frozen=True)
class Int8Deployment:
    """A static int8 `.tflite` in `folder`, calibrated on `samples` standard normal inputs: for its latency, not its accuracy."""

    folder: Path
    seed: int
    samples: int = 4

    def write(self, module: nn.Module, example: tuple[Tensor, ...], name: str) -> Artifact:
        content = tflite.write(tflite.model_of(graph_of(module, example)))
        path = self.folder / f"{hashlib.sha256(content).hexdigest()[:16]}-int8-{self.seed}-{self.samples}.tflite"
        if not path.exists():
            data = Calibration.random(input_specs(content), self.samples, np.random.default_rng(self.seed))
            write_atomically(path, quantised(content, "int8", data, "int8"), sync=False)
        return Artifact(path, name)

    def operators(self, form: Form) -> Network:
        return tflite.read(self.write(form.module, form.example, "a form of a segment").path).graph.operators()

    def count(self, artifact: Artifact) -> int:
        return len(tflite.read(artifact.path).graph.operators())


@dataclass(frozen=True)
class Target:
    """Where a network runs, with what it becomes there."""

    name: str
    deployment: Deployment
    folder: Path

    @property
    def runtime(self) -> Runtime:
        return "onnxruntime" if self.name == ONNX else "litert"

    def open(self) -> ComposedDevice:
        return open_local(runtime=self.runtime)

    def collector(self, device: ComposedDevice, store: Store) -> Collector:
        delegate = {"int8": "xnnpack", ONNX: None}.get(self.name, self.name)
        return Collector(device, device.default_bench(delegate), store, self.folder)

    def planner(self, collector: Collector) -> MergePlanner:
        reference = reference_of(self.runtime, self.folder)
        if self.name == ONNX:
            return MergePlanner(NetworkCosts(self.deployment, collector, reference), self.deployment, collector, reference)
        operators = self.deployment.operators if isinstance(self.deployment, Int8Deployment) else None
        costs = OperatorCosts(table_model(), collector=collector, operators=operators)
        return MergePlanner(costs, self.deployment, collector, reference)


def target_of(name: str, folder: Path, seed: int) -> Target:
    models = folder / "models"
    kinds: dict[str, Deployment] = {"int8": Int8Deployment(models, seed), ONNX: OnnxDeployment(models)}
    return Target(name, kinds.get(name, TfliteDeployment(models)), models)


@dataclass(frozen=True)
class Result:
    """One block on one target. Milliseconds are the means of two sessions, one of `ms` for each of `forms`."""

    block: str
    target: str
    forms: tuple[tuple[str, ...], ...]
    ms: tuple[float, ...]
    noise: float
    planned: int
    predicted: int
    everything: int
    nothing: int
    free: int

    def slower(self, form: int) -> float:
        """By how much a form is slower than the fastest."""
        return self.ms[form] / min(self.ms) - 1

    def fastest(self, form: int) -> bool:
        """Whether nothing is faster than a form by more than the sessions of this block differ (at most 3 %)."""
        return self.slower(form) <= min(self.noise, LARGEST)


def measured(target: Target, artifacts: Sequence[Artifact], store: Store, title: str) -> list[Measurement]:
    """All of them, in a fresh process."""
    with target.open() as device, progress(title) as shown:
        found = target.collector(device, store).measure(artifacts, reference_of(target.runtime, target.folder), shown)
    failed = [f"{m.subject}: {m.failure.reason}" for m in found if m.failure is not None]
    if failed:
        raise SystemExit(f"{len(failed)} forms can't be measured, the first: {failed[0]}")
    return found


def written(target: Target, every: Sequence[Block]) -> list[Artifact]:
    with progress(f"write for {target.name}") as shown:
        found = []
        for done, block in enumerate(every, 1):
            found += [target.deployment.write(f.module, f.example, block.name) for f in block.forms]
            shown(done, len(every))
    return found


def quiet(title: str) -> AbstractContextManager[Progress]:
    return nullcontext(silent)


def results(target: Target, every: Sequence[Block], folder: Path) -> list[Result]:
    artifacts = written(target, every)
    measurements = []
    for number in (1, 2):
        with Store(folder / f"{target.name}-session-{number}.sqlite") as store:
            measurements.append(measured(target, artifacts, store, f"{target.name}, session {number}"))
    usual = usual_reference(m for session in measurements for m in session)
    sessions = [np.array([m.ms_at(usual) for m in session]) for session in measurements]
    found, at = [], 0
    with Store(folder / f"{target.name}-planner.sqlite") as store, target.open() as device, progress("plan") as shown:
        planner = target.planner(target.collector(device, store))
        for done, block in enumerate(every, 1):
            first, second = (session[at : at + len(block.forms)] for session in sessions)
            at += len(block.forms)
            found.append(judged(block, target.name, planner, first, second))
            shown(done, len(every), block.name)
    return found


def judged(block: Block, target: str, planner: MergePlanner, first: np.ndarray, second: np.ndarray) -> Result:
    plan = planner.plan(block.module, block.example, quiet)
    numbers = {form.signature: i for i, form in enumerate(block.forms)}
    names = [merge.name for merge in optional_merges(block.module)]

    def number(made: Sequence[str] | Made) -> int:
        form = Form(frozenset(made), merged(block.module, {n: n in made for n in names}).module, block.example)
        return numbers[form.signature]

    roles = {role: number(plan.form(role).made) for role in ("predicted 1", "all", "none", "free")}
    return Result(
        block=block.name,
        target=target,
        forms=tuple(tuple(sorted(form.made)) for form in block.forms),
        ms=tuple(((first + second) / 2).tolist()),
        noise=float(np.max(np.abs(first / second - 1))),
        planned=number(plan.made),
        predicted=roles["predicted 1"],
        everything=roles["all"],
        nothing=roles["none"],
        free=roles["free"],
    )


def share(hits: int, n: int) -> str:
    low, high = binomtest(hits, n).proportion_ci()
    return f"{hits}/{n} = {hits / n:.0%} ({low:.0%} to {high:.0%})"


def rules_table(found: Sequence[Result]) -> Table:
    table = Table(title="Slower than the fastest of all equivalent forms", show_lines=False)
    for column in ("target", "rule", "fastest", "or no slower than noise", "by more than 3 %", "mean", "worst"):
        table.add_column(column, justify="left" if column in ("target", "rule") else "right")
    for target in dict.fromkeys(r.target for r in found):
        mine = [r for r in found if r.target == target]
        for rule in ("planned", "predicted", "everything", "free", "nothing"):
            off = np.array([r.slower(getattr(r, rule)) for r in mine])
            hits, lost = sum(r.fastest(getattr(r, rule)) for r in mine), int((off > LARGEST).sum())
            figures = f"{int((off == 0).sum())}", share(hits, len(mine)), str(lost), f"{off.mean():.1%}", f"{off.max():.1%}"
            table.add_row(target, RULES[rule], *figures)
        table.add_section()
    return table


RULES = {
    "planned": "the planner",
    "predicted": "its prediction alone",
    "everything": "always merge",
    "free": "merge what costs no more work or weights",
    "nothing": "never merge",
}


def blocks_table(found: Sequence[Result]) -> Table:
    table = Table(title="Each block: forms, planner's milliseconds, its and always-merge's loss, noise")
    for column in ("block", "target", "forms", "ms", "planner", "always merge", "noise"):
        table.add_column(column, justify="left" if column in ("block", "target") else "right")
    for r in sorted(found, key=lambda r: r.block):
        figures = f"{r.ms[r.planned]:.4f}", f"{r.slower(r.planned):+.1%}", f"{r.slower(r.everything):+.1%}", f"{r.noise:.1%}"
        table.add_row(r.block, r.target, str(len(r.forms)), *figures)
    return table


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, required=True, help="where models and measurements are kept")
    parser.add_argument("--prepare", action="store_true", help="stop before measuring")
    parser.add_argument("--targets", default=",".join(TARGETS))
    parser.add_argument("--blocks", action="store_true", help="every block in a table, too")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=Path, metavar="FILE")
    options = parser.parse_args()
    torch.set_num_threads(1)
    every = all_blocks(Seeds(options.seed))
    print(f"{len(every)} blocks with {sum(len(b.forms) for b in every)} forms")
    targets = [target_of(name, options.folder, options.seed) for name in options.targets.split(",")]
    if options.prepare:
        for target in targets:
            written(target, every)
        return
    found = [result for target in targets for result in results(target, every, options.folder)]
    console = Console(width=None if sys.stdout.isatty() else 150)
    if options.blocks:
        console.print(blocks_table(found))
    console.print(rules_table(found))
    print(f"planner the fastest: {share(sum(r.fastest(r.planned) for r in found), len(found))}")
    worst = max(r.slower(r.planned) for r in found)
    print(f"its largest loss: {worst:.1%}; sessions differ by {np.median([r.noise for r in found]):.1%} (median of the blocks)")
    if options.json:
        write_atomically(options.json, json.dumps([asdict(r) for r in found]).encode())


if __name__ == "__main__":
    main()
