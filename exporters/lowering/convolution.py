"""Convolutions in one and two dimensions, linear layers and BatchNorm."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import numpy.typing as npt
import torch

from paceline.exporters.draft import Draft, Shape
from paceline.exporters.lowering.elementwise import binary
from paceline.exporters.lowering.layout import (
    arranged,
    emitted,
    features_last,
    image,
    is_simple,
    ordered_by_dims,
    permuted,
    reshaped,
)
from paceline.exporters.lowering.registry import LoweringError, computed, known, lowers, pair
from paceline.exporters.lowering.values import Constant, Value, factor, flat, joined
from paceline.graph import Array

Floats = npt.NDArray[np.float64]


def array(constant: Constant) -> Floats:
    values: Floats = constant.tensor.detach().cpu().numpy()
    return values


def bias_of(draft: Draft, bias: Constant | None, weight: Constant, outputs: int) -> str:
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
        operands = [x.name, draft.constant(weight.name, matrix[:, None, None]), bias_of(draft, bias, weight, outputs)]
        name = draft.emit("CONV_2D", operands, shape, stride=(1, 1), dilation=(1, 1), padding="VALID", activation="NONE")
    else:
        operands = [x.name, draft.constant(weight.name, matrix), bias_of(draft, bias, weight, outputs)]
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
    operands = [name, draft.constant(weight.name, filters), bias_of(draft, bias, weight, outputs)]
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


@lowers("conv3d")
def conv3d(
    draft: Draft,
    shape: Shape,
    x: Value,
    weight: Constant,
    bias: Constant | None,
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    groups: int,
) -> Value:
    """A convolution that is one element long in some dimension: in two dimensions, that one part of the batch."""
    x, weight = computed(x, "input", 5), known(weight, "weight")
    options = [tuple(o) * (3 // len(o)) for o in (stride, padding, dilation)]
    flat_dims = [d for d in range(3) if (weight.shape[d + 2], options[0][d], options[1][d]) == (1, 1, 0)]
    if not flat_dims:
        raise LoweringError("it convolves in three dimensions", "use convolutions in two dimensions")
    (d,) = flat_dims[:1]
    rest = [i for i in range(3) if i != d]
    n, c, *sizes = x.shape
    maps = reshaped(draft, permuted(x, (0, d + 2, 1, *(i + 2 for i in rest))), (n * sizes[d], c, *(sizes[i] for i in rest)))
    strides, pads, dilations = ([o[i] for i in rest] for o in options)
    wide = (n * sizes[d], shape[1], *(shape[i + 2] for i in rest))
    flat_weight = replace(weight, tensor=weight.tensor.squeeze(d + 2))
    result = conv2d(draft, wide, maps, flat_weight, bias, strides, pads, dilations, groups)
    result = reshaped(draft, result, (n, sizes[d], *wide[1:]))
    back = [0, 2, 3, 4]
    back.insert(d + 2, 1)
    return permuted(result, back)


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
