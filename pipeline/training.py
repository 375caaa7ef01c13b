"""The one training loop, and training and testing a network by itself."""

from __future__ import annotations

import io
import itertools
import json
import math
import pickle
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from paceline.errors import ConfigError, StoreError
from paceline.files import write_atomically
from paceline.measurement import Progress, silent
from paceline.pipeline import distributed
from paceline.pipeline.tasks import SplitName, Task
from paceline.seeds import Seeds

Losses = Callable[[Tensor, Tensor, np.random.Generator], Iterator[Tensor]]
"""(images, labels, rng) -> the losses of one step, one after the other; each is differentiated before the next is asked for."""

Precision = Literal["fp32", "bf16", "fp16"]
"""What convolutions and matrix products compute in, by torch.autocast. Weights, statistics and updates are always fp32."""


class BetweenEpochs(Protocol):
    """Something that changes between epochs. Its state is kept in the checkpoint: plain numbers, texts, lists and dicts."""

    def after_epoch(self, epochs: int) -> None:
        """`epochs` of them are done. A function of weights, state and a seed of its own."""

    def state_dict(self) -> dict[str, Any]: ...

    def load_state_dict(self, state: Mapping[str, Any]) -> None: ...


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
    precision: Precision | None = None,
    between: BetweenEpochs | None = None,
    about: str = "",
    checkpoint: Path | None = None,
    checkpoint_s: float = 30.0,
    progress: Progress = silent,
) -> list[float]:
    """Trains `net` in place on `task.train`; gives the mean loss of each epoch.

    SGD with momentum 0.9, learning rate on a cosine from `lr` to 0, weight decay on weights of more than one dimension,
    gradients clipped to norm 5. `precision=None` is bf16 on a GPU that has it, else fp32. All chance of a step is a function of
    (seed, epoch, step), so nothing but weights, optimiser, position and the state of `between` has to be kept: a run that was
    killed continues from `checkpoint` and ends bit for bit as an undisturbed one. The checkpoint is written (atomically) after
    every epoch and every `checkpoint_s` seconds, and stays when the training is done.

    Where torch's process group is present (`paceline.pipeline.distributed.processes`), each process computes its part of every
    batch; weights start as those of the first process, and what counts are its statistics of BatchNorm and its checkpoint.

    Raises ConfigError for a loss that is not finite and for a checkpoint of another training, StoreError for a checkpoint
    that can't be read or written.
    """
    if epochs < 0 or batch < 1 or lr <= 0:
        raise ConfigError(f"epochs={epochs}, batch={batch}, lr={lr}: epochs must not be negative, batch and lr must be positive")
    device = next(net.parameters()).device
    rank, processes = distributed.world()
    net.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    net.train()
    optimizer = torch.optim.SGD(_groups(net, weight_decay), lr=lr, momentum=MOMENTUM, foreach=True)
    passes = _Passes(net, optimizer, device, precision or _usual_precision(device))
    named = [task.name, task.train.labels.numel(), epochs, batch, lr, seed, weight_decay, passes.precision, processes, about]
    state = _State(passes, between, json.dumps(named))
    if checkpoint is not None:
        state.load(checkpoint)
    distributed.copy_from_first([*net.parameters(), *net.buffers()])
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
            images, labels = distributed.shard(images, labels)
            loss = passes.step(losses, images.to(device), labels.to(device), rng)
            if not math.isfinite(loss):
                raise ConfigError(f"training on {task.name} diverged: loss {loss} at step {done}; lower the learning rate ({lr})")
            state.losses.append(loss)
            if rank == 0:
                if checkpoint is not None and time.monotonic() - saved > checkpoint_s:
                    state.save(checkpoint)
                    saved = time.monotonic()
                progress(done + 1, epochs * steps, f"loss {loss:.3f}")
        state.history.append(math.fsum(state.losses) / len(state.losses))
        state.losses.clear()
        if between is not None:
            if rank == 0:
                between.after_epoch(epoch + 1)
            between.load_state_dict(distributed.from_first(between.state_dict()))
        distributed.copy_from_first(net.buffers())
        if checkpoint is not None and rank == 0:
            state.save(checkpoint)
            saved = time.monotonic()
    return list(state.history)


def _usual_precision(device: torch.device) -> Precision:
    return "bf16" if device.type == "cuda" and torch.cuda.is_bf16_supported() else "fp32"


