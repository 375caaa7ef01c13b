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
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, dataclass
from itertools import combinations
from pathlib import Path

import numpy as np
import torch
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
from paceline.measurement import Artifact, Progress, silent, usual_reference
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


class Parallel(nn.Module):
    """Branches that are summed, or concatenated."""

    def __init__(self, *branches: nn.Module, concatenated: bool = False) -> None:
        super().__init__()
        self.branches, self.concatenated = nn.ModuleList(branches), concatenated

    def forward(self, x: Tensor) -> Tensor:
        values = [branch(x) for branch in self.branches]
        return torch.cat(values, 1) if self.concatenated else sum(values[1:], values[0])


def conv(inputs: int, outputs: int, kernel: int | tuple[int, int] = 1, stride: int = 1, groups: int = 1) -> nn.Conv2d:
    height, width = (kernel, kernel) if isinstance(kernel, int) else kernel
    return nn.Conv2d(inputs, outputs, (height, width), stride, (height // 2, width // 2), groups=groups, bias=False)


def normed(*layers: nn.Conv2d) -> nn.Sequential:
    """With BatchNorm behind the last: none where a layer behind would pad what it shifted."""
    return nn.Sequential(*layers, nn.BatchNorm2d(layers[-1].out_channels))


def repvgg(c: int, stride: int = 1) -> Parallel:
    identity = (nn.BatchNorm2d(c),) if stride == 1 else ()
    return Parallel(normed(conv(c, c, 3, stride)), normed(conv(c, c, 1, stride)), *identity)


def unpadded(c: int, kernel: int) -> nn.Conv2d:
    return nn.Conv2d(c, c, kernel, groups=c, bias=False)


def blocks() -> Iterator[tuple[str, nn.Module, tuple[int, int]]]:
    """Name, block, and the channels and size of its input."""
    for c, size in ((16, 56), (32, 28), (144, 28), (96, 14)):
        kernels = (normed(conv(c, c, k, groups=c)) for k in (3, 5, 7))
        yield f"depthwise 3 + 5 + 7, {c}x{size}", Parallel(*kernels), (c, size)
    for c, wide, size in ((16, 96, 28), (24, 144, 56), (64, 384, 14), (64, 32, 28), (64, 16, 28), (128, 56, 14), (256, 32, 7)):
        yield f"1x1 > 1x1 by {wide}, {c}x{size}", normed(conv(c, wide), conv(wide, c)), (c, size)
    for c, inner, size in ((64, 16, 28), (64, 56, 14), (128, 16, 14), (32, 30, 28), (32, 64, 28)):
        yield f"1x1 > 3x3 by {inner}, {c}x{size}", normed(conv(c, inner), conv(inner, c, 3)), (c, size)
    for c, inner, o, size in ((32, 64, 16, 28), (64, 16, 64, 28)):
        yield f"3x3 > 1x1 by {inner}, {c}x{size}", normed(conv(c, inner, 3), conv(inner, o)), (c, size)
    for c, k, size in ((16, 3, 56), (32, 3, 28), (32, 5, 28), (64, 7, 14)):
        yield f"{k}x1 > 1x{k}, {c}x{size}", normed(conv(c, c, (k, 1)), conv(c, c, (1, k))), (c, size)
    for c, size in ((32, 28), (64, 14)):
        branches = (normed(conv(c, c, k)) for k in ((3, 1), (1, 3)))
        yield f"3x1 + 1x3, {c}x{size}", Parallel(*branches), (c, size)
    for c, inner, size in ((64, 16, 28), (128, 32, 14), (32, 16, 56)):
        yield f"1x1 > 3x3 > 1x1 by {inner}, {c}x{size}", normed(conv(c, inner), conv(inner, inner, 3), conv(inner, c)), (c, size)
    for c, size, stride in ((16, 56, 1), (48, 28, 1), (64, 14, 1), (128, 7, 1), (48, 28, 2)):
        yield f"RepVGG{' of stride 2' if stride == 2 else ''}, {c}x{size}", repvgg(c, stride), (c, size)
    for c, groups, size in ((32, 2, 28), (64, 4, 14), (64, 8, 28)):
        yield f"3x3 in {groups} groups, {c}x{size}", normed(conv(c, c, 3, groups=groups)), (c, size)
    for c, size in ((8, 56), (16, 28), (32, 28)):
        yield f"depthwise 3x3 > 1x1, {c}x{size}", normed(conv(c, c, 3, groups=c), conv(c, c)), (c, size)
    for c, size in ((32, 28), (64, 14)):
        both = Parallel(normed(conv(c, c // 2)), normed(conv(c, c // 2, 3)), concatenated=True)
        yield f"1x1 | 3x3, {c}x{size}", both, (c, size)
    for c, size in ((64, 28), (128, 14)):
        yield f"depthwise 3x3 > 3x3 unpadded, {c}x{size}", normed(conv(c, c, 3, groups=c), unpadded(c, 3)), (c, size)


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
        return len(tflite.read(artifact.path).graph.ops)


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

    @property
    def optimal(self) -> bool:
        """Whether nothing is faster than the planner's form by more than the sessions differ."""
        return self.slower(self.planned) <= self.noise


def measured(target: Target, artifacts: Sequence[Artifact], store: Store, title: str) -> np.ndarray:
    """Milliseconds at the usual pace, in a fresh process."""
    with target.open() as device, progress(title) as shown:
        found = target.collector(device, store).measure(artifacts, reference_of(target.runtime, target.folder), shown)
    failed = [f"{m.subject}: {m.failure.reason}" for m in found if m.failure is not None]
    if failed:
        raise SystemExit(f"{len(failed)} forms can't be measured, the first: {failed[0]}")
    usual = usual_reference(found)
    return np.array([m.ms_at(usual) for m in found])


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
    sessions = []
    for number in (1, 2):
        with Store(folder / f"{target.name}-session-{number}.sqlite") as store:
            sessions.append(measured(target, artifacts, store, f"{target.name}, session {number}"))
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
    for column in ("target", "rule", "fastest, as far as two sessions tell", "by more than 3 %", "mean", "worst"):
        table.add_column(column, justify="left" if column in ("target", "rule") else "right")
    for target in dict.fromkeys(r.target for r in found):
        mine = [r for r in found if r.target == target]
        for rule in ("planned", "predicted", "everything", "free", "nothing"):
            off = np.array([r.slower(getattr(r, rule)) for r in mine])
            hits = sum(int(o <= r.noise) for o, r in zip(off, mine, strict=True))
            lost = f"{int((off > LARGEST).sum())}"
            table.add_row(target, RULES[rule], share(hits, len(mine)), lost, f"{off.mean():.1%}", f"{off.max():.1%}")
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
    print(f"planner the fastest: {share(sum(r.optimal for r in found), len(found))}")
    worst = max(r.slower(r.planned) for r in found)
    print(f"its largest loss: {worst:.1%}; sessions differ by {np.median([r.noise for r in found]):.1%} (median of the blocks)")
    if options.json:
        write_atomically(options.json, json.dumps([asdict(r) for r in found]).encode())


if __name__ == "__main__":
    main()
