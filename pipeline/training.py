"""The one training loop, and training and testing a network by itself."""

from __future__ import annotations

import io
import itertools
import json
import math
import pickle
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from paceline.errors import ConfigError, StoreError
from paceline.files import write_atomically
from paceline.measurement import Progress, silent
from paceline.pipeline.tasks import SplitName, Task
from paceline.seeds import Seeds

Losses = Callable[[Tensor, Tensor, np.random.Generator], Iterator[Tensor]]
"""(images, labels, rng) -> the losses of one step, one after the other; each is differentiated before the next is asked for."""

CLIP = 5.0
MOMENTUM = 0.9


def optimise(
    net: nn.Module,
    losses: Losses,
    task: Task,
    *,
    epochs: int,
    batch: int,
    lr: float,
    seed: int,
    weight_decay: float,
    about: str = "",
    checkpoint: Path | None = None,
    checkpoint_s: float = 30.0,
    progress: Progress = silent,
) -> list[float]:
    """Trains `net` in place on `task.train`; gives the mean loss of each epoch.

    SGD with momentum 0.9, learning rate on a cosine from `lr` to 0, weight decay on weights of more than one dimension,
    gradients clipped to norm 5. All chance of a step is a function of (seed, epoch, step), so nothing but weights, optimiser
    and position has to be kept: a run that was killed continues from `checkpoint` and ends bit for bit as an undisturbed one.
    The checkpoint is written (atomically) after every epoch and every `checkpoint_s` seconds, and stays when the training is
    done.

    Raises ConfigError for a loss that is not finite and for a checkpoint of another training, StoreError for a checkpoint
    that can't be read or written.
    """
    if epochs < 0 or batch < 1 or lr <= 0:
        raise ConfigError(f"epochs={epochs}, batch={batch}, lr={lr}: epochs must not be negative, batch and lr must be positive")
    device = next(net.parameters()).device
    net.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    net.train()
    optimizer = torch.optim.SGD(_groups(net, weight_decay), lr=lr, momentum=MOMENTUM, foreach=True)
    settings = json.dumps([task.name, task.train.labels.numel(), epochs, batch, lr, seed, weight_decay, about])
    state = _State(net, optimizer, settings)
    if checkpoint is not None and checkpoint.exists():
        state.load(checkpoint)
    steps = task.steps(batch)
    seeds = Seeds(seed)
    saved = time.monotonic()
    while (epoch := len(state.history)) < epochs:
        batches = task.batches("train", batch, seed=seed, epoch=epoch, augment=True)
        for step, (images, labels) in itertools.islice(enumerate(batches), len(state.losses), None):
            rng = seeds.rng(f"step/{epoch}/{step}")
            done = epoch * steps + step
            for group in optimizer.param_groups:
                group["lr"] = lr * 0.5 * (1.0 + math.cos(math.pi * done / (epochs * steps)))
            loss = _step(net, optimizer, losses, images.to(device), labels.to(device), rng)
            if not math.isfinite(loss):
                raise ConfigError(f"training on {task.name} diverged: loss {loss} at step {done}; lower the learning rate ({lr})")
            state.losses.append(loss)
            if checkpoint is not None and time.monotonic() - saved > checkpoint_s:
                state.save(checkpoint)
                saved = time.monotonic()
            progress(done + 1, epochs * steps, f"loss {loss:.3f}")
        state.history.append(math.fsum(state.losses) / len(state.losses))
        state.losses.clear()
        if checkpoint is not None:
            state.save(checkpoint)
            saved = time.monotonic()
    return list(state.history)


def _step(
    net: nn.Module, optimizer: torch.optim.Optimizer, losses: Losses, images: Tensor, labels: Tensor, rng: np.random.Generator
) -> float:
    """One update; the mean of the step's losses."""
    optimizer.zero_grad(set_to_none=True)  # an option without gradient is then not touched by momentum or weight decay
    values = []
    with torch.random.fork_rng(devices=[]):  # dropout draws from the global generator
        torch.manual_seed(int(rng.integers(2**63)))
        for loss in losses(images, labels, rng):
            loss.backward()  # type: ignore[no-untyped-call]
            values.append(loss.item())
    nn.utils.clip_grad_norm_(net.parameters(), CLIP)
    optimizer.step()
    return math.fsum(values) / len(values)


def _groups(net: nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    parameters = [p for p in net.parameters() if p.requires_grad]
    return [
        {"params": [p for p in parameters if p.ndim > 1], "weight_decay": weight_decay},
        {"params": [p for p in parameters if p.ndim <= 1], "weight_decay": 0.0},
    ]


class _State:
    """Where a training is: what a checkpoint holds."""

    def __init__(self, net: nn.Module, optimizer: torch.optim.Optimizer, settings: str) -> None:
        self.net, self.optimizer, self.settings = net, optimizer, settings
        self.history: list[float] = []
        self.losses: list[float] = []
        """Of the epoch that is under way, one a step."""

    def save(self, checkpoint: Path) -> None:
        content = {
            "settings": self.settings,
            "net": self.net.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "history": self.history,
            "losses": self.losses,
        }
        file = io.BytesIO()
        torch.save(content, file)
        write_atomically(checkpoint, file.getvalue())

    def load(self, checkpoint: Path) -> None:
        try:
            content = torch.load(checkpoint, map_location="cpu", weights_only=True)
            settings, net, optimizer = content["settings"], content["net"], content["optimizer"]
            history, losses = content["history"], content["losses"]
        except (OSError, RuntimeError, pickle.UnpicklingError, EOFError, KeyError, TypeError) as e:
            raise StoreError(f"can't read the checkpoint {checkpoint}: {e}; remove it to start anew") from e
        if settings != self.settings or net.keys() != self.net.state_dict().keys():
            raise ConfigError(
                f"the checkpoint {checkpoint} is of another training ({settings}, not {self.settings}); remove it or name another"
            )
        self.net.load_state_dict(net)
        self.optimizer.load_state_dict(optimizer)
        self.history, self.losses = history, losses


def train(
    net: nn.Module,
    task: Task,
    *,
    epochs: int,
    batch: int,
    lr: float,
    seed: int,
    label_smoothing: float = 0.0,
    weight_decay: float = 4e-5,
    checkpoint: Path | None = None,
    progress: Progress = silent,
) -> list[float]:
    """Trains one network in place on `task.train`; gives the mean loss of each epoch. See `optimise`."""

    def losses(images: Tensor, labels: Tensor, rng: np.random.Generator) -> Iterator[Tensor]:
        yield functional.cross_entropy(net(images), labels, label_smoothing=label_smoothing)

    return optimise(
        net,
        losses,
        task,
        epochs=epochs,
        batch=batch,
        lr=lr,
        seed=seed,
        weight_decay=weight_decay,
        about=f"label_smoothing={label_smoothing}",
        checkpoint=checkpoint,
        progress=progress,
    )


@torch.no_grad()
def accuracy(net: nn.Module, task: Task, split: SplitName, batch: int = 256) -> float:
    """The share of a split's images that `net` classifies right, in evaluation mode. A supernet needs `path` around the call."""
    modes = [(m, m.training) for m in net.modules()]
    device = next(net.parameters()).device
    right = 0
    try:
        net.eval()
        for images, labels in task.batches(split, batch):
            right += int((net(images.to(device)).argmax(1) == labels.to(device)).sum())
    finally:
        for module, training in modes:
            module.training = training
    return right / len(task.split(split).labels)
