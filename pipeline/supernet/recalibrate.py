"""BatchNorm statistics of one network, after training has mixed those of many."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from paceline.errors import DataError


@torch.no_grad()
def recalibrate(net: nn.Module, batches: Iterable[tuple[Tensor, Tensor]]) -> None:
    """Replaces the running statistics of BatchNorm by their plain average over `batches` of (images, labels).

    That is the mean of the batches' means and of their unbiased variances. Everything but BatchNorm runs in evaluation mode. On a
    supernet, inside `path`: statistics of options that the path does not use stay as they are. Modes and momenta are put back,
    also after an exception. Raises DataError when there is no batch.
    """
    norms = [m for m in net.modules() if isinstance(m, _BatchNorm) and m.track_running_stats]
    modes = [(m, m.training) for m in net.modules()]
    momenta = [m.momentum for m in norms]
    before = [{name: buffer.clone() for name, buffer in m.named_buffers(recurse=False)} for m in norms]
    seen = 0
    try:
        net.eval()
        for m in norms:
            m.reset_running_stats()
            m.momentum = None  # torch: cumulative average
            m.train()
        for images, _ in batches:
            net(images)
            seen += 1
    finally:
        for m, momentum, old in zip(norms, momenta, before, strict=True):
            m.momentum = momentum
            if m.num_batches_tracked is None or not int(m.num_batches_tracked):
                for name, buffer in m.named_buffers(recurse=False):
                    buffer.copy_(old[name])
        for module, training in modes:
            module.training = training
    if not seen:
        raise DataError("no batch to recalibrate BatchNorm with; give at least one")
