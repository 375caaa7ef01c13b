"""Operators that several tests use."""

from paceline.graph import OpSpec, TensorSpec, attrs


def conv(size: int, cin: int, cout: int, k: int, stride: int = 1, depthwise: bool = False) -> OpSpec:
    """A convolution with torch's symmetric padding."""
    out = (size + stride - 1) // stride
    filters = (1, k, k, cin) if depthwise else (cout, k, k, cin)
    inputs = (TensorSpec((1, size, size, cin)), TensorSpec(filters), TensorSpec((cout,)))
    named = attrs(stride=(stride, stride), dilation=(1, 1), padding="SAME", activation="RELU6")
    return OpSpec("DEPTHWISE_CONV_2D" if depthwise else "CONV_2D", inputs, (TensorSpec((1, out, out, cout)),), named, (1, 2))
