"""Convolutions in one and two dimensions, linear layers and BatchNorm."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import numpy.typing as npt
import torch

from paceline.exporters.draft import Draft, Shape
from paceline.exporters.lowering.elementwise import binary
from paceline.exporters.lowering.layout import arranged, emitted, features_last, image, is_simple, ordered_by_dims, reshaped
from paceline.exporters.lowering.registry import LoweringError, computed, known, lowers, pair
from paceline.exporters.lowering.values import Constant, Value, factor, flat, joined
from paceline.graph import Array

Floats = npt.NDArray[np.float64]


def array(constant: Constant) -> Floats:
    values: Floats = constant.tensor.detach().cpu().numpy()
    return values


def _bias(draft: Draft, bias: Constant | None, weight: Constant, outputs: int) -> str:
    if bias is not None:
        return draft.constant(known(bias, "bias").name, array(bias))
    return draft.constant(weight.name.removesuffix("weight") + "bias", np.zeros(outputs, np.float32))


def pointwise(draft: Draft, x: Value, dim: int, weight: Constant, bias: Constant | None) -> Value:
    """A linear layer over the dimension `dim`, wherever the others lie: `weight` (outputs, inputs) on the last stored axis."""
    x, order = features_last(draft, x, dim)
    if len(x.dims) == 2:
        x = arranged(draft, x, (flat(x.axes[:-1]), x.axes[-1]))
    outputs = weight.shape[0]
    matrix = array(weight)[:, order]
    shape = (*x.stored[:-1], outputs)
    if len(shape) == 4:
        operands = [x.name, draft.constant(weight.name, matrix[:, None, None]), _bias(draft, bias, weight, outputs)]
        name = draft.emit("CONV_2D", operands, shape, stride=(1, 1), dilation=(1, 1), padding="VALID", activation="NONE")
    else:
        operands = [x.name, draft.constant(weight.name, matrix), _bias(draft, bias, weight, outputs)]
        name = draft.emit("FULLY_CONNECTED", operands, shape, activation="NONE", keep_dims=len(shape) > 2)
    new = factor(outputs)
    dims = tuple(new if d == dim % len(x.dims) else own for d, own in enumerate(x.dims))
    return Value(name, dims, (*x.axes[:-1], new))


@lowers("linear")
def linear(draft: Draft, shape: Shape, x: Value, weight: Constant, bias: Constant | None) -> Value:
    x, weight = computed(x, "input"), known(weight, "weight")
    if len(shape) == 1:
        return reshaped(draft, pointwise(draft, reshaped(draft, x, (1, *x.shape)), 1, weight, bias), shape)
    return pointwise(draft, settled(draft, x) if len(shape) > 2 else x, -1, weight, bias)


def settled(draft: Draft, x: Value) -> Value:
    """`x` with every dimension's elements together: where tokens are computed with, moving them once is best."""
    return x if is_simple(x) else joined(arranged(draft, x, ordered_by_dims(x)))


@lowers("conv2d", "conv2d.padding")
def conv2d(
    draft: Draft,
    shape: Shape,
    x: Value,
    weight: Constant,
    bias: Constant | None,
    stride: Sequence[int],
    padding: Sequence[int] | str,
    dilation: Sequence[int],
    groups: int,
) -> Value:
    if len(shape) == 3:
        whole = conv2d(draft, (1, *shape), reshaped(draft, x, (1, *x.shape)), weight, bias, stride, padding, dilation, groups)
        return reshaped(draft, whole, shape)
    x, weight = computed(x, "input", 4), known(weight, "weight")
    outputs, per_group, kh, kw = weight.shape
    dilations, strides = pair(dilation), pair(stride)
    if isinstance(padding, str):
        spans = [d * (k - 1) if padding == "same" else 0 for k, d in zip((kh, kw), dilations, strict=True)]
        top, left = spans[0] // 2, spans[1] // 2
        bottom, right = spans[0] - top, spans[1] - left
    else:
        top, left = bottom, right = pair(padding)
    padded = top or bottom or left or right
    if (kh, kw) == strides == (1, 1) and groups == 1 and not padded:
        return pointwise(draft, x, 1, replace(weight, tensor=weight.tensor[:, :, 0, 0]), bias)
    filters = array(weight)
    if groups == 1:
        x, order = features_last(draft, x, 1)
        filters = filters[:, order]
        x = arranged(draft, x, (x.dims[0], x.dims[2], x.dims[3], x.axes[-1]))
    else:
        x = image(draft, x)
    name = x.name
    if padded:
        n, h, w, c = x.stored
        larger = (n, h + top + bottom, w + left + right, c)
        name = draft.emit("PAD", [name], larger, paddings=(0, 0, top, bottom, left, right, 0, 0))
    if groups > 1 and per_group == 1:
        kind, filters = "DEPTHWISE_CONV_2D", filters.transpose(1, 2, 3, 0)
    else:
        kind, filters = "CONV_2D", filters.transpose(0, 2, 3, 1)
    operands = [name, draft.constant(weight.name, filters), _bias(draft, bias, weight, outputs)]
    return emitted(draft, kind, operands, shape, stride=strides, dilation=dilations, padding="VALID", activation="NONE")


