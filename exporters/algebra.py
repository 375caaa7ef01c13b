"""The algebra of linear branches: convolutions as kernel and bias in float64, and the identities that unite them.

Everything here is exact, zero padding at the borders included, or raises MergeError with the reason. Nothing is cast until
`to_conv`. Identities: folded BatchNorm, parallel sums with padded 1x1 and identity kernels (RepVGG, Ding et al. 2021), asymmetric
kernels (ACNet, Ding et al. 2019), grouped kernels (Diverse Branch Block, Ding et al. 2021).
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from paceline.errors import ExportError

PaddingMode = Literal["zeros", "reflect", "replicate", "circular"]


class MergeError(ExportError):
    """Something that can't be merged exactly, or a merged network that does not compute the same."""


@dataclass(frozen=True, eq=False)
class ConvForm:
    """A linear branch of images as one convolution.

    `kernel` is (out, in / groups, height, width), `bias` (out,), both float64. Pairs are (vertical, horizontal); `padding` is
    put on both sides of an axis.
    """

    kernel: Tensor
    bias: Tensor
    stride: tuple[int, int] = (1, 1)
    padding: tuple[int, int] = (0, 0)
    dilation: tuple[int, int] = (1, 1)
    groups: int = 1
    padding_mode: PaddingMode = "zeros"

    @property
    def in_channels(self) -> int:
        return self.kernel.shape[1] * self.groups

    @property
    def out_channels(self) -> int:
        return self.kernel.shape[0]

    @property
    def size(self) -> tuple[int, int]:
        """Height and width of the kernel."""
        return self.kernel.shape[2], self.kernel.shape[3]

    @property
    def macs(self) -> int:
        """Multiply-accumulates for one position of the output, all channels."""
        return self.kernel.numel()

    @property
    def growth(self) -> tuple[int, int]:
        """By how much the output is larger than the input at stride 1: 0 where the padding centres the kernel ("same")."""
        return (
            2 * self.padding[0] - self.dilation[0] * (self.size[0] - 1),
            2 * self.padding[1] - self.dilation[1] * (self.size[1] - 1),
        )


