"""How good architectures are with the weights of their supernet."""

from __future__ import annotations

import itertools
from dataclasses import dataclass

import torch
from torch import nn
from torch.nn import functional

from paceline.arch import Arch
from paceline.pipeline.supernet.mixed import hard, space_of, switch
from paceline.pipeline.supernet.recalibrate import evaluating, recalibrate
from paceline.pipeline.tasks import SplitName, Task


@dataclass(frozen=True)
class Quality:
    """The share of images classified right, and the mean cross-entropy in nats."""

    accuracy: float
    loss: float


class OneShot:
    """The quality of single architectures of a supernet, on the images of one split, without training any of them.

    The statistics of BatchNorm are those of `calibration` batches of training images, drawn once by `seed`, or with
    `calibration=0` what training left. So a quality is a function of the weights, the architecture and the seed. The supernet
    keeps its modes and weights, but the statistics of the last architecture. Raises SpaceError for a network without choices.
    """

    def __init__(
        self, net: nn.Module, task: Task, *, seed: int, split: SplitName = "val", calibration: int = 4, batch: int = 128
    ) -> None:
        self.net, self.task, self.split, self.batch = net, task, split, batch
        self.space = space_of(net)
        self._along = switch(net)
        self._device = next(net.parameters()).device
        drawn = itertools.islice(task.batches("train", batch, seed=seed), calibration)
        self._calibration = [(images.to(self._device), labels) for images, labels in drawn]

    def accuracy(self, arch: Arch) -> float:
        """Of one architecture, in [0, 1]."""
        return self.quality(arch).accuracy

    @torch.no_grad()
    def quality(self, arch: Arch) -> Quality:
        """Of one architecture. Raises SpaceError where it is not of the network's space."""
        right, loss = 0.0, 0.0
        with self._along(hard(self.space, arch)), evaluating(self.net):
            if self._calibration:
                recalibrate(self.net, self._calibration)
            for images, labels in self.task.batches(self.split, 2 * self.batch):
                logits, wanted = self.net(images.to(self._device)), labels.to(self._device)
                right += float((logits.argmax(1) == wanted).sum())
                loss += float(functional.cross_entropy(logits, wanted, reduction="sum"))
        n = len(self.task.split(self.split).labels)
        return Quality(right / n, loss / n)