@lowers("conv1d", "conv1d.padding")
def conv1d(
    draft: Draft,
    shape: Shape,
    x: Value,
    weight: Constant,
    bias: Constant | None,
    stride: Sequence[int],
    padding: Sequence[int] | str,
    dilation: Sequence[int],
    groups: int,
) -> Value:
    """A convolution over a map that is one element high."""
    weight = replace(known(weight, "weight"), tensor=known(weight, "weight").tensor.unsqueeze(-2))
    high = reshaped(draft, x, (*x.shape[:-1], 1, x.shape[-1]))
    across = padding if isinstance(padding, str) else (0, *padding)
    wide = (*shape[:-1], 1, shape[-1])
    return reshaped(draft, conv2d(draft, wide, high, weight, bias, (1, *stride), across, (1, *dilation), groups), shape)


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
    x, weight = image(draft, computed(x, "input", 4)), known(weight, "weight")
    if groups != 1 or pair(dilation) != (1, 1):
        weight = replace(weight, tensor=_dense(weight.tensor.detach(), groups, pair(dilation)))
    strides, pads, extra = pair(stride), pair(padding), pair(output_padding)
    # SAME cuts half of the surplus off each side: torch's padding only where nothing is added again at the end
    same = all(
        p > 0 and e == 0 and -(-out // s) == size
        for p, e, s, size, out in zip(pads, extra, strides, x.shape[2:], shape[2:], strict=True)
    )
    filters = draft.constant(weight.name, array(weight).transpose(1, 2, 3, 0))
    operands = [filters, x.name, _bias(draft, bias, weight, weight.shape[1])]
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


@lowers("batch_norm", "_batch_norm_impl_index")
def batch_norm(
    draft: Draft,
    shape: Shape,
    x: Value,
    weight: Constant | None,
    bias: Constant | None,
    mean: Constant | None,
    variance: Constant | None,
    training: bool,
    momentum: float,
    eps: float,
    cudnn: bool,
) -> Value:
    if training or mean is None or variance is None:
        raise LoweringError("this BatchNorm uses the statistics of each batch", "call .eval(), and track running statistics")
    scale = 1 / np.sqrt(array(variance).astype(np.float64) + eps)
    if weight is not None:
        scale = scale * array(known(weight, "weight"))
    offset = -array(mean).astype(np.float64) * scale
    if bias is not None:
        offset = offset + array(known(bias, "bias"))
    origin = mean.name.removesuffix("running_mean")
    scaled = binary(draft, "MUL", x, per_channel(origin + "scale", scale, len(shape)))
    return binary(draft, "ADD", scaled, per_channel(origin + "offset", offset, len(shape)))


def per_channel(name: str, values: Array | torch.Tensor, rank: int) -> Constant:
    """One number for each channel, as a constant that broadcasts over tensors (N, C, ...) of `rank` dimensions."""
    return Constant(name, torch.as_tensor(values).reshape(-1, *(1,) * (rank - 2)))
