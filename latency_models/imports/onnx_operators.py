"""ONNX operators by their shapes alone as the operators that a latency table knows, where the shapes leave no doubt."""

from __future__ import annotations

from collections.abc import Sequence

from paceline.graph import OpSpec, TensorSpec, attrs

Shape = Sequence[int]
_SAME_SHAPE = {"Relu": "RELU", "Sigmoid": "LOGISTIC", "Tanh": "TANH", "HardSwish": "HARD_SWISH"}
_BINARY = {"Add": "ADD", "Mul": "MUL", "Sub": "SUB", "Div": "DIV"}


def operator_of(kind: str, inputs: Sequence[Shape], outputs: Sequence[Shape]) -> OpSpec | None:
    """NCHW becomes NHWC, a missing bias is added, an activation that the runtime fused isn't seen. None where the shapes don't
    say what is computed: pooling windows, reshapes, operators that were merged with another."""
    if not inputs or len(outputs) != 1:
        return None
    first, result = inputs[0], outputs[0]
    match kind:
        case "Conv" if len(first) == len(result) == 4 and len(inputs) in (2, 3) and len(inputs[1]) == 4:
            return _convolution(first, inputs[1], result) if len(inputs) == 2 or len(inputs[2]) == 1 else None
        case "Gemm" if len(first) == len(result) == 2:
            operands = (_spec(first), TensorSpec((result[1], first[1])), TensorSpec((result[1],)))
            return OpSpec("FULLY_CONNECTED", operands, (_spec(result),), attrs(activation="NONE", keep_dims=False), (1, 2))
        case "GlobalAveragePool" if len(first) == 4:
            return OpSpec("MEAN", (_spec(first),), (_spec(result),), attrs(axes=(1, 2), keep_dims=True))
    if kind in _BINARY and len(inputs) == 2 and len(first) == len(inputs[1]) == len(result):
        return OpSpec(_BINARY[kind], (_spec(first), _spec(inputs[1])), (_spec(result),), attrs(activation="NONE"))
    if kind in _SAME_SHAPE and len(inputs) == 1 and first == result:
        return OpSpec(_SAME_SHAPE[kind], (_spec(first),), (_spec(result),))
    return None


def _convolution(first: Shape, weights: Shape, result: Shape) -> OpSpec | None:
    channels, (out, per_group, kh, kw) = first[1], weights
    strides = tuple(max(1, round(a / b)) if b else 1 for a, b in zip(first[2:], result[2:], strict=True))
    same = tuple(-(-a // s) for a, s in zip(first[2:], strides, strict=True))
    valid = tuple(-(-(a - k + 1) // s) for a, k, s in zip(first[2:], (kh, kw), strides, strict=True))
    if tuple(result[2:]) not in (same, valid):
        return None
    depthwise = per_group == 1 and channels > 1
    filters = (1, kh, kw, out) if depthwise else (out, kh, kw, per_group)
    padding = "VALID" if tuple(result[2:]) == valid else "SAME"
    values = attrs(stride=strides, dilation=(1, 1), padding=padding, activation="NONE")
    operands = (_spec(first), TensorSpec(filters), TensorSpec((out,)))
    return OpSpec("DEPTHWISE_CONV_2D" if depthwise else "CONV_2D", operands, (_spec(result),), values, (1, 2))


def _spec(shape: Shape) -> TensorSpec:
    """Channels last where it is an image."""
    return TensorSpec((shape[0], *shape[2:], shape[1]) if len(shape) == 4 else tuple(shape))
