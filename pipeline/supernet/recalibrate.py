"""BatchNorm statistics of one network, after training has mixed those of many."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from paceline.errors import DataError
from paceline.pipeline.supernet.mixed import computing


@contextmanager
def evaluating(net: nn.Module) -> Iterator[list[nn.Module]]:
    """Inside, what computes along the current path is in evaluation mode; gives these modules. Afterwards modes are the old ones.

    Much cheaper on a supernet than `net.eval()`, which goes through every option.
    """
    modules = list(dict.fromkeys(computing(net)))
    training = [m for m in modules if m.training]
    try:
        for m in training:
            m.training = False
        yield modules
    finally:
        for m in training:
            m.training = True


@torch.no_grad()
def recalibrate(net: nn.Module, batches: Iterable[tuple[Tensor, Tensor]]) -> None:
    """Replaces the running statistics of BatchNorm by their plain average over `batches` of (images, labels).

    That is the mean of the batches' means and of their unbiased variances. Everything but BatchNorm runs in evaluation mode. On a
    supernet, inside `path`: statistics of options that the path does not use stay as they are. Modes and momenta are put back,
    also after an exception. Raises DataError when there is no batch.
    """
    seen = 0
    with evaluating(net) as modules:
        norms = [m for m in modules if isinstance(m, _BatchNorm) and m.track_running_stats]
        momenta = [m.momentum for m in norms]
        before = [{name: buffer.clone() for name, buffer in m.named_buffers(recurse=False)} for m in norms]
        try:
            for m in norms:
                m.reset_running_stats()
                m.momentum = None  # torch: cumulative average
                m.training = True
            for images, _ in batches:
                net(images)
                seen += 1
        finally:
            for m, momentum, old in zip(norms, momenta, before, strict=True):
                m.momentum = momentum
                m.training = False
                if m.num_batches_tracked is None or not int(m.num_batches_tracked):
                    for name, buffer in m.named_buffers(recurse=False):
                        buffer.copy_(old[name])
    if not seen:
        raise DataError("no batch to recalibrate BatchNorm with; give at least one")
