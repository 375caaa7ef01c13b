"""Random networks of the blocks that mobile networks are made of, for tables that are made for no network in particular."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np

from paceline.graph import Array, AttrValue, Graph, Op, TensorSpec, attrs

_SIZES = (96, 128, 160, 192, 224)
_ACTIVATIONS = ("RELU", "RELU6", "HARD_SWISH", "SWISH", "GELU")
_MOST_MACS, _MOST_PARAMS = 500e6, 2.5e6
_DRAWS = 40


def block_network(rng: np.random.Generator, weights: bool = True) -> Graph:
    """One network: a stem, three to five stages of one block family each, a pooled classifier or a decoder of resized maps.

    Inverted residuals (3x3, 5x5, 7x7, with and without squeeze-excitation), the same with a dense 3x3, separable and plain
    convolutions, bottlenecks, grouped convolutions, branches that are concatenated, ghost modules, large depthwise kernels.
    At most 500 million MACs and 2.5 million weights. Without `weights` these are zeros that take no memory.
    """
    for _ in range(_DRAWS):
        state = rng.bit_generator.state
        graph = _drawn(rng, filled=False)
        if graph.macs() <= _MOST_MACS and graph.params() <= _MOST_PARAMS:
            break
    else:
        raise AssertionError(f"{_DRAWS} networks in a row were too large")
    if not weights:
        return graph
    rng.bit_generator.state = state
    return _drawn(rng, filled=True)


def reference_network() -> Graph:
    """What whole networks are measured beside, to see the device drift: seven convolutions that every runtime has."""
    net = _Builder(96, "RELU6", filled=True)
    x = net.conv(net.input, 16, 3, 2)
    for channels in (24, 32, 64):
        x = net.conv(net.depthwise(x, 3, 2), channels)
    return net.graph(x)


def _drawn(rng: np.random.Generator, filled: bool) -> Graph:
    net = _Builder(int(rng.choice(_SIZES)), str(rng.choice(_ACTIVATIONS)), filled)
    width = 8 * int(rng.integers(1, 7))
    x = net.conv(net.input, width, int(rng.choice([3, 3, 5])), 2)
    if rng.random() < 0.15:
        x = net.pool("MAX_POOL_2D", x, 2)
    for _ in range(int(rng.integers(3, 6))):
        block = _BLOCKS[int(rng.integers(len(_BLOCKS)))]
        width = min(320, 8 * max(1, round(width * float(rng.uniform(1.1, 2.0)) / 8)))
        kernel, expansion = int(rng.choice([3, 3, 5, 7])), float(rng.choice([1, 2, 3, 4, 6]))
        for i in range(int(rng.integers(1, 5))):
            stride = 2 if i == 0 and net.size(x) >= 14 and rng.random() < 0.75 else 1
            x = block(net, x, width, stride, kernel, expansion)
    if rng.random() < 0.15:
        small = net.conv(x, 32)
        return net.graph(net.conv(net.resized(small, str(rng.choice(["RESIZE_BILINEAR", "RESIZE_NEAREST_NEIGHBOR"]))), 16, 3))
    if rng.random() < 0.5:
        x = net.conv(x, 8 * int(rng.integers(16, 100)))
    return net.graph(net.classifier(x, int(rng.choice([10, 100, 256, 1000]))))


@dataclass
class _Builder:
    """Appends operators in the form in which networks exported from torch have them.

    Where `filled`, weights are random and keep activations near 1: numbers that are no longer normal would cost time.
    """

    resolution: int
    activation: str
    filled: bool
    ops: list[Op] = field(default_factory=list)
    tensors: dict[str, TensorSpec] = field(default_factory=dict)
    weights: dict[str, Array] = field(default_factory=dict)
    input: str = "image"

    def __post_init__(self) -> None:
        self.tensors[self.input] = TensorSpec((1, self.resolution, self.resolution, 3))

    def graph(self, output: str) -> Graph:
        return Graph(tuple(self.ops), self.tensors, (self.input,), (output,), self.weights)

    def size(self, x: str) -> int:
        return self.tensors[x].shape[1]

    def channels(self, x: str) -> int:
        return self.tensors[x].shape[-1]

    def conv(
        self, x: str, channels: int, kernel: int = 1, stride: int = 1, groups: int = 1, activation: str | None = None
    ) -> str:
        per_group = self.channels(x) // groups
        filters = self._weight((channels, kernel, kernel, per_group), kernel * kernel * per_group)
        return self._convolved("CONV_2D", x, filters, channels, kernel, stride, activation)

    def depthwise(self, x: str, kernel: int, stride: int = 1, activation: str | None = None) -> str:
        filters = self._weight((1, kernel, kernel, self.channels(x)), kernel * kernel)
        return self._convolved("DEPTHWISE_CONV_2D", x, filters, self.channels(x), kernel, stride, activation)

    def add(self, x: str, y: str) -> str:
        return self._op("ADD", (x, y), self.tensors[x].shape, activation="NONE")

    def concat(self, *parts: str) -> str:
        shape = (*self.tensors[parts[0]].shape[:3], sum(self.channels(p) for p in parts))
        return self._op("CONCATENATION", parts, shape, axis=3, activation="NONE")

    def pool(self, kind: str, x: str, stride: int) -> str:
        window = 3 if stride == 1 else 2
        padding, size = "SAME" if stride == 1 else "VALID", self.size(x) // stride
        shape = (1, size, size, self.channels(x))
        return self._op(kind, (x,), shape, activation="NONE", filter=(window, window), padding=padding, stride=(stride, stride))

    def squeezed(self, x: str, ratio: int) -> str:
        """Squeeze-excitation (arXiv 1709.01507)."""
        c = self.channels(x)
        mean = self._op("MEAN", (x,), (1, 1, 1, c), axes=(1, 2), keep_dims=True)
        gate = self.conv(self.conv(mean, max(8, c // ratio), activation="RELU"), c, activation="NONE")
        return self._op("MUL", (x, self._op("LOGISTIC", (gate,), (1, 1, 1, c))), self.tensors[x].shape, activation="NONE")

    def resized(self, x: str, kind: str) -> str:
        shape = (1, 2 * self.size(x), 2 * self.size(x), self.channels(x))
        return self._op(kind, (x,), shape, align_corners=False, half_pixel_centers=kind == "RESIZE_BILINEAR")

    def classifier(self, x: str, classes: int) -> str:
        c = self.channels(x)
        mean = self._op("MEAN", (x,), (1, 1, 1, c), axes=(1, 2), keep_dims=True)
        flat = self._op("RESHAPE", (mean,), (1, c))
        operands = (flat, self._weight((classes, c), c), self._bias(classes))
        return self._op("FULLY_CONNECTED", operands, (1, classes), activation="NONE", keep_dims=False)

    def _convolved(self, kind: str, x: str, filters: str, channels: int, kernel: int, stride: int, activation: str | None) -> str:
        after = self.activation if activation is None else activation
        fused = after if after in ("NONE", "RELU", "RELU6") else "NONE"
        values: dict[str, AttrValue] = {"activation": fused, "dilation": (1, 1), "padding": "VALID"}
        values["stride"] = (stride, stride)
        if kernel > 1 and stride == 1:
            values["padding"] = "SAME"
        elif kernel > 1:  # torch pads on all sides, which SAME does not where there is a stride
            x = self._padded(x, kernel // 2)
        size = (self.size(x) - (kernel if values["padding"] == "VALID" else 1)) // stride + 1
        y = self._op(kind, (x, filters, self._bias(channels)), (1, size, size, channels), **values)
        if after == "SWISH":
            return self._op(
                "MUL", (y, self._op("LOGISTIC", (y,), self.tensors[y].shape)), self.tensors[y].shape, activation="NONE"
            )
        if after == fused:
            return y
        named: dict[str, AttrValue] = {"approximate": False} if after == "GELU" else {}
        return self._op(after, (y,), self.tensors[y].shape, **named)

    def _padded(self, x: str, by: int) -> str:
        size = self.size(x) + 2 * by
        return self._op("PAD", (x,), (1, size, size, self.channels(x)), paddings=(0, 0, by, by, by, by, 0, 0))

    def _op(self, kind: str, inputs: tuple[str, ...], shape: tuple[int, ...], **values: AttrValue) -> str:
        name = f"t{len(self.ops)}"
        self.ops.append(Op(kind, inputs, (name,), attrs(**values)))
        self.tensors[name] = TensorSpec(shape)
        return name

    def _weight(self, shape: tuple[int, ...], fan_in: int) -> str:
        return self._constant(shape, math.sqrt(2 / fan_in))

    def _bias(self, channels: int) -> str:
        return self._constant((channels,), 0.1)

    def _constant(self, shape: tuple[int, ...], deviation: float) -> str:
        name = f"w{len(self.weights)}"
        values: Array = np.broadcast_to(np.float32(0), shape)
        if self.filled:
            values = np.random.default_rng(len(self.weights)).standard_normal(shape, np.float32) * np.float32(deviation)
        self.weights[name], self.tensors[name] = values, TensorSpec(shape)
        return name


def _residual(net: _Builder, x: str, y: str) -> str:
    return net.add(x, y) if net.tensors[x].shape == net.tensors[y].shape else y


def _inverted(net: _Builder, x: str, width: int, stride: int, kernel: int, expansion: float, squeeze: int = 0) -> str:
    y = net.conv(x, 8 * math.ceil(net.channels(x) * expansion / 8)) if expansion > 1 else x
    y = net.depthwise(y, kernel, stride)
    y = net.squeezed(y, squeeze) if squeeze else y
    return _residual(net, x, net.conv(y, width, activation="NONE"))


def _squeezed_inverted(net: _Builder, x: str, width: int, stride: int, kernel: int, expansion: float) -> str:
    return _inverted(net, x, width, stride, kernel, expansion, squeeze=4)


def _fused_inverted(net: _Builder, x: str, width: int, stride: int, kernel: int, expansion: float) -> str:
    y = net.conv(x, 8 * math.ceil(net.channels(x) * min(expansion, 4) / 8), 3, stride)
    return _residual(net, x, net.conv(y, width, activation="NONE"))


def _separable(net: _Builder, x: str, width: int, stride: int, kernel: int, expansion: float) -> str:
    return net.conv(net.depthwise(x, kernel, stride), width)


def _plain(net: _Builder, x: str, width: int, stride: int, kernel: int, expansion: float) -> str:
    return net.conv(x, width, 3, stride)


def _bottleneck(net: _Builder, x: str, width: int, stride: int, kernel: int, expansion: float) -> str:
    inner = max(8, width // 2)
    return _residual(net, x, net.conv(net.conv(net.conv(x, inner), inner, 3, stride), width, activation="NONE"))


def _grouped(net: _Builder, x: str, width: int, stride: int, kernel: int, expansion: float) -> str:
    inner = max(16, width)
    return _residual(
        net, x, net.conv(net.conv(net.conv(x, inner), inner, 3, stride, groups=inner // 8), width, activation="NONE")
    )


def _branches(net: _Builder, x: str, width: int, stride: int, kernel: int, expansion: float) -> str:
    third, odd = max(8, width // 3), net.size(x) % 2 == 1
    if stride == 2 and odd:
        return _plain(net, x, width, stride, kernel, expansion)
    pooled = net.conv(net.pool("AVERAGE_POOL_2D", x, stride), third)
    dense = net.conv(net.conv(x, third), third, 3, stride)
    return net.concat(dense, net.depthwise(net.conv(x, third), kernel, stride), pooled)


def _ghost(net: _Builder, x: str, width: int, stride: int, kernel: int, expansion: float) -> str:
    y = net.depthwise(x, kernel, stride, activation="NONE") if stride > 1 else x
    half = net.conv(y, max(8, width // 2))
    return net.concat(half, net.depthwise(half, 3))


_Block = Callable[[_Builder, str, int, int, int, float], str]
_BLOCKS: tuple[_Block, ...] = (
    *(_inverted, _inverted, _squeezed_inverted, _squeezed_inverted, _fused_inverted),
    *(_separable, _plain, _bottleneck, _grouped, _branches, _ghost),
)
