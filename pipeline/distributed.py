"""Several processes that train one network together, each on its own device and its own part of every batch.

Gradients are averaged once, after all backward passes of a step. torch's DistributedDataParallel averages within the last one,
and gives parameters that no path used a gradient of zero, which momentum and weight decay would act on.
Everything here does nothing where there is one process.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import TypeVar

import torch
from torch import Tensor, distributed, nn

from paceline.errors import ConfigError

_T = TypeVar("_T")


@contextmanager
def processes() -> Iterator[torch.device]:
    """Inside, the processes that torchrun has started are one group; gives the device of this one.

    A GPU each (NCCL) where there are any, else the CPU (gloo). Without torchrun: the one process, its first GPU or the CPU.
    """
    local = int(os.environ.get("LOCAL_RANK", 0))
    device = torch.device("cuda", local) if torch.cuda.is_available() else torch.device("cpu")
    if "RANK" not in os.environ:
        yield device
        return
    if device.type == "cuda":
        torch.cuda.set_device(device)
    distributed.init_process_group("nccl" if device.type == "cuda" else "gloo")
    try:
        yield device
    finally:
        distributed.destroy_process_group()


def world() -> tuple[int, int]:
    """The number of this process and how many there are: (0, 1) without a process group."""
    if distributed.is_available() and distributed.is_initialized():
        return distributed.get_rank(), distributed.get_world_size()
    return 0, 1


def shard(images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """This process's part of a batch. Raises ConfigError where the batch can't be cut into equal parts."""
    rank, size = world()
    if len(images) % size:
        raise ConfigError(f"a batch of {len(images)} images can't be cut into {size} equal parts; choose a multiple of {size}")
    part = len(images) // size
    mine = slice(rank * part, (rank + 1) * part)
    return images[mine], labels[mine]


def average_gradients(parameters: Iterable[nn.Parameter]) -> None:
    """Replaces gradients by their mean over the processes. A parameter without gradient in all of them stays without."""
    _, size = world()
    if size == 1:
        return
    learning = [p for p in parameters if p.requires_grad]
    has = torch.tensor([p.grad is not None for p in learning], dtype=torch.int32, device=learning[0].device)
    distributed.all_reduce(has, distributed.ReduceOp.MAX)
    used = [p for p, one in zip(learning, has.tolist(), strict=True) if one]
    gradients = [torch.zeros_like(p) if p.grad is None else p.grad for p in used]
    flat = torch.cat([g.reshape(-1) for g in gradients])
    distributed.all_reduce(flat)
    flat /= size
    for p, gradient, mean in zip(used, gradients, torch.split(flat, [g.numel() for g in gradients]), strict=True):
        p.grad = gradient.copy_(mean.view_as(gradient))


def average(value: float, device: torch.device) -> float:
    """The mean of a number over the processes."""
    _, size = world()
    if size == 1:
        return value
    total = torch.tensor(value, dtype=torch.float32 if device.type == "mps" else torch.float64, device=device)
    distributed.all_reduce(total)
    return float(total) / size


def from_first(value: _T) -> _T:
    """What the first process has: bytes, numbers, lists, …; the others' `value` is not read."""
    _, size = world()
    if size == 1:
        return value
    values = [value]
    distributed.broadcast_object_list(values, src=0)
    return values[0]


def copy_from_first(tensors: Iterable[Tensor]) -> None:
    """Overwrites tensors by those of the first process."""
    if world()[1] > 1:
        for tensor in tensors:
            distributed.broadcast(tensor.detach(), src=0)
