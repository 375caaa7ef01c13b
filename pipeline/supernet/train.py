"""Training all architectures of a supernet at once."""

from __future__ import annotations

import pathlib
from collections.abc import Iterator
from typing import Literal

import numpy as np
from torch import Tensor, nn
from torch.nn import functional

from paceline.errors import ConfigError
from paceline.measurement import Progress, silent
from paceline.pipeline.supernet.mixed import on_path, space_of, switch
from paceline.pipeline.supernet.policies import ChangingPolicy, LearningPolicy, Policy
from paceline.pipeline.tasks import Task
from paceline.pipeline.training import Precision, optimise


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
    distinct_batches: bool = False,
    precision: Precision | None = None,
    checkpoint: pathlib.Path | None = None,
    progress: Progress = silent,
) -> list[float]:
    """Trains `net` in place along the paths of `policy`; gives the mean loss of each epoch.

    All paths of a step see the same batch, their gradients add up, then follows one update (FairNAS, Chu et al. 2021). With
    `distinct_batches` the batch is dealt out to the paths, so that each sees `batch` / paths images of its own (a reading of
    the caption of that paper's figure): choose `batch` as many times larger. What no choice decides about (stem, head,
    classifier) is in every path and gets the sum of their gradients, as in the paper; with `shared="mean"` it gets their mean,
    so that it learns at the pace of an option and a higher learning rate stays stable. A `ChangingPolicy` changes between epochs,
    a `LearningPolicy` learns from every step.

    Optimiser, precision, several processes, checkpoints and errors are those of `paceline.pipeline.training.optimise`. Raises
    ConfigError too where `batch` has fewer than two images for each path.
    """
    space = space_of(net)
    along = switch(net)
    owned = {id(p) for m in on_path(net) for p in m.parameters()}
    common = [p for p in net.parameters() if id(p) not in owned]

    def losses(images: Tensor, labels: Tensor, rng: np.random.Generator) -> Iterator[Tensor]:
        paths = policy.paths(space, rng)
        if distinct_batches and len(images) < 2 * len(paths):
            raise ConfigError(
                f"{len(images)} images are too few to give each of {len(paths)} paths its own; raise batch ({batch})"
            )
        for k, weights in enumerate(paths):
            mine = slice(k, None, len(paths)) if distinct_batches else slice(None)
            with along(weights):
                yield functional.cross_entropy(net(images[mine]), labels[mine], label_smoothing=label_smoothing)
        # Here every path has been differentiated, and the update has not been made.
        if isinstance(policy, LearningPolicy):
            policy.update()
        if shared == "mean":
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
        precision=precision,
        between=policy if isinstance(policy, ChangingPolicy) else None,
        about=f"{policy!r} label_smoothing={label_smoothing} shared={shared} distinct_batches={distinct_batches}",
        checkpoint=checkpoint,
        progress=progress,
    )
