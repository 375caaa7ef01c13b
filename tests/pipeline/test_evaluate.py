from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from conftest import small_net
from torch import nn

from paceline.arch import Arch
from paceline.errors import SpaceError
from paceline.pipeline.supernet import OneShot, Uniform, derive, hard, path, recalibrate, space_of, train_supernet
from paceline.pipeline.tasks import Task
from paceline.pipeline.training import accuracy


@pytest.fixture(scope="module")
def trained(task: Task) -> nn.Module:
    torch.set_num_threads(1)
    net = small_net()
    train_supernet(net, Uniform(4), task, epochs=1, batch=64, lr=0.3, seed=1)
    return net


def test_it_is_the_quality_of_the_derived_network_recalibrated(trained: nn.Module, task: Task) -> None:
    one_shot = OneShot(trained, task, seed=3, calibration=2, batch=100)
    archs = [space_of(trained).sample(np.random.default_rng(s)) for s in range(3)]
    for arch in archs:
        alone = derive(trained, arch)
        recalibrate(alone, itertools.islice(task.batches("train", 100, seed=3), 2))
        found = one_shot.quality(arch)
        assert found.accuracy == accuracy(alone, task, "val") == one_shot.accuracy(arch)
        with torch.no_grad():
            images, labels = next(task.batches("val", 10_000))
            loss = nn.functional.cross_entropy(alone.eval()(images), labels)
        assert found.loss == pytest.approx(float(loss), rel=1e-5)
    assert len({one_shot.quality(arch).loss for arch in archs}) == 3


def test_without_calibration_the_statistics_are_those_of_training(trained: nn.Module, task: Task) -> None:
    arch = space_of(trained).sample(np.random.default_rng(1))
    net = small_net()
    net.load_state_dict(trained.state_dict())
    raw = OneShot(net, task, seed=3, split="test", calibration=0)
    with path(net, hard(space_of(net), arch)):
        expected = accuracy(net, task, "test")
    assert raw.accuracy(arch) == expected
    assert all(torch.equal(v, net.state_dict()[k]) for k, v in trained.state_dict().items())


def test_modes_come_back_and_the_order_of_questions_does_not_matter(trained: nn.Module, task: Task) -> None:
    trained.train()
    trained.stem.eval()
    modes = [m.training for m in trained.modules()]
    one_shot = OneShot(trained, task, seed=3, calibration=1)
    archs = [space_of(trained).sample(np.random.default_rng(s)) for s in range(3)]
    first = [one_shot.quality(a) for a in archs]
    assert [one_shot.quality(a) for a in reversed(archs)] == first[::-1]
    assert [m.training for m in trained.modules()] == modes
    trained.train()


def test_what_is_no_architecture_of_it_is_refused(trained: nn.Module, task: Task) -> None:
    with pytest.raises(SpaceError, match="decides"):
        OneShot(trained, task, seed=0, calibration=0).quality(Arch((("c", ("a",)),)))
    with pytest.raises(SpaceError, match="nothing to choose"):
        OneShot(nn.Linear(1, 1), task, seed=0)
