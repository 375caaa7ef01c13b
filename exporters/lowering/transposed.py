"""Transposed convolutions in one and two dimensions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch

from paceline.exporters.draft import Draft, Shape
from paceline.exporters.lowering.convolution import array, bias_of, conv2d
from paceline.exporters.lowering.layout import emitted, image, reshaped
from paceline.exporters.lowering.rearrange import concatenated, sliced
from paceline.exporters.lowering.registry import computed, known, lowers, pair
from paceline.exporters.lowering.values import Constant, Value


def _dense(weight: torch.Tensor, groups: int, dilation: tuple[int, int]) -> torch.Tensor:
    """The weights (inputs, outputs, kh, kw) of an ungrouped, undilated transposed convolution: with zeros between."""
    inputs, per_group, kh, kw = weight.shape
    dh, dw = dilation
    dense = weight.new_zeros(inputs, per_group * groups, (kh - 1) * dh + 1, (kw - 1) * dw + 1)
    block = inputs // groups
    for g in range(groups):
        rows, columns = slice(g * block, (g + 1) * block), slice(g * per_group, (g + 1) * per_group)
        dense[rows, columns, ::dh, ::dw] = weight[rows]
    return dense


def _in_phases(
    draft: Draft,
    shape: Shape,
    x: Value,
    weight: Constant,
    bias: Constant | None,
    stride: int,
    padding: tuple[int, int],
    groups: int,
) -> Value:
    """A grouped transposed convolution as convolutions: each computes every stride-th row and column of the result.

    Row q * stride + r sums the weights r, r + stride, … times the rows q, q - 1, … of the input.
    """
    # from (inputs, outputs / groups, kh, kw) to (outputs, inputs / groups, kh, kw)
    kernel = weight.tensor.detach().reshape(groups, -1, *weight.shape[1:]).transpose(1, 2).flatten(0, 1)
    ends = [
        max(k, out + p - (size - 1) * stride)
        for k, p, size, out in zip(kernel.shape[2:], padding, x.shape[2:], shape[2:], strict=True)
    ]
    taps = [-(-end // stride) for end in ends]
    missing = [n * stride - k for n, k in zip(taps, kernel.shape[2:], strict=True)]
    kernel = torch.nn.functional.pad(kernel, (0, missing[1], 0, missing[0])).flip(2, 3)
    n, c, h, w = x.shape
    (top, left), size = (taps[0] - 1, taps[1] - 1), (h + taps[0] - 1, w + taps[1] - 1)
    if top or left:
        sides = (0, 0, top, top, left, left, 0, 0)
        x = emitted(draft, "PAD", [image(draft, x).name], (n, c, h + 2 * top, w + 2 * left), paddings=sides)
    last = stride - 1
    parts = [kernel[:, :, last - i :: stride, last - j :: stride] for i in range(stride) for j in range(stride)]
    options = bias, (1, 1), (0, 0), (1, 1), groups
    phases = [conv2d(draft, (n, kernel.shape[0], *size), x, replace(weight, tensor=part), *options) for part in parts]
    if stride > 1:
        together = image(draft, concatenated(draft, phases, 1))
        whole = (n, kernel.shape[0], size[0] * stride, size[1] * stride)
        phases = [emitted(draft, "DEPTH_TO_SPACE", [together.name], whole, block_size=stride)]
    (result,) = phases
    for dim, start in zip((2, 3), padding, strict=True):
        result = sliced(draft, result, dim, start, start + shape[dim])
    return result


@lowers("conv_transpose2d.input")
def conv_transpose2d(
    draft: Draft,
    shape: Shape,
    x: Value,
    weight: Constant,
    bias: Constant | None,
    stride: Sequence[int],
    padding: Sequence[int],
    output_padding: Sequence[int],
    groups: int,
    dilation: Sequence[int],
) -> Value:
    if len(shape) == 3:
        ends = stride, padding, output_padding, groups, dilation
        batch = reshaped(draft, computed(x, "input"), (1, *x.shape))
        return reshaped(draft, conv_transpose2d(draft, (1, *shape), batch, weight, bias, *ends), shape)
    x, weight = image(draft, computed(x, "input", 4)), known(weight, "weight")
    strides, pads, extra = pair(stride), pair(padding), pair(output_padding)
    if groups > 1 and strides[0] == strides[1] and pair(dilation) == (1, 1):
        return _in_phases(draft, shape, x, weight, bias, strides[0], pads, groups)
    if groups != 1 or pair(dilation) != (1, 1):
        weight = replace(weight, tensor=_dense(weight.tensor.detach(), groups, pair(dilation)))
    # SAME cuts half of the surplus off each side: torch's padding only where nothing is added again at the end
    same = all(
        p > 0 and e == 0 and -(-out // s) == size
        for p, e, s, size, out in zip(pads, extra, strides, x.shape[2:], shape[2:], strict=True)
    )
    filters = draft.constant(weight.name, array(weight).transpose(1, 2, 3, 0))
    operands = [filters, x.name, bias_of(draft, bias, weight, weight.shape[1])]
    cut = (0, 0) if same else pads
    kept = "SAME" if same else "VALID"
    return emitted(draft, "TRANSPOSE_CONV", operands, shape, stride=strides, padding=kept, activation="NONE", crop=cut)


@lowers("conv_transpose1d")
def conv_transpose1d(
    draft: Draft,
    shape: Shape,
    x: Value,
    weight: Constant,
    bias: Constant | None,
    stride: Sequence[int],
    padding: Sequence[int],
    output_padding: Sequence[int],
    groups: int,
    dilation: Sequence[int],
) -> Value:
    weight = replace(known(weight, "weight"), tensor=known(weight, "weight").tensor.unsqueeze(-2))
    high = reshaped(draft, x, (*x.shape[:-1], 1, x.shape[-1]))
    ends = (1, *stride), (0, *padding), (0, *output_padding), groups, (1, *dilation)
    return reshaped(draft, conv_transpose2d(draft, (*shape[:-1], 1, shape[-1]), high, weight, bias, *ends), shape)
