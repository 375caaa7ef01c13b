"""Networks to merge."""

from __future__ import annotations

import copy
import functools
import operator
from collections.abc import Callable, Iterable

import torch
from torch import Tensor, nn

TOLERANCE = 1e-5


def randomised(module: nn.Module, seed: int = 0) -> nn.Module:
    """The network with random BatchNorm parameters and statistics: the default ones would hide mistakes at the borders."""
    g = torch.Generator().manual_seed(seed)
    for m in module.modules():
        if isinstance(m, nn.modules.batchnorm._BatchNorm) and m.running_mean is not None and m.running_var is not None:
            m.running_mean.copy_(torch.randn(m.num_features, generator=g))
            m.running_var.copy_(torch.rand(m.num_features, generator=g) + 0.5)
            if m.affine:
                m.weight.data = torch.rand(m.num_features, generator=g) + 0.5
                m.bias.data = torch.randn(m.num_features, generator=g)
    for p in module.parameters():
        if p.dim() > 1:
            p.data = torch.randn(p.shape, generator=g) / p[0].numel() ** 0.5
    return module


def image(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(7))


def count(module: nn.Module, *kinds: type[nn.Module]) -> int:
    return sum(isinstance(m, kinds) for m in module.modules())


def conv_bn(channels_in: int, channels_out: int, size: int | tuple[int, int], **options: int) -> nn.Sequential:
    height, width = (size, size) if isinstance(size, int) else size
    d = options.get("dilation", 1)
    conv = nn.Conv2d(channels_in, channels_out, size, padding=(d * (height // 2), d * (width // 2)), bias=False, **options)
    return nn.Sequential(conv, nn.BatchNorm2d(channels_out))


def check_exact(net: nn.Module, module: nn.Module, *shape: int) -> None:
    """Against the network in float64: a merged convolution rounds less than the layers that it replaces."""
    exact, x = copy.deepcopy(net).double().eval(), image(*shape)
    with torch.no_grad():
        wanted, got = exact(x.double()), module(x).double()
    assert got.shape == wanted.shape
    assert float((got - wanted).abs().max()) <= 1e-6 * float(wanted.abs().max())


def padded_point(c: int, out: int, groups: int, padding: int) -> list[nn.Module]:
    """A 1x1 convolution that pads: behind its BatchNorm the border has the shift, too."""
    return [nn.Conv2d(c, out, 1, padding=padding, groups=groups, bias=False), nn.BatchNorm2d(out)]


class Sum(nn.Module):
    """Branches of one input, summed one after the other, with what may follow."""

    def __init__(self, branches: Iterable[nn.Module], after: nn.Module | None = None) -> None:
        super().__init__()
        self.branches = nn.ModuleList(branches)
        self.after = nn.Identity() if after is None else after

    def forward(self, x: Tensor) -> Tensor:
        return self.after(functools.reduce(operator.add, [branch(x) for branch in self.branches]))


class Net(nn.Module):
    """Named layers and a forward of its own."""

    def __init__(self, run: Callable[..., Tensor], **layers: nn.Module) -> None:
        super().__init__()
        self.run = run
        for name, layer in layers.items():
            self.add_module(name, layer)

    def forward(self, x: Tensor) -> Tensor:
        return self.run(self, x)
