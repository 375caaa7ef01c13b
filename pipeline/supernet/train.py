"""Training all architectures of a supernet at once."""

from __future__ import annotations

import pathlib
from collections.abc import Iterator
from typing import Literal

import numpy as np
from torch import Tensor, nn
from torch.nn import functional

from paceline.measurement import Progress, silent
from paceline.pipeline.supernet.mixed import mixed_of, path, space_of
from paceline.pipeline.supernet.policies import Policy
from paceline.pipeline.tasks import Task
from paceline.pipeline.training import optimise


def train_supernet(
    net: nn.Module,
    policy: Policy,
    task: Task,
    *,
    epochs: int,
    batch: int,
    lr: float,
    seed: int,
    weight_decay: float = 4e-5,
    label_smoothing: float = 0.0,
    shared: Literal["sum", "mean"] = "sum",
    checkpoint: pathlib.Path | None = None,
    progress: Progress = silent,
) -> list[float]:
    """Trains `net` in place along the paths of `policy`; gives the mean loss of each epoch.

    All paths of a step see the same batch, their gradients add up, then follows one update (FairNAS, Chu et al. 2021). What
    no choice owns (stem, head, classifier) is in every path and gets the sum of their gradients, as in the paper; with
    `shared="mean"` it gets their mean, so that it learns at the pace of an option and a higher learning rate stays stable.
    Optimiser, checkpoints and errors are those of `paceline.pipeline.training.optimise`.
    """
    space = space_of(net)
    owned = {id(p) for m in mixed_of(net) for p in m.parameters()}
    common = [p for p in net.parameters() if id(p) not in owned]

    def losses(images: Tensor, labels: Tensor, rng: np.random.Generator) -> Iterator[Tensor]:
        paths = policy.paths(space, rng)
        for weights in paths:
            with path(net, weights):
                yield functional.cross_entropy(net(images), labels, label_smoothing=label_smoothing)
        if shared == "mean":  # here every path has been differentiated, and the update has not been made
            for p in common:
                if p.grad is not None:
                    p.grad /= len(paths)

    return optimise(
        net,
        losses,
        task,
        epochs=epochs,
        batch=batch,
        lr=lr,
        seed=seed,
        weight_decay=weight_decay,
        about=f"{policy!r} label_smoothing={label_smoothing} shared={shared}",
        checkpoint=checkpoint,
        progress=progress,
    )
