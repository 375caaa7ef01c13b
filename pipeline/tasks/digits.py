"""Handwritten digits that scikit-learn ships."""

from __future__ import annotations

import numpy as np
import torch
from sklearn.datasets import load_digits

from paceline.pipeline.tasks.task import Split, Task, make_task, resized


def digits(seed: int, size: int = 32) -> Task:
    """1,797 grey digits of 8x8 pixels, resized; 60 % to train, 20 % to choose, 20 % to test, each class in proportion."""
    data = load_digits()
    pixels = torch.from_numpy(np.round(data.images / 16.0 * 255.0).astype(np.uint8))[:, None]
    split = Split(resized(pixels, size), torch.from_numpy(data.target.astype(np.int64)))
    return make_task("digits", [str(d) for d in range(10)], split, None, None, seed=seed, shift=size // 16, flip=False)
