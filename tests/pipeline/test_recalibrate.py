from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from paceline.errors import DataError
from paceline.pipeline.supernet import hard, path, recalibrate, space_of
from paceline.pipeline.supernet.mixed import mixed_of


def batches(count: int, size: int = 16) -> list[tuple[torch.Tensor, torch.Tensor]]:
    rng = torch.Generator().manual_seed(0)
    return [(torch.randn(4 + i, 1, size, size, generator=rng) * (i + 1) + i, torch.zeros(4 + i)) for i in range(count)]


def test_statistics_are_the_plain_average_of_the_batches() -> None:
    net = nn.Sequential(nn.BatchNorm2d(1), nn.Dropout(0.5), nn.BatchNorm2d(1, momentum=0.3))
    net[0](torch.full((2, 1, 3, 3), 1000.0))  # what was there before must not matter
    data = batches(5, 3)
    recalibrate(net, data)
    images = [x.double() for x, _ in data]
    mean = torch.stack([x.mean() for x in images]).mean()
    variance = torch.stack([x.var(correction=1) for x in images]).mean()
    torch.testing.assert_close(net[0].running_mean.double()[0], mean, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(net[0].running_var.double()[0], variance, rtol=1e-5, atol=1e-6)
    after = [
        (x - x.mean()) / (x.var(correction=0) + 1e-5).sqrt() for x in images
    ]  # dropout is off, so this is what the second one reads
    torch.testing.assert_close(
        net[2].running_var.double()[0], torch.stack([x.var(correction=1) for x in after]).mean(), rtol=1e-5, atol=1e-6
    )


def test_modes_and_momenta_come_back_also_after_an_exception() -> None:
    net = nn.Sequential(nn.BatchNorm2d(1), nn.Dropout(0.5), nn.BatchNorm2d(1, momentum=0.3))
    net[1].eval()

    def broken():
        yield from batches(1, 3)
        raise OSError

    with pytest.raises(OSError):
        recalibrate(net, broken())
    recalibrate(net, batches(2, 3))
    assert [m.training for m in net.modules()] == [True, True, False, True]
    assert [net[0].momentum, net[2].momentum] == [0.1, 0.3]


def test_no_batches_is_an_error_and_changes_nothing() -> None:
    net = nn.BatchNorm2d(1)
    net(torch.randn(2, 1, 3, 3) + 5)
    before = net.running_mean.clone()
    with pytest.raises(DataError, match="no batch"):
        recalibrate(net, [])
    assert torch.equal(net.running_mean, before)


def test_on_a_supernet_only_the_path_is_touched(net: nn.Module) -> None:
    space = space_of(net)
    with torch.no_grad():
        for p in (hard(space, space.sample(np.random.default_rng(s))) for s in range(8)):
            with path(net, p):
                net(torch.randn(8, 1, 16, 16))
    before = {k: v.clone() for k, v in net.state_dict().items()}
    arch = space.sample(np.random.default_rng(9))
    with path(net, hard(space, arch)):
        recalibrate(net, batches(3))
    taken = {id(b) for m in mixed_of(net) for b in m.options[arch[m.choice.name][0]].buffers()}
    others = {id(b) for m in mixed_of(net) for b in m.buffers()} - taken
    state = dict(net.named_buffers())
    assert taken
    assert all(torch.equal(b, before[k]) for k, b in state.items() if id(b) in others)
    assert not any(torch.equal(b, before[k]) for k, b in state.items() if id(b) in taken and k.endswith("mean"))
