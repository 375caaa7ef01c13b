"""A classification task: three splits, normalisation, augmentation."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from paceline.errors import ConfigError, DataError
from paceline.seeds import Seeds

SplitName = Literal["train", "val", "test"]


@dataclass(frozen=True, eq=False)
class Split:
    """Images (N, C, H, W), uint8 or float32, with labels (N,), int64."""

    images: Tensor
    labels: Tensor

    def __post_init__(self) -> None:
        if self.images.ndim != 4 or self.images.dtype not in (torch.uint8, torch.float32) or not len(self.images):
            raise DataError(
                f"images must be (N, C, H, W), uint8 or float32, N > 0; got {tuple(self.images.shape)} {self.images.dtype}"
            )
        if self.labels.shape != self.images.shape[:1] or self.labels.dtype != torch.int64:
            raise DataError(
                f"{len(self.images)} images need as many int64 labels, got {tuple(self.labels.shape)} {self.labels.dtype}"
            )

    def __getitem__(self, index: Tensor) -> Split:
        return Split(self.images[index], self.labels[index])


@dataclass(frozen=True, eq=False)
class Task:
    """Image classification. `mean` and `std` are per channel, of images in [0, 1] (uint8) or as they are (float32).

    Training images are shifted by up to `shift` pixels (zeros come in) and, where `flip`, mirrored at random.
    """

    name: str
    classes: tuple[str, ...]
    train: Split
    val: Split
    test: Split
    mean: tuple[float, ...]
    std: tuple[float, ...]
    shift: int = 0
    flip: bool = False

    def split(self, name: SplitName) -> Split:
        return {"train": self.train, "val": self.val, "test": self.test}[name]

    @property
    def channels(self) -> int:
        return self.train.images.shape[1]

    @property
    def image_size(self) -> int:
        return self.train.images.shape[2]

    def digest(self) -> str:
        """Names the data: equal images, labels and splits, equal digest."""
        content = hashlib.sha256("\n".join([self.name, *self.classes]).encode())
        for part in (self.train, self.val, self.test):
            content.update(part.images.numpy().tobytes())
            content.update(part.labels.numpy().tobytes())
        return content.hexdigest()

    def example(self) -> Tensor:
        """One normalised image, (1, C, H, W)."""
        return self._normalised(self.val.images[:1])

    def steps(self, batch: int) -> int:
        """Batches in one shuffled epoch."""
        return max(1, len(self.train.labels) // batch)

    def batches(
        self, split: SplitName, batch: int, *, seed: int | None = None, epoch: int = 0, augment: bool = False
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """Normalised images (n, C, H, W), channels last in memory, with labels (n,).

        Without `seed`: everything, in order. With: a random order, a function of (seed, epoch), and only whole batches of `batch`
        (one smaller batch where there is not even one whole). `augment` needs a seed.
        """
        data = self.split(split)
        n = len(data.labels)
        if seed is None:
            if augment:
                raise ConfigError("augmentation is random: give a seed")
            for start in range(0, n, batch):
                yield self._normalised(data.images[start : start + batch]), data.labels[start : start + batch]
            return
        seeds = Seeds(seed)
        order = torch.from_numpy(seeds.rng(f"order/{epoch}").permutation(n))
        for i in range(max(1, n // batch)):
            part = data[order[i * batch : (i + 1) * batch]]
            images = self._augmented(part.images, seeds.rng(f"augment/{epoch}/{i}")) if augment else part.images
            yield self._normalised(images), part.labels

    def _augmented(self, images: Tensor, rng: np.random.Generator) -> Tensor:
        n, _, height, width = images.shape
        if self.flip:
            mirrored = torch.from_numpy(rng.random(n) < 0.5)
            images = torch.where(mirrored[:, None, None, None], images.flip(3), images)
        if self.shift:
            padded = torch.nn.functional.pad(images, (self.shift,) * 4)
            down, right = torch.from_numpy(rng.integers(0, 2 * self.shift + 1, size=(2, n, 1)))
            rows = (down + torch.arange(height))[:, :, None]
            columns = (right + torch.arange(width))[:, None, :]
            images = padded[torch.arange(n)[:, None, None], :, rows, columns].permute(0, 3, 1, 2)
        return images

    def _normalised(self, images: Tensor) -> Tensor:
        scale = 255.0 if images.dtype == torch.uint8 else 1.0
        mean = torch.tensor(self.mean).view(1, -1, 1, 1) * scale
        std = torch.tensor(self.std).view(1, -1, 1, 1) * scale
        return ((images.float() - mean) / std).contiguous(memory_format=torch.channels_last)


def make_task(
    name: str,
    classes: Sequence[str],
    train: Split,
    val: Split | None,
    test: Split | None,
    *,
    seed: int,
    shift: int,
    flip: bool,
) -> Task:
    """A Task with mean and std of its training images. A missing split is cut out of `train`: 20 % of each class.

    Raises DataError where a class has too few images for that, or none at all.
    """
    rng = Seeds(seed).rng("split")
    missing = (val is None) + (test is None)
    labels = train.labels.numpy()
    parts: list[list[np.ndarray]] = [[], [], []]
    for number, class_name in enumerate(classes):
        members = rng.permutation(np.flatnonzero(labels == number))
        if len(members) < 1 + missing:
            raise DataError(
                f"class {class_name!r} of {name} has {len(members)} images to train on, at least {1 + missing} are needed"
            )
        share = min(max(1, round(0.2 * len(members))), (len(members) - 1) // missing) if missing else 0
        end_val = share if val is None else 0
        end_test = end_val + (share if test is None else 0)
        for part, taken in zip(parts, np.split(members, [end_val, end_test]), strict=True):
            part.append(taken)
    index = [torch.from_numpy(np.sort(np.concatenate(part))) for part in parts]
    val = train[index[0]] if val is None else val
    test = train[index[1]] if test is None else test
    train = train[index[2]]
    mean, std = _statistics(train.images)
    return Task(name, tuple(classes), train, val, test, mean, std, shift, flip)


def _statistics(images: Tensor) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and standard deviation per channel, in [0, 1] for uint8; a channel without contrast counts as std 1."""
    scale = 255.0 if images.dtype == torch.uint8 else 1.0
    mean, std = [], []
    for channel in range(images.shape[1]):
        values = images[:, channel].double() / scale
        mean.append(float(values.mean()))
        std.append(float(values.std(correction=0)) or 1.0)
    return tuple(mean), tuple(std)


def resized(images: Tensor, size: int) -> Tensor:
    """Images (N, C, H, W) in size x size, bilinear with antialiasing; uint8 stays uint8."""
    if images.shape[2:] == (size, size):
        return images
    chunks = [
        torch.nn.functional.interpolate(part.float(), (size, size), mode="bilinear", antialias=True)
        for part in torch.split(images, 1024)
    ]
    out = torch.cat(chunks)
    return out.round().clamp(0, 255).to(torch.uint8) if images.dtype == torch.uint8 else out
