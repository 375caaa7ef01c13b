"""Blocks of mobile networks that have several equivalent forms, for `merge_planner.py`."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor, nn


class Parallel(nn.Module):
    """Branches that are summed, or concatenated."""

    def __init__(self, *branches: nn.Module, concatenated: bool = False) -> None:
        super().__init__()
        self.branches, self.concatenated = nn.ModuleList(branches), concatenated

    def forward(self, x: Tensor) -> Tensor:
        values = [branch(x) for branch in self.branches]
        return torch.cat(values, 1) if self.concatenated else sum(values[1:], values[0])


def conv(inputs: int, outputs: int, kernel: int | tuple[int, int] = 1, stride: int = 1, groups: int = 1) -> nn.Conv2d:
    height, width = (kernel, kernel) if isinstance(kernel, int) else kernel
    return nn.Conv2d(inputs, outputs, (height, width), stride, (height // 2, width // 2), groups=groups, bias=False)


def normed(*layers: nn.Conv2d) -> nn.Sequential:
    """With BatchNorm behind the last: none where a layer behind would pad what it shifted."""
    return nn.Sequential(*layers, nn.BatchNorm2d(layers[-1].out_channels))


def repvgg(c: int, stride: int = 1) -> Parallel:
    identity = (nn.BatchNorm2d(c),) if stride == 1 else ()
    return Parallel(normed(conv(c, c, 3, stride)), normed(conv(c, c, 1, stride)), *identity)


def unpadded(c: int, kernel: int) -> nn.Conv2d:
    return nn.Conv2d(c, c, kernel, groups=c, bias=False)


def blocks() -> Iterator[tuple[str, nn.Module, tuple[int, int]]]:
    """Name, block, and the channels and size of its input."""
    for c, size in ((16, 56), (32, 28), (144, 28), (96, 14)):
        kernels = (normed(conv(c, c, k, groups=c)) for k in (3, 5, 7))
        yield f"depthwise 3 + 5 + 7, {c}x{size}", Parallel(*kernels), (c, size)
    for c, wide, size in ((16, 96, 28), (24, 144, 56), (64, 384, 14), (64, 32, 28), (64, 16, 28), (128, 56, 14), (256, 32, 7)):
        yield f"1x1 > 1x1 by {wide}, {c}x{size}", normed(conv(c, wide), conv(wide, c)), (c, size)
    for c, inner, size in ((64, 16, 28), (64, 56, 14), (128, 16, 14), (32, 30, 28), (32, 64, 28)):
        yield f"1x1 > 3x3 by {inner}, {c}x{size}", normed(conv(c, inner), conv(inner, c, 3)), (c, size)
    for c, inner, o, size in ((32, 64, 16, 28), (64, 16, 64, 28)):
        yield f"3x3 > 1x1 by {inner}, {c}x{size}", normed(conv(c, inner, 3), conv(inner, o)), (c, size)
    for c, k, size in ((16, 3, 56), (32, 3, 28), (32, 5, 28), (64, 7, 14)):
        yield f"{k}x1 > 1x{k}, {c}x{size}", normed(conv(c, c, (k, 1)), conv(c, c, (1, k))), (c, size)
    for c, size in ((32, 28), (64, 14)):
        branches = (normed(conv(c, c, k)) for k in ((3, 1), (1, 3)))
        yield f"3x1 + 1x3, {c}x{size}", Parallel(*branches), (c, size)
    for c, inner, size in ((64, 16, 28), (128, 32, 14), (32, 16, 56)):
        yield f"1x1 > 3x3 > 1x1 by {inner}, {c}x{size}", normed(conv(c, inner), conv(inner, inner, 3), conv(inner, c)), (c, size)
    for c, size, stride in ((16, 56, 1), (48, 28, 1), (64, 14, 1), (128, 7, 1), (48, 28, 2)):
        yield f"RepVGG{' of stride 2' if stride == 2 else ''}, {c}x{size}", repvgg(c, stride), (c, size)
    for c, groups, size in ((32, 2, 28), (64, 4, 14), (64, 8, 28)):
        yield f"3x3 in {groups} groups, {c}x{size}", normed(conv(c, c, 3, groups=groups)), (c, size)
    for c, size in ((8, 56), (16, 28), (32, 28)):
        yield f"depthwise 3x3 > 1x1, {c}x{size}", normed(conv(c, c, 3, groups=c), conv(c, c)), (c, size)
    for c, size in ((32, 28), (64, 14)):
        both = Parallel(normed(conv(c, c // 2)), normed(conv(c, c // 2, 3)), concatenated=True)
        yield f"1x1 | 3x3, {c}x{size}", both, (c, size)
    for c, size in ((64, 28), (128, 14)):
        yield f"depthwise 3x3 > 3x3 unpadded, {c}x{size}", normed(conv(c, c, 3, groups=c), unpadded(c, 3)), (c, size)
