"""Convolutions, linear layers and BatchNorm."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from paceline.exporters.draft import Draft, Shape
from paceline.exporters.lowering.layout import graph_ordered, nhwc, torch_ordered
from paceline.exporters.lowering.registry import Constant, LoweringError, Value, image, known, lowers, pair


def _array(constant: Constant) -> npt.NDArray[np.float64]:
    values: npt.NDArray[np.float64] = constant.tensor.detach().cpu().numpy()
    return values


def _bias(draft: Draft, bias: Constant | None, weight: Constant, outputs: int) -> str:
    if bias is not None:
        return draft.constant(known(bias, "bias").name, _array(bias))
    return draft.constant(weight.name.removesuffix("weight") + "bias", np.zeros(outputs, np.float32))


@lowers("conv2d")
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
    x, weight = image(x), known(weight, "weight")
    outputs, per_group, kh, kw = weight.shape
    dilation = pair(dilation)
    if isinstance(padding, str):
        spans = [d * (k - 1) if padding == "same" else 0 for k, d in zip((kh, kw), dilation, strict=True)]
        top, left = spans[0] // 2, spans[1] // 2
        bottom, right = spans[0] - top, spans[1] - left
    else:
        top, left = bottom, right = pair(padding)
    name = x.name
    if top or bottom or left or right:
        n, h, w, c = nhwc(x.shape)
        padded = (n, h + top + bottom, w + left + right, c)
        name = draft.emit("PAD", [name], padded, paddings=(0, 0, top, bottom, left, right, 0, 0))
    if groups > 1 and per_group == 1:
        kind, filters = "DEPTHWISE_CONV_2D", _array(weight).transpose(1, 2, 3, 0)
    else:
        kind, filters = "CONV_2D", _array(weight).transpose(0, 2, 3, 1)
    operands = [name, draft.constant(weight.name, filters), _bias(draft, bias, weight, outputs)]
    result = draft.emit(kind, operands, nhwc(shape), stride=pair(stride), dilation=dilation, padding="VALID", activation="NONE")
    return Value(result, shape)


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
    x, weight = image(x), known(weight, "weight")
    if groups != 1 or pair(dilation) != (1, 1):
        raise LoweringError(
            f"transposed convolutions run with groups=1 and dilation=1 only, not groups={groups}, dilation={pair(dilation)}",
            "use a resize or pixel shuffle and a convolution",
        )
    strides, pads, extra = pair(stride), pair(padding), pair(output_padding)
    # SAME cuts half of the surplus off each side: torch's padding only where nothing is added again at the end
    same = all(
        p > 0 and e == 0 and -(-out // s) == size
        for p, e, s, size, out in zip(pads, extra, strides, x.shape[2:], shape[2:], strict=True)
    )
    filters = draft.constant(weight.name, _array(weight).transpose(1, 2, 3, 0))
    result = draft.emit(
        "TRANSPOSE_CONV",
        [filters, x.name, _bias(draft, bias, weight, weight.shape[1])],
        nhwc(shape),
        stride=strides,
        padding="SAME" if same else "VALID",
        activation="NONE",
        crop=(0, 0) if same else pads,
    )
    return Value(result, shape)


@lowers("linear")
def linear(draft: Draft, shape: Shape, x: Value, weight: Constant, bias: Constant | None) -> Value:
    weight = known(weight, "weight")
    operands = [torch_ordered(draft, x), draft.constant(weight.name, _array(weight))]
    operands.append(_bias(draft, bias, weight, weight.shape[0]))
    return graph_ordered(draft, draft.emit("FULLY_CONNECTED", operands, shape, activation="NONE", keep_dims=len(shape) > 2))


@lowers("batch_norm")
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
    scale = 1 / np.sqrt(_array(variance).astype(np.float64) + eps)
    if weight is not None:
        scale = scale * _array(weight)
    offset = -_array(mean).astype(np.float64) * scale
    if bias is not None:
        offset = offset + _array(bias)
    origin = mean.name.removesuffix("running_mean")
    column = (-1,) if len(shape) in (2, 4) else (-1, *(1,) * (len(shape) - 2))
    scaled = draft.emit("MUL", [x.name, draft.constant(origin + "scale", scale.reshape(column))], nhwc(shape), activation="NONE")
    moved = [scaled, draft.constant(origin + "offset", offset.reshape(column))]
    return Value(draft.emit("ADD", moved, nhwc(shape), activation="NONE"), shape)