class _Passes:
    """Forward and backward passes in one precision, and the update by them."""

    def __init__(self, net: nn.Module, optimizer: torch.optim.Optimizer, device: torch.device, precision: Precision) -> None:
        self.net, self.optimizer, self.device, self.precision = net, optimizer, device, precision
        self.parameters = list(net.parameters())  # looking for them takes long in a supernet
        self.scaler = torch.amp.GradScaler(device.type, enabled=precision == "fp16")  # its gradients would underflow

    def step(self, losses: Losses, images: Tensor, labels: Tensor, rng: np.random.Generator) -> float:
        """One update; the mean of the step's losses, over all processes."""
        self.optimizer.zero_grad(set_to_none=True)  # an option without gradient is then not touched by momentum or weight decay
        rank, _ = distributed.world()
        values = []
        with torch.random.fork_rng([self.device] if self.device.type == "cuda" else []):  # dropout draws from global generators
            seed = int(rng.integers(2**63)) + rank
            torch.default_generator.manual_seed(seed)
            if self.device.type == "cuda":
                torch.cuda.manual_seed(seed)
            each = losses(images, labels, rng)
            while (loss := self._next(each)) is not None:
                self.scaler.scale(loss).backward()  # type: ignore[no-untyped-call]
                values.append(loss.detach())
        distributed.average_gradients(self.parameters)
        self.scaler.unscale_(self.optimizer)
        nn.utils.clip_grad_norm_(self.parameters, CLIP)
        self.scaler.step(self.optimizer)
        self.scaler.update()
        return distributed.average(math.fsum(torch.stack(values).tolist()) / len(values), self.device)

    def _next(self, losses: Iterator[Tensor]) -> Tensor | None:
        with torch.autocast(self.device.type, _DTYPES[self.precision], enabled=self.precision != "fp32"):
            return next(losses, None)


_DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


def _groups(net: nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    parameters = [p for p in net.parameters() if p.requires_grad]
    return [
        {"params": [p for p in parameters if p.ndim > 1], "weight_decay": weight_decay},
        {"params": [p for p in parameters if p.ndim <= 1], "weight_decay": 0.0},
    ]


class _State:
    """Where a training is: what a checkpoint holds."""

    def __init__(self, passes: _Passes, between: BetweenEpochs | None, settings: str) -> None:
        self.passes, self.between, self.settings = passes, between, settings
        self.history: list[float] = []
        self.losses: list[float] = []
        """Of the epoch that is under way, one a step."""

    def save(self, checkpoint: Path) -> None:
        content = {
            "settings": self.settings,
            "net": self.passes.net.state_dict(),
            "optimizer": self.passes.optimizer.state_dict(),
            "scaler": self.passes.scaler.state_dict(),
            "between": None if self.between is None else self.between.state_dict(),
            "history": self.history,
            "losses": self.losses,
        }
        file = io.BytesIO()
        torch.save(content, file)
        write_atomically(checkpoint, file.getvalue())

    def load(self, checkpoint: Path) -> None:
        """Continues where the checkpoint was written, from the start where there is none."""
        try:
            is_first = distributed.world()[0] == 0
            kept = distributed.from_first(checkpoint.read_bytes() if is_first and checkpoint.exists() else None)
            if kept is None:
                return
            content = torch.load(io.BytesIO(kept), map_location="cpu", weights_only=True)
            settings, net, optimizer, scaler = (content[k] for k in ("settings", "net", "optimizer", "scaler"))
            between, history, losses = (content[k] for k in ("between", "history", "losses"))
        except (OSError, RuntimeError, pickle.UnpicklingError, EOFError, KeyError, TypeError) as e:
            raise StoreError(f"can't read the checkpoint {checkpoint}: {e}; remove it to start anew") from e
        if settings != self.settings or net.keys() != self.passes.net.state_dict().keys():
            raise ConfigError(
                f"the checkpoint {checkpoint} is of another training ({settings}, not {self.settings}); remove it or name another"
            )
        self.passes.net.load_state_dict(net)
        self.passes.optimizer.load_state_dict(optimizer)
        self.passes.scaler.load_state_dict(scaler)
        if self.between is not None:
            self.between.load_state_dict(between)
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
    precision: Precision | None = None,
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
        precision=precision,
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
