"""timm's networks: merged here without timm's help, they are timm's own merged networks."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from paceline.exporters.merge import check_merge, merged
from paceline.exporters.timm_networks import randomised, timm_network

from networks import count, image


@pytest.mark.parametrize("name", ["repvgg_a0", "mobileone_s0", "repghostnet_100", "fastvit_t8", "repvit_m1"])
def test_a_network_equals_the_one_that_timm_merges(name: str) -> None:
    net, _ = timm_network(name)
    from timm.utils.model import reparameterize_model  # importable once timm_network has prepared for it

    randomised(net, seed=1)
    by_timm, ours = reparameterize_model(net), merged(net).module
    x = image(1, 3, 64, 96)
    assert check_merge(net, ours, x) <= 1e-5
    assert check_merge(by_timm, ours, x) <= 1e-5
    assert count(ours, nn.Conv2d) == count(by_timm, nn.Conv2d)
    norms = (nn.modules.batchnorm._BatchNorm,)
    assert count(ours, *norms) == 0
    assert sum(p.numel() for p in ours.parameters()) <= sum(p.numel() for p in by_timm.parameters())
    assert {p.dtype for p in ours.parameters()} == {torch.float32}
