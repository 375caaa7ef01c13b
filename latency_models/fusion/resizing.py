"""The same operators on larger images: a second size for pairs that occur in one size only."""

from __future__ import annotations

from dataclasses import replace

from paceline.graph import OpSpec, TensorSpec
from paceline.latency_models.fusion.pairs import ARITHMETIC, Pair

_WINDOWED = ("CONV_2D", "DEPTHWISE_CONV_2D", "AVERAGE_POOL_2D", "MAX_POOL_2D")
_UNARY = ("RELU", "RELU6", "RELU_N1_TO_1", "HARD_SWISH", "LOGISTIC", "TANH", "GELU", "ELU", "LEAKY_RELU", "PRELU", "EXP", "SQRT")


def doubled(pair: Pair) -> Pair | None:
    """The pair with twice the height and width; None where that isn't the same pair, or isn't known how."""
    first, second = _doubled(pair.producer), _doubled(pair.consumer)
    if first is None or second is None or first.outputs[0] != second.inputs[pair.operand]:
        return None
    larger = Pair(first, second, pair.operand)
    return larger if larger.name == pair.name else None


def _doubled(spec: OpSpec) -> OpSpec | None:
    if len(spec.outputs) != 1 or any(len(t.shape) != 4 for i, t in enumerate(spec.inputs) if i not in spec.constants):
        return None
    result = spec.outputs[0]
    if spec.kind in (*ARITHMETIC, *_UNARY):
        same = [i not in spec.constants and t.shape[1:3] == result.shape[1:3] for i, t in enumerate(spec.inputs)]
        inputs = tuple(_larger(t) if s else t for t, s in zip(spec.inputs, same, strict=True))
        return replace(spec, inputs=inputs, outputs=(_larger(result),))
    if spec.kind == "MEAN" and spec.attr("axes") == (1, 2) and spec.attr("keep_dims"):
        return replace(spec, inputs=(_larger(spec.inputs[0]),))
    if spec.kind in _WINDOWED:
        image = _larger(spec.inputs[0])
        made = TensorSpec((1, *_size(spec, image), result.shape[3]), result.dtype)
        return replace(spec, inputs=(image, *spec.inputs[1:]), outputs=(made,))
    return None


def _larger(t: TensorSpec) -> TensorSpec:
    n, height, width, channels = t.shape
    return TensorSpec((n, 2 * height, 2 * width, channels), t.dtype)


def _size(spec: OpSpec, image: TensorSpec) -> tuple[int, int]:
    """Height and width of the result."""
    window = spec.inputs[1].shape[1:3] if "CONV" in spec.kind else spec.attr("filter")
    stride, dilation, pad = spec.attr("stride"), spec.attr("dilation", (1, 1)), spec.attr("pad", (0, 0, 0, 0))
    assert isinstance(window, tuple)
    assert isinstance(stride, tuple)
    assert isinstance(dilation, tuple)
    assert isinstance(pad, tuple)
    found = []
    for axis in range(2):
        size, reach = image.shape[1 + axis], (window[axis] - 1) * dilation[axis]
        whole = size + pad[2 * axis] + pad[2 * axis + 1] - reach
        found.append(-(-(size if spec.attr("padding") == "SAME" else whole) // stride[axis]))
    return found[0], found[1]
