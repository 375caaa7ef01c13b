"""Small parts that the pipeline's tests share."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from paceline.pipeline.spaces import mobile
from paceline.pipeline.tasks import Task, digits


@pytest.fixture(autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def task() -> Task:
    return digits(0, size=16)


@pytest.fixture
def net() -> nn.Module:
    """Three layers with 5, 6 and 6 options, of 8 to 16 channels, for digits of 16x16."""
    return small_net()


def small_net(seed: int = 3) -> nn.Module:
    return mobile(
        1, 10, 16, stages=((8, 1, 2), (8, 2, 1)), stem=8, head=32, kernels=(3, 5), expansions=(2,), dropout=0.2
    ).supernet(seed)
