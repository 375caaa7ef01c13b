"""What a supernet costs beyond its networks: training steps, and the evaluation of candidates. The figures of docs/supernets.md.

    python benchmarks/supernet_speed.py
    python benchmarks/supernet_speed.py --spaces fairnas_small@16 --steps 20

A strictly fair step of m paths is timed as `train_supernet` does it (drawing and augmenting the batch included), against its m
paths as plain networks that a plain loop trains on the same batch with the same threads. Both take turns, step by step. Images
are random: time does not depend on what they show.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn
from torch.nn import functional

from paceline.arch import Arch, Space
from paceline.pipeline.spaces.catalogue import find_space
from paceline.pipeline.supernet import OneShot, StrictFair, derive, space_of, train_supernet
from paceline.pipeline.supernet import Path as PathWeights
from paceline.pipeline.tasks import Split, Task
from paceline.pipeline.training import CLIP, MOMENTUM

CONSOLE = Console(width=130)
STEP_AIM = 1.10
FORWARD_AIM = 0.85
SPACES = ("mobile_small@32", "fairnas_small@16", "scarlet_small@16", "moga_small@16", "fairnas@64")
CLASSES = 10
BATCHES = {"fairnas@64": 8}
BATCH = 32


@dataclass(frozen=True)
class Interval:
    """A median with its 95 % bootstrap interval."""

    median: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.median:.3f} [{self.low:.3f}, {self.high:.3f}]"


@dataclass(frozen=True)
class Row:
    """The figures of one space. `passes` counts forward and backward only on the plain side, `steps` whole updates."""

    space: str
    batch: int
    paths: int
    repeats: int
    step_ms: float
    steps: Interval
    passes: Interval
    candidate_ms: float
    forward: Interval


class Recording:
    """Strictly fair, and remembers the architectures of the last step."""

    def __init__(self) -> None:
        self.policy = StrictFair()
        self.archs: list[Arch] = []

    def __repr__(self) -> str:
        return "recording"

    def paths(self, space: Space, rng: np.random.Generator) -> list[PathWeights]:
        found = self.policy.paths(space, rng)
        self.archs = [space.decode(np.concatenate([p[c.name].numpy() for c in space.choices])) for p in found]
        return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--spaces", nargs="+", default=SPACES, metavar="NAME@PIXELS", help="spaces, and the size of their images")
    parser.add_argument("--steps", type=int, default=10, help="training steps and candidates that are timed for each space")
    parser.add_argument("--threads", type=int, default=1, help="threads of torch")
    parser.add_argument("--seed", type=int, default=0, help="seed of weights, images, paths and bootstrap")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures there too")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    rows = [measured(name, options.steps, options.seed) for name in options.spaces]
    show(rows, options.threads)
    if options.json:
        options.json.write_text(json.dumps([asdict(row) for row in rows], indent=2) + "\n")


def measured(name: str, steps: int, seed: int) -> Row:
    space, pixels = name.split("@")
    net = find_space(space).chain.for_images(3, CLASSES, int(pixels)).supernet(seed)
    batch = BATCHES.get(name, BATCH)
    task = random_task(int(pixels), batch * (steps + 2), seed)
    own, plain_steps, plain_passes = step_seconds(net, task, batch, seed)
    total, forward = candidate_seconds(net, task, batch, steps, seed)
    rng = np.random.default_rng(seed)
    return Row(
        name,
        batch,
        max(len(c.options) for c in space_of(net).choices),
        len(own),
        1e3 * float(np.median(own)),
        interval(own / plain_steps, rng),
        interval(own / plain_passes, rng),
        1e3 * float(np.median(total)),
        interval(forward / total, rng),
    )


def random_task(pixels: int, images: int, seed: int) -> Task:
    rng = np.random.default_rng(seed)

    def split(n: int) -> Split:
        pictures = torch.from_numpy(rng.integers(0, 256, (n, 3, pixels, pixels), np.uint8))
        return Split(pictures, torch.from_numpy(rng.integers(0, CLASSES, n)))

    three = (0.5, 0.5, 0.5)
    classes = tuple(str(c) for c in range(CLASSES))
    return Task("random", classes, split(images), split(4 * BATCH), split(1), three, three, shift=pixels // 16, flip=True)


def step_seconds(net: nn.Module, task: Task, batch: int, seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Of each step but the first two, which warm up: of `train_supernet`, of plain updates, of plain passes alone."""
    policy = Recording()
    images, labels = next(task.batches("train", batch, seed=seed))
    own, steps, passes = [], [], []
    since = 0.0

    def after_a_step(done: int, total: int, note: str = "") -> None:
        nonlocal since
        took = time.perf_counter() - since
        plain = [Plain(derive(net, arch)) for arch in policy.archs]
        with torch.random.fork_rng():
            for _ in range(2):  # the first time allocates the state of the optimisers
                updates, both = zip(*(network.step(images, labels) for network in plain), strict=True)
        if done > 2:
            own.append(took)
            steps.append(sum(updates))
            passes.append(sum(both))
        since = time.perf_counter()

    since = time.perf_counter()
    train_supernet(net, policy, task, epochs=1, batch=batch, lr=1e-3, seed=seed, progress=after_a_step)
    return np.array(own), np.array(steps), np.array(passes)


