"""Linear layers one behind the other, side by side and concatenated, as one convolution: exact in float64, or MergeError.

Identities of the Diverse Branch Block (Ding et al. 2021, arXiv 2103.13425, section 3.2) and the conditions that it leaves to
padding: a layer behind that pads its input with zeros sees zeros where one convolution of the image would give the bias.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from paceline.exporters.algebra import ConvForm, MergeError, PaddingMode, add, expand_groups

ROUNDING = 1e-6
"""A bias this small beside its kernel (largest sum of magnitudes of a filter) counts as none: it is a difference that rounded."""

_PADDING_MODES: dict[str, PaddingMode] = {
    "constant": "zeros",
    "reflect": "reflect",
    "replicate": "replicate",
    "circular": "circular",
}


def compose(first: ConvForm, second: ConvForm) -> ConvForm:
    """One convolution that computes second(first(x)), borders included.

    Strides multiply and the taps lie on the coarsest grid that holds all sums of offsets: a 1x1 of stride 2 before a 3x3 is a 3x3
    of stride 2 and dilation 2. Its groups are the greatest common divisor of both. Exact where `second` does not pad; where it
    pads, `first` must be 1 wide on that axis and have no bias (zeros), or stride 1 and no padding (copied pixels).

    Raises MergeError with the reason where no single convolution computes it.
    """
    check_compose(first, second)
    padding = tuple(first.padding[i] + first.stride[i] * second.padding[i] for i in (0, 1))
    stride = tuple(first.stride[i] * second.stride[i] for i in (0, 1))
    mode = first.padding_mode if any(first.padding) else second.padding_mode
    (height, down, steps_down), (width, right, steps_right) = (_chained_grid(first, second, i) for i in (0, 1))
    options = {"stride": stride, "padding": padding, "dilation": (down, right), "padding_mode": mode}
    if is_diagonal(second):
        scaled = scale(first, second.kernel.flatten(), second.bias)
        return replace(scaled, **options)  # type: ignore[arg-type]
    taps = second.kernel.sum((2, 3))
    if is_diagonal(first):
        per_group = first.kernel.view(second.groups, 1, -1, 1, 1)
        kernel = (second.kernel.view(second.groups, -1, *second.kernel.shape[1:]) * per_group).view(second.kernel.shape)
        bias = second.bias + _mixed(taps, first.bias, second.groups)
        return replace(second, kernel=kernel, bias=bias, **options)  # type: ignore[arg-type]
    groups = math.gcd(first.groups, second.groups)
    a = _by_group(first, groups)
    b = _by_group(second, groups)
    kernel = a.new_zeros(groups, b.shape[1], a.shape[2], height, width)
    rows, columns = (steps[0] * (first.size[i] - 1) + 1 for i, steps in enumerate((steps_down, steps_right)))
    for y in range(second.size[0]):
        for x in range(second.size[1]):
            top, left = y * steps_down[1], x * steps_right[1]
            part = kernel[..., top : top + rows : steps_down[0], left : left + columns : steps_right[0]]
            part += torch.einsum("gom,gmihw->goihw", b[..., y, x], a)
    bias = second.bias + _mixed(taps, first.bias, second.groups)
    return ConvForm(kernel.flatten(0, 1), bias, groups=groups, **options)  # type: ignore[arg-type]


def composed_macs(first: ConvForm, second: ConvForm) -> int:
    """`compose(first, second).macs` without computing it."""
    (height, _, _), (width, _, _) = (_chained_grid(first, second, i) for i in (0, 1))
    return second.out_channels * first.in_channels // math.gcd(first.groups, second.groups) * height * width


def scale(form: ConvForm, factor: Tensor, shift: Tensor) -> ConvForm:
    """factor * form(x) + shift with one number for each output channel: LayerScale, a gate that is constant, a folded norm."""
    return replace(form, kernel=form.kernel * factor.view(-1, 1, 1, 1), bias=form.bias * factor + shift)


def repeat(form: ConvForm, channels: int) -> ConvForm:
    """A form of one channel for every one of `channels`, as a depthwise convolution."""
    if (form.in_channels, form.out_channels) != (1, 1):
        raise MergeError(f"only a form of one channel is repeated, not one of {form.in_channels} to {form.out_channels}")
    return replace(form, kernel=form.kernel.repeat(channels, 1, 1, 1), bias=form.bias.repeat(channels), groups=channels)


def densify(form: ConvForm) -> ConvForm:
    """The same convolution in one group, with a block-diagonal kernel."""
    return replace(form, kernel=expand_groups(form.kernel, form.groups, 1), groups=1)


def concat(forms: Sequence[ConvForm], interleaved: bool = False) -> ConvForm:
    """One convolution whose output channels are those of `forms`, one after the other.

    Grouped convolutions become dense: a grouped one gives its channels group by group. With `interleaved` it stays grouped and
    gives them so: those of the first group of every form, then those of the second. Raises MergeError where inputs, strides or
    padding modes differ, kernels are not centred on each other, or (interleaved) groups differ.
    """
    first = forms[0]
    if interleaved and any(form.groups != first.groups for form in forms):
        raise MergeError(f"groups differ: {', '.join(str(form.groups) for form in forms)}")
    groups = first.groups if interleaved else 1
    total = None
    offset, out = 0, sum(form.out_channels for form in forms)
    for form in forms:
        form = form if interleaved else densify(form)
        kernel = form.kernel.new_zeros(groups, out // groups, *form.kernel.shape[1:])
        bias = form.bias.new_zeros(groups, out // groups)
        size = form.out_channels // groups
        kernel[:, offset : offset + size] = form.kernel.view(groups, size, *form.kernel.shape[1:])
        bias[:, offset : offset + size] = form.bias.view(groups, size)
        offset += size
        padded = replace(form, kernel=kernel.flatten(0, 1), bias=bias.flatten())
        total = padded if total is None else add(total, padded)
    assert total is not None
    return total


def average_pool_form(
    size: tuple[int, int],
    stride: tuple[int, int],
    padding: tuple[int, int] = (0, 0),
    ceil_mode: bool = False,
    count_include_pad: bool = True,
    divisor: int | None = None,
) -> ConvForm:
    """Average pooling as a kernel of one channel, for `repeat`. Raises MergeError where windows at borders weigh differently."""
    if ceil_mode:
        raise MergeError("average pooling with ceil_mode=True has windows beyond the border, which no kernel has")
    if any(padding) and not count_include_pad and divisor is None:
        raise MergeError("average pooling with count_include_pad=False weighs the border differently; train with True")
    kernel = torch.full((1, 1, *size), 1.0 / (divisor or size[0] * size[1]), dtype=torch.float64)
    return ConvForm(kernel, kernel.new_zeros(1), stride, padding)


def padding_form(padding: tuple[int, int], mode: str = "constant", value: float = 0.0) -> ConvForm:
    """Padding by itself, alike on both sides of an axis, as a kernel of one channel. Raises MergeError for a constant but 0."""
    if mode not in _PADDING_MODES:
        raise MergeError(f"padding mode {mode!r} is none of a convolution's")
    if mode == "constant" and value != 0:
        raise MergeError(f"padding with {value:g} is none of a convolution's, which pads with 0")
    one = torch.ones(1, 1, 1, 1, dtype=torch.float64)
    return ConvForm(one, one.new_zeros(1), padding=padding, padding_mode=_PADDING_MODES[mode])


def is_diagonal(form: ConvForm) -> bool:
    """Whether a form scales and shifts every channel by itself and does nothing else."""
    plain = (form.size, form.stride, form.padding) == ((1, 1), (1, 1), (0, 0))
    return plain and form.groups == form.in_channels == form.out_channels


def check_compose(first: ConvForm, second: ConvForm) -> None:
    """Raises MergeError, as `compose` does, where no single convolution computes second(first(x))."""
    if first.out_channels != second.in_channels:
        raise MergeError(f"channels differ: {first.out_channels} are given and {second.in_channels} are read")
    _check_padding(first, second)


def _check_padding(first: ConvForm, second: ConvForm) -> None:
    """Raises MergeError where what `second` pads is not what one convolution would compute there."""
    padded = [i for i in (0, 1) if second.padding[i]]
    if not padded:
        return
    if any(first.padding) and first.padding_mode != second.padding_mode:
        raise MergeError(f"padding modes differ: {first.padding_mode} and then {second.padding_mode}")
    if any(first.size[i] > 1 for i in padded):
        raise MergeError(
            f"padding inside: the {_x(second.size)} layer pads what the {_x(first.size)} kernel gives, and one kernel would "
            "reach over the border"
        )
    if second.padding_mode != "zeros":
        if any(first.stride[i] > 1 or first.padding[i] for i in padded):
            raise MergeError(f"padding inside: {second.padding_mode} padding behind a stride or a padding copies other pixels")
    elif not bool(first.bias.abs().max() <= ROUNDING * first.kernel.abs().sum((1, 2, 3)).max()):
        raise MergeError(
            f"zero padding with a bias: the {_x(second.size)} layer pads with zeros where one convolution would give the bias of "
            "the layer before; pad with that bias instead"
        )


def _chained_grid(first: ConvForm, second: ConvForm, axis: int) -> tuple[int, int, tuple[int, int]]:
    """Kernel size and dilation on one axis, and how many steps of that grid lie between the taps of each."""
    apart = first.dilation[axis], first.stride[axis] * second.dilation[axis]
    counts = first.size[axis], second.size[axis]
    dilation = math.gcd(*(a for a, count in zip(apart, counts, strict=True) if count > 1)) or 1
    steps = max(apart[0] // dilation, 1), max(apart[1] // dilation, 1)
    return sum(s * (count - 1) for s, count in zip(steps, counts, strict=True)) + 1, dilation, steps


def _by_group(form: ConvForm, groups: int) -> Tensor:
    """The kernel as (groups, out / groups, in / groups, height, width)."""
    kernel = expand_groups(form.kernel, form.groups, groups)
    return kernel.view(groups, -1, *kernel.shape[1:])


def _mixed(weight: Tensor, values: Tensor, groups: int) -> Tensor:
    """A grouped 1x1 kernel (out, in / groups) times one value for each input channel."""
    return torch.einsum("goi,gi->go", weight.view(groups, -1, weight.shape[1]), values.view(groups, -1)).flatten()


def _x(size: tuple[int, int]) -> str:
    return f"{size[0]}x{size[1]}"
