"""The operators of the blocks that tables of latencies have as rows: convolutions, inverted bottlenecks, classifiers."""

from __future__ import annotations

from paceline.graph import OpSpec, TensorSpec, attrs

Shape = tuple[int, ...]
"""Height, width, channels."""


def convolution(
    shape: Shape, channels: int, kernel: int, stride: int = 1, activation: str = "NONE", depthwise: bool = False
) -> list[OpSpec]:
    """Padded as TensorFlow does ("same"); HARD_SWISH is an operator of its own."""
    h, w, cin = shape
    out = TensorSpec((1, -(-h // stride), -(-w // stride), channels))
    filters = (1, kernel, kernel, channels) if depthwise else (channels, kernel, kernel, cin)
    fused = "NONE" if activation == "HARD_SWISH" else activation
    values = attrs(stride=(stride, stride), dilation=(1, 1), padding="SAME" if kernel > 1 else "VALID", activation=fused)
    operands = (TensorSpec((1, h, w, cin)), TensorSpec(filters), TensorSpec((channels,)))
    found = [OpSpec("DEPTHWISE_CONV_2D" if depthwise else "CONV_2D", operands, (out,), values, (1, 2))]
    return [*found, OpSpec("HARD_SWISH", (out,), (out,))] if activation == "HARD_SWISH" else found


def pooled(shape: Shape) -> list[OpSpec]:
    """The mean over height and width."""
    out = TensorSpec((1, 1, 1, shape[2]))
    return [OpSpec("MEAN", (TensorSpec((1, *shape)),), (out,), attrs(axes=(1, 2), keep_dims=True))]


def classifier(features: int, classes: int) -> list[OpSpec]:
    operands = (TensorSpec((1, features)), TensorSpec((classes, features)), TensorSpec((classes,)))
    values = attrs(activation="NONE", keep_dims=False)
    return [OpSpec("FULLY_CONNECTED", operands, (TensorSpec((1, classes)),), values, (1, 2))]


def squeeze_excite(shape: Shape, squeezed: int) -> list[OpSpec]:
    """With ReLU and hard sigmoid, as in MobileNetV3 (arXiv 1905.02244): relu6(x + 3), the 3 in the bias, times 1/6."""
    gate = TensorSpec((1, 1, 1, shape[2]))
    whole = TensorSpec((1, *shape))
    return [
        *pooled(shape),
        *convolution((1, 1, shape[2]), squeezed, 1, activation="RELU"),
        *convolution((1, 1, squeezed), shape[2], 1, activation="RELU6"),
        OpSpec("MUL", (gate, TensorSpec(())), (gate,), attrs(activation="NONE"), (1,)),
        OpSpec("MUL", (whole, gate), (whole,), attrs(activation="NONE")),
    ]


def inverted_bottleneck(
    shape: Shape,
    channels: int,
    expanded: int,
    kernel: int,
    stride: int,
    skip: bool,
    activation: str = "RELU6",
    squeeze: bool = False,
) -> list[OpSpec]:
    """MBConv (arXiv 1801.04381): expand 1x1 (left out where it would not expand), depthwise, perhaps squeeze-and-excitation to a
    quarter of the channels in steps of 8, project 1x1, perhaps add the input."""
    h, w, cin = shape
    after = (-(-h // stride), -(-w // stride), expanded)
    result = TensorSpec((1, after[0], after[1], channels))
    return [
        *(convolution(shape, expanded, 1, activation=activation) if expanded != cin else ()),
        *convolution((h, w, expanded), expanded, kernel, stride, activation, depthwise=True),
        *(squeeze_excite(after, _in_steps(expanded / 4)) if squeeze else ()),
        *convolution(after, channels, 1),
        *([OpSpec("ADD", (result, result), (result,), attrs(activation="NONE"))] if skip else ()),
    ]


def _in_steps(channels: float, step: int = 8) -> int:
    """The nearest multiple, at least one step and at least 90 % of what was asked for."""
    nearest = max(step, int(channels + step / 2) // step * step)
    return nearest if nearest >= 0.9 * channels else nearest + step