class Plain:
    """A plain network and its plain training loop."""

    def __init__(self, network: nn.Module) -> None:
        self.network = network.train()
        self.parameters = list(network.parameters())
        self.optimizer = torch.optim.SGD(self.parameters, lr=1e-3, momentum=MOMENTUM, weight_decay=4e-5, foreach=True)

    def step(self, images: Tensor, labels: Tensor) -> tuple[float, float]:
        """The seconds of one update, and of its forward and backward passes alone."""
        start = time.perf_counter()
        self.optimizer.zero_grad(set_to_none=True)
        loss = functional.cross_entropy(self.network(images), labels)
        loss.backward()
        passes = time.perf_counter() - start
        loss.item()
        nn.utils.clip_grad_norm_(self.parameters, CLIP)
        self.optimizer.step()
        return time.perf_counter() - start, passes


def candidate_seconds(net: nn.Module, task: Task, batch: int, count: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Of random candidates: the whole evaluation, and the forward passes in it."""
    one_shot = OneShot(net, task, seed=seed, calibration=4, batch=batch)
    rng = np.random.default_rng(seed)
    inside, since = 0.0, 0.0

    def before(module: nn.Module, inputs: object) -> None:
        nonlocal since
        since = time.perf_counter()

    def after(module: nn.Module, inputs: object, output: object) -> None:
        nonlocal inside
        inside += time.perf_counter() - since

    total, forward = [], []
    handles = net.register_forward_pre_hook(before), net.register_forward_hook(after)
    for _ in range(count + 1):
        arch = one_shot.space.sample(rng)
        inside, start = 0.0, time.perf_counter()
        one_shot.quality(arch)
        total.append(time.perf_counter() - start)
        forward.append(inside)
    for handle in handles:
        handle.remove()
    return np.array(total[1:]), np.array(forward[1:])


def interval(values: np.ndarray, rng: np.random.Generator) -> Interval:
    medians = np.median(rng.choice(values, (2000, len(values))), axis=1)
    low, high = np.quantile(medians, (0.025, 0.975))
    return Interval(float(np.median(values)), float(low), float(high))


def show(rows: Sequence[Row], threads: int) -> None:
    table = Table(title=f"Supernets against plain networks, {threads} thread(s), medians with 95 % intervals")
    for column in (
        "space",
        "batch",
        "paths",
        "n",
        "step",
        "/ plain steps",
        "/ plain passes",
        "candidate",
        "forward share",
        "aims",
    ):
        table.add_column(column, justify="left" if column == "space" else "right")
    for row in rows:
        kept = row.steps.median <= STEP_AIM and row.forward.median >= FORWARD_AIM
        table.add_row(
            row.space,
            str(row.batch),
            str(row.paths),
            str(row.repeats),
            f"{row.step_ms:.0f} ms",
            str(row.steps),
            str(row.passes),
            f"{row.candidate_ms:.0f} ms",
            str(row.forward),
            "kept" if kept else "missed",
        )
    CONSOLE.print(table)
    CONSOLE.print(f"Aims: a step at most {STEP_AIM} x the plain steps, forward passes at least {FORWARD_AIM:.0%} of a candidate.")


if __name__ == "__main__":
    main()