def conv_form(conv: nn.Conv2d) -> ConvForm:
    """A convolution layer's form. Raises MergeError where "same" padding of an even kernel differs from side to side."""
    form = ConvForm(
        kernel=conv.weight.detach().double(),
        bias=_double(conv.bias, conv.weight.new_zeros(conv.out_channels)),
        stride=_pair(conv.stride),
        dilation=_pair(conv.dilation),
        groups=conv.groups,
        padding_mode=conv.padding_mode,
    )
    if conv.padding == "same":
        odd_one_out = [g for g in form.growth if g % 2]
        if odd_one_out:
            raise MergeError(f'padding="same" pads the {form.size[0]}x{form.size[1]} kernel more on one side than on the other')
        return replace(form, padding=(-form.growth[0] // 2, -form.growth[1] // 2))
    return replace(form, padding=(0, 0) if isinstance(conv.padding, str) else _pair(conv.padding))


def to_conv(form: ConvForm, dtype: torch.dtype, device: torch.device | str = "cpu") -> nn.Conv2d:
    """A convolution layer with bias that computes the form: the one place where float64 is cast. Draws no random numbers.

    Raises MergeError where a weight is not finite in `dtype`.
    """
    conv = nn.Conv2d(
        form.in_channels,
        form.out_channels,
        form.size,
        form.stride,
        form.padding,
        form.dilation,
        form.groups,
        padding_mode=form.padding_mode,
        device="meta",
        dtype=dtype,
    )
    _cast_into(conv, form.kernel, form.bias, dtype, device)
    return conv


def to_linear(form: ConvForm, dtype: torch.dtype, device: torch.device | str = "cpu") -> nn.Linear:
    """A linear layer with bias that computes a 1x1 form of one group on the last axis. Raises MergeError as `to_conv` does."""
    layer = nn.Linear(form.in_channels, form.out_channels, device="meta", dtype=dtype)
    _cast_into(layer, expand_groups(form.kernel, form.groups, 1)[:, :, 0, 0], form.bias, dtype, device)
    return layer


def identity_kernel(channels: int, groups: int = 1, size: tuple[int, int] = (1, 1)) -> Tensor:
    """The kernel that returns its input, (channels, channels / groups, height, width); the sizes are odd."""
    kernel = torch.zeros(channels, channels // groups, *size, dtype=torch.float64)
    out = torch.arange(channels)
    kernel[out, out % (channels // groups), size[0] // 2, size[1] // 2] = 1.0
    return kernel


def identity_form(channels: int) -> ConvForm:
    """What returns its input, as a depthwise 1x1 convolution."""
    return ConvForm(identity_kernel(channels, channels), torch.zeros(channels, dtype=torch.float64), groups=channels)


def fold_batchnorm(form: ConvForm, norm: _BatchNorm) -> ConvForm:
    """The form followed by a BatchNorm in evaluation: scale = gamma / sqrt(var + eps), bias = beta + scale (bias - mean).

    Raises MergeError where the BatchNorm keeps no running statistics or is for another number of channels.
    """
    if norm.running_mean is None or norm.running_var is None:
        raise MergeError(
            "a BatchNorm without running statistics normalises by the batch it sees, which no kernel can express; "
            "build it with track_running_stats=True"
        )
    if norm.num_features != form.out_channels:
        raise MergeError(f"a BatchNorm of {norm.num_features} channels follows {form.out_channels} channels")
    var, mean = norm.running_var.double(), norm.running_mean.double()
    scale = _double(norm.weight, torch.ones_like(var)) / torch.sqrt(var + norm.eps)
    shift = _double(norm.bias, torch.zeros_like(mean))
    return replace(form, kernel=form.kernel * scale.view(-1, 1, 1, 1), bias=shift + scale * (form.bias - mean))


def pad_kernel(kernel: Tensor, size: tuple[int, int], first: tuple[int, int], step: tuple[int, int] = (1, 1)) -> Tensor:
    """The kernel in a larger one of zeros: its taps start at `first` and are `step` apart."""
    padded = kernel.new_zeros(*kernel.shape[:2], *size)
    padded[:, :, first[0] :: step[0], first[1] :: step[1]][:, :, : kernel.shape[2], : kernel.shape[3]] = kernel
    return padded


def expand_groups(kernel: Tensor, groups: int, fewer: int) -> Tensor:
    """The block-diagonal kernel that computes a convolution of `groups` groups with `fewer` groups, a divisor of them."""
    out, per_group, *size = kernel.shape
    blocks = groups // fewer
    expanded = kernel.new_zeros(fewer, blocks, out // groups, blocks, per_group, *size)
    diagonal = torch.arange(blocks, device=kernel.device)
    # Two index tensors with a slice between them: the block axis comes first on the left side.
    expanded[:, diagonal, :, diagonal] = kernel.view(fewer, blocks, out // groups, per_group, *size).transpose(0, 1)
    return expanded.view(out, blocks * per_group, *size)


def add(a: ConvForm, b: ConvForm) -> ConvForm:
    """One convolution that computes a(x) + b(x), borders included.

    Its groups are the greatest common divisor of both, its taps lie on the coarsest grid that holds those of both: it may be
    denser than either. Raises MergeError where no single convolution computes the sum: different channels, strides or padding
    modes, or kernels that are not centred on each other.
    """
    check_add(a, b)
    (height, top, down), (width, left, right) = _grid(a, b, 0), _grid(a, b, 1)
    groups = math.gcd(a.groups, b.groups)

    def placed(form: ConvForm) -> Tensor:
        first = (top - form.padding[0]) // down, (left - form.padding[1]) // right
        step = max(form.dilation[0] // down, 1), max(form.dilation[1] // right, 1)
        return expand_groups(pad_kernel(form.kernel, (height, width), first, step), form.groups, groups)

    mode = a.padding_mode if any(a.padding) else b.padding_mode
    return ConvForm(placed(a) + placed(b), a.bias + b.bias, a.stride, (top, left), (down, right), groups, mode)


def _cast_into(
    layer: nn.Conv2d | nn.Linear, weight: Tensor, bias: Tensor, dtype: torch.dtype, device: torch.device | str
) -> None:
    for name, exact in (("weight", weight), ("bias", bias)):
        cast = exact.to(device, dtype)
        if not torch.isfinite(cast).all():
            raise MergeError(f"the merged {name} is not finite in {dtype}; look for broken running statistics in its BatchNorms")
        setattr(layer, name, nn.Parameter(cast))


def _grid(a: ConvForm, b: ConvForm, axis: int) -> tuple[int, int, int]:
    """Kernel size, padding and dilation that hold the taps of both on one axis; both grow their input alike."""
    padding = max(a.padding[axis], b.padding[axis])
    steps = [form.dilation[axis] for form in (a, b) if form.size[axis] > 1]
    step = math.gcd(a.padding[axis] - b.padding[axis], *steps) or 1
    return (2 * padding - a.growth[axis]) // step + 1, padding, step


def check_add(a: ConvForm, b: ConvForm) -> None:
    """Raises MergeError, as `add` does, where no single convolution computes a(x) + b(x)."""
    if (a.in_channels, a.out_channels) != (b.in_channels, b.out_channels):
        raise MergeError(f"channels differ: {a.in_channels} to {a.out_channels} and {b.in_channels} to {b.out_channels}")
    if a.stride != b.stride:
        raise MergeError(f"strides differ: {a.stride} and {b.stride}")
    if a.growth != b.growth:
        raise MergeError(
            f"kernels are not centred on each other: {a.size} with padding {a.padding} and {b.size} with padding {b.padding}"
        )
    if a.padding_mode != b.padding_mode and any(a.padding) and any(b.padding):
        raise MergeError(f"padding modes differ: {a.padding_mode} and {b.padding_mode}")


def added_macs(a: ConvForm, b: ConvForm) -> int:
    """`add(a, b).macs` without computing it."""
    height, width = (_grid(a, b, axis)[0] for axis in (0, 1))
    return a.out_channels * (a.in_channels // math.gcd(a.groups, b.groups)) * height * width


def _pair(value: int | tuple[int, ...]) -> tuple[int, int]:
    return (value, value) if isinstance(value, int) else (value[0], value[1])


def _double(value: Tensor | None, default: Tensor) -> Tensor:
    return (default if value is None else value).detach().double()
