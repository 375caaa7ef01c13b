"""timm's networks with random weights: reproducible, and such that every layer counts in a comparison."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from paceline.errors import ExportError
from paceline.exporters.timm_networks import randomised, timm_network

from torch_reference import image

try:
    timm_network("lcnet_035")
except ExportError as e:
    pytest.skip(str(e), allow_module_level=True)


def weights_of(module: nn.Module) -> torch.Tensor:
    return torch.cat([t.flatten().float() for t in module.state_dict().values()])


def test_weights_follow_from_the_seed_alone() -> None:
    torch.manual_seed(1)
    first, _ = timm_network("lcnet_035", seed=3)
    after = torch.rand(4)
    torch.manual_seed(1)
    assert torch.equal(torch.rand(4), after)  # the global generator was left alone
    second, _ = timm_network("lcnet_035", seed=3)
    other, _ = timm_network("lcnet_035", seed=4)
    assert torch.equal(weights_of(first), weights_of(second))
    assert not torch.equal(weights_of(first), weights_of(other))
    assert torch.equal(weights_of(randomised(first, 5)), weights_of(randomised(second, 5)))


class Hidden(nn.Module):
    """A network whose fresh parameters hide most of it: a branch scaled to nothing, a head and a table of zeros."""

    def __init__(self) -> None:
        super().__init__()
        self.branch, self.head = nn.Conv2d(3, 3, 3, padding=1), nn.Linear(3, 4)
        self.scale, self.table = nn.Parameter(torch.full((3, 1, 1), 1e-6)), nn.Parameter(torch.zeros(1, 3, 6, 6))
        nn.init.zeros_(self.head.weight)
        nn.init.zeros_(self.head.bias)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = x + self.table + self.scale * self.branch(x)
        return self.head(x.mean((2, 3)))  # type: ignore[no-any-return]


@pytest.mark.parametrize("name", ["branch.weight", "branch.bias", "scale", "table", "head.weight", "head.bias"])
def test_every_parameter_matters(name: str) -> None:
    module, x = randomised(Hidden(), 0), image(1, 3, 6, 6)
    with torch.no_grad():
        before = module(x)
        module.get_parameter(name).mul_(1.5)
        change = (module(x) - before).abs().max() / (before.max() - before.min())
    assert change > 1e-3


@pytest.mark.parametrize("name", ["convnext_atto", "vit_tiny_patch16_224"])
def test_deep_networks_stay_finite_and_alive(name: str) -> None:
    module, (channels, height, width) = timm_network(name)
    with torch.no_grad():
        y = randomised(module, 0)(image(1, channels, height, width))
    assert torch.isfinite(y).all()
    assert 1e-2 < float(y.std()) < 1e3
