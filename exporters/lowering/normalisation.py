"""Normalisation by statistics of the input itself: over channels (layer norm), groups, or each map (instance norm)."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from paceline.exporters.draft import Draft, Shape
from paceline.exporters.lowering.convolution import batch_norm, per_channel, settled
from paceline.exporters.lowering.elementwise import binary, unary
from paceline.exporters.lowering.layout import reshaped
from paceline.exporters.lowering.reductions import moments, reduced
from paceline.exporters.lowering.registry import known, lowers
from paceline.exporters.lowering.values import Constant, Operand, Value


def _affine(draft: Draft, x: Value, weight: Operand | None, bias: Operand | None) -> Value:
    x = x if weight is None else binary(draft, "MUL", x, weight)
    return x if bias is None else binary(draft, "ADD", x, bias)


def _standardised(draft: Draft, x: Value, dims: Sequence[int], eps: float) -> Value:
    _, variance, deviation = moments(draft, x, dims)
    return binary(draft, "MUL", deviation, unary(draft, "RSQRT", binary(draft, "ADD", variance, eps)))


@lowers("layer_norm")
def layer_norm(
    draft: Draft,
    shape: Shape,
    x: Value,
    normalised: Sequence[int],
    weight: Constant | None,
    bias: Constant | None,
    eps: float,
    *_: object,
) -> Value:
    return _affine(draft, _standardised(draft, settled(draft, x), range(-len(normalised), 0), eps), weight, bias)


@lowers("rms_norm")
def rms_norm(
    draft: Draft, shape: Shape, x: Value, normalised: Sequence[int], weight: Constant | None, eps: float | None
) -> Value:
    x = settled(draft, x)
    power = reduced(draft, "MEAN", unary(draft, "SQUARE", x), range(-len(normalised), 0), True)
    floor = torch.finfo(torch.float32).eps if eps is None else eps
    return _affine(draft, binary(draft, "MUL", x, unary(draft, "RSQRT", binary(draft, "ADD", power, floor))), weight, None)


@lowers("group_norm")
def group_norm(
    draft: Draft, shape: Shape, x: Value, groups: int, weight: Constant | None, bias: Constant | None, eps: float, *_: object
) -> Value:
    n, channels, *rest = shape
    apart = reshaped(draft, x, (n, groups, channels // groups, *rest))
    result = reshaped(draft, _standardised(draft, apart, range(2, len(shape) + 1), eps), shape)
    scales = (None if c is None else per_channel(known(c, "scale").name, c.tensor, len(shape)) for c in (weight, bias))
    return _affine(draft, result, *scales)


@lowers("instance_norm")
def instance_norm(
    draft: Draft,
    shape: Shape,
    x: Value,
    weight: Constant | None,
    bias: Constant | None,
    mean: Constant | None,
    variance: Constant | None,
    use_input: bool,
    momentum: float,
    eps: float,
    *_: object,
) -> Value:
    if not use_input:
        return batch_norm(draft, shape, x, weight, bias, mean, variance, False, momentum, eps, False)
    result = _standardised(draft, x, range(2, len(shape)), eps)
    scales = (None if c is None else per_channel(known(c, "scale").name, c.tensor, len(shape)) for c in (weight, bias))
    return _affine(draft, result, *scales)
