"""Which nodes of a traced network are linear layers, as modules or as functions, and why others are not."""

from __future__ import annotations

import math
import operator
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, fx, nn
from torch.nn import functional
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.dropout import _DropoutNd

from paceline.exporters.algebra import ConvForm, MergeError, conv_form, fold_batchnorm, identity_form
from paceline.exporters.algebra_chains import average_pool_form, padding_form
from paceline.exporters.merge_values import Values, arguments
from paceline.exporters.traced import has_hooks, is_plain, is_sum

Layout = Literal["image", "rows", "any"]
"""What a layer reads: (N, C, H, W), features on the last axis, or either."""

_PADS = (nn.ZeroPad2d, nn.ConstantPad2d, nn.ReflectionPad2d, nn.ReplicationPad2d, nn.CircularPad2d)
_SCALES = (operator.mul, operator.imul, torch.mul, "mul", "mul_")
_SHIFTS = (operator.add, operator.iadd, torch.add, "add", "add_")
_UNSHIFTS = (operator.sub, operator.isub, torch.sub, "sub", "sub_")
_UNSCALES = (operator.truediv, operator.itruediv, torch.div, torch.true_divide, "div", "div_")
_IN_PLACE = (operator.iadd, operator.isub, operator.imul, operator.itruediv)
_DROPOUTS = (functional.dropout, functional.dropout1d, functional.dropout2d, functional.dropout3d)
_ASSERTIONS = ("_assert", "_assert_async")


@dataclass(frozen=True, eq=False)
class Layer:
    """A node that is linear in one value. `read`; a form of one channel stands for every channel where `uniform`."""

    node: fx.Node
    read: fx.Node
    form: ConvForm
    words: str
    path: str
    """The module, or the one that holds the weights, or the name of the node."""
    kind: Literal["conv", "pool", "affine", "pad"]
    layout: Layout = "image"
    uniform: bool = False
    weight: Tensor | None = None
    """For its type and device."""
    params: int = 0

    @property
    def in_place(self) -> bool:
        """Whether it writes into what it reads."""
        return self.node.target in _IN_PLACE or str(self.node.target).endswith("_")


class LayerReader:
    """Reads the nodes of one network in evaluation."""

    def __init__(self, network: fx.GraphModule) -> None:
        self.values = Values(network)
        self.modules = self.values.modules

    def layer(self, node: fx.Node) -> Layer | None:
        """The linear layer that a node is, None for any other. Raises MergeError for one that no kernel computes exactly."""
        if node.op == "call_module":
            module = self.modules[str(node.target)]
            if len(node.args) != 1 or node.kwargs or not isinstance(node.args[0], fx.Node) or has_hooks(module):
                return None
            return self._module(node, node.args[0], module, str(node.target))
        if node.op in ("call_function", "call_method"):
            return self._function(node)
        return None

    def vanishes(self, node: fx.Node) -> bool:
        """Whether a node does nothing in evaluation: an identity, a dropout."""
        if node.target in _DROPOUTS:
            return arguments(node, {"input": None, "p": 0.5, "training": True})["training"] is False
        module = self.modules.get(str(node.target)) if node.op == "call_module" else None
        return isinstance(module, nn.Identity | _DropoutNd) and not has_hooks(module)

    def is_idle(self, node: fx.Node) -> bool:
        """Whether a node only checks something, or only reads a shape or a type that nobody uses."""
        if node.users or node.op != "call_function":
            return False
        return node.target in (getattr, operator.eq) or getattr(node.target, "__name__", "") in _ASSERTIONS

    def check(self, node: fx.Node) -> None:
        """Raises MergeError for a BatchNorm that has no statistics: such a network can't run on single images."""
        module = self.modules.get(str(node.target)) if node.op == "call_module" else None
        if isinstance(module, _BatchNorm) and module.running_mean is None:
            raise MergeError(
                f"BatchNorm {node.target!r} keeps no running statistics: it normalises by the batch it sees, which no kernel "
                "can. Build it with track_running_stats=True and run some training batches through it"
            )

    def words(self, node: fx.Node) -> str:
        """What a node is, for people."""
        if node.op == "call_module":
            return f"{type(self.modules[str(node.target)]).__name__} {node.target}"
        return f"{getattr(node.target, '__name__', node.target)}()"

    def _module(self, node: fx.Node, read: fx.Node, module: nn.Module, path: str) -> Layer | None:
        params = sum(p.numel() for p in module.parameters())
        if is_plain(module, nn.Conv2d):
            form = conv_form(module)  # type: ignore[arg-type]
            return Layer(node, read, form, conv_words(form, path), path, "conv", "image", False, module.weight, params)  # type: ignore[arg-type]
        if is_plain(module, nn.Linear):
            form = _linear_form(module.weight, module.bias)  # type: ignore[arg-type]
            return Layer(node, read, form, f"linear {path}", path, "conv", "rows", False, module.weight, params)  # type: ignore[arg-type]
        rows = is_plain(module, nn.BatchNorm1d)
        if rows and not self.values.is_matrix(read):
            raise MergeError("a BatchNorm1d of what may have more than two axes normalises the second, not the features")
        if rows or is_plain(module, nn.BatchNorm2d) or is_plain(module, nn.SyncBatchNorm):
            assert isinstance(module, _BatchNorm)
            form = fold_batchnorm(identity_form(module.num_features), module)
            layout: Layout = "rows" if rows else "image"
            return Layer(node, read, form, f"BatchNorm {path}", path, "affine", layout, False, module.weight, params)
        if type(module) is nn.AvgPool2d:
            size = _pair(module.kernel_size)
            stride = _pair(module.stride) if module.stride is not None else size
            form = average_pool_form(
                size, stride, _pair(module.padding), module.ceil_mode, module.count_include_pad, module.divisor_override
            )
            return Layer(node, read, form, _pool_words(form, path), path, "pool", uniform=True)
        if type(module) in _PADS:
            kind = {nn.ReflectionPad2d: "reflect", nn.ReplicationPad2d: "replicate", nn.CircularPad2d: "circular"}
            form = _padding(module.padding, kind.get(type(module), "constant"), getattr(module, "value", 0.0))
            return Layer(node, read, form, f"padding {path}", path, "pad", uniform=True)
        return None

    def _function(self, node: fx.Node) -> Layer | None:
        target = node.target
        if target in (functional.conv2d, torch.conv2d):
            return self._conv(node)
        if target in (functional.linear,):
            given = arguments(node, {"input": None, "weight": None, "bias": None})
            weight, bias = self._value(given["weight"]), self._value(given["bias"])
            if not isinstance(given["input"], fx.Node) or weight is None or weight.ndim != 2:
                return None
            path, held = self.values.holder(given["weight"], node)
            form = _linear_form(weight, bias)
            return Layer(node, given["input"], form, f"linear {path}", path, "conv", "rows", False, held, _numbers(form))
        if target in (functional.batch_norm,):
            return self._batch_norm(node)
        if target in (functional.avg_pool2d, torch._C._nn.avg_pool2d):
            return self._pool(node)
        if target in (functional.pad, torch._C._nn.pad):
            given = arguments(node, {"input": None, "pad": None, "mode": "constant", "value": None})
            if not isinstance(given["input"], fx.Node) or not _whole(given["pad"]):
                return None
            form = _padding(given["pad"], given["mode"], given["value"] or 0.0)
            return Layer(node, given["input"], form, f"padding {node.name}", node.name, "pad", uniform=True)
        if target in (*_SCALES, *_SHIFTS, *_UNSHIFTS, *_UNSCALES, operator.neg, torch.neg, "neg"):
            return self._affine(node)
        return None

    def _conv(self, node: fx.Node) -> Layer | None:
        defaults = {"input": None, "weight": None, "bias": None, "stride": 1, "padding": 0, "dilation": 1, "groups": 1}
        given = arguments(node, defaults)
        weight, bias = self._value(given["weight"]), self._value(given["bias"])
        settings = [given[name] for name in ("stride", "padding", "dilation", "groups")]
        if not isinstance(given["input"], fx.Node) or weight is None or (bias is None and given["bias"] is not None):
            return None
        if not all(_whole(s) for s in settings):
            return None
        shift = weight.new_zeros(len(weight)) if bias is None else bias
        form = ConvForm(weight, shift, _pair(settings[0]), _pair(settings[1]), _pair(settings[2]), settings[3])
        path, held = self.values.holder(given["weight"], node)
        return Layer(node, given["input"], form, conv_words(form, path), path, "conv", "image", False, held, _numbers(form))

    def _batch_norm(self, node: fx.Node) -> Layer | None:
        names = ("input", "running_mean", "running_var", "weight", "bias")
        given = arguments(node, {**dict.fromkeys(names), "training": False, "momentum": 0.1, "eps": 1e-5})
        values = [self._value(given[name]) for name in names[1:]]
        if not isinstance(given["input"], fx.Node) or not isinstance(given["eps"], float | int):
            return None
        if given["training"] is not False or values[0] is None or values[1] is None:
            raise MergeError("batch_norm() normalises by the batch it sees, which no kernel can: give it running statistics")
        norm = nn.BatchNorm2d(len(values[0]), eps=given["eps"], device="meta").eval()
        norm.running_mean, norm.running_var = values[0], values[1]
        norm.weight, norm.bias = (None if v is None else nn.Parameter(v, requires_grad=False) for v in values[2:])  # type: ignore[assignment]
        path, held = self.values.holder(given["running_mean"], node)
        form = fold_batchnorm(identity_form(len(values[0])), norm)
        params = sum(v.numel() for v in values[2:] if v is not None)
        if self.values.is_matrix(given["input"]):
            return None
        return Layer(node, given["input"], form, f"BatchNorm {path}", path, "affine", "image", False, held, params)

    def _pool(self, node: fx.Node) -> Layer | None:
        defaults = {"stride": None, "padding": 0, "ceil_mode": False, "count_include_pad": True, "divisor_override": None}
        given = arguments(node, {"input": None, "kernel_size": None, **defaults})
        size, stride = given["kernel_size"], given["stride"] or given["kernel_size"]
        if not isinstance(given["input"], fx.Node) or not all(_whole(s) for s in (size, stride, given["padding"])):
            return None
        rest = given["ceil_mode"], given["count_include_pad"], given["divisor_override"]
        form = average_pool_form(_pair(size), _pair(stride), _pair(given["padding"]), *rest)
        return Layer(node, given["input"], form, _pool_words(form, node.name), node.name, "pool", uniform=True)

    def _affine(self, node: fx.Node) -> Layer | None:
        """A value times or plus a constant: one number, or one for each channel."""
        negated = node.target in (operator.neg, torch.neg, "neg")
        if node.kwargs or len(node.args) != (1 if negated else 2):
            return None
        first, second = node.args[0], -1.0 if negated else node.args[1]
        if is_sum(node) and not (isinstance(first, fx.Node) and isinstance(second, fx.Node)):
            return None  # plus 0, as Python's sum() begins
        commutes = node.target in (*_SCALES, *_SHIFTS)
        constant = self._number(second)
        if constant is None and commutes:
            first, second, constant = second, first, self._number(first)
        if constant is None or not isinstance(first, fx.Node) or self._number(first) is not None:
            return None
        per_channel = _per_channel(constant)
        if per_channel is None:
            return None
        values, layout = per_channel
        one, zero = torch.ones_like(values), torch.zeros_like(values)
        if negated or node.target in _SCALES:
            factor, shift, word = values, zero, "scale"
        elif node.target in _UNSCALES:
            factor, shift, word = 1 / values, zero, "scale"
        elif node.target in _UNSHIFTS:
            factor, shift, word = one, -values, "shift"
        else:
            factor, shift, word = one, values, "shift"
        form = ConvForm(factor.view(-1, 1, 1, 1), shift, groups=len(values))
        path, held = self.values.holder(second, node)
        params = values.numel() if isinstance(held, nn.Parameter) else 0
        return Layer(node, first, form, f"{word} {path}", path, "affine", layout, len(values) == 1, held, params)

    def _number(self, value: object) -> Tensor | None:
        if isinstance(value, fx.Node):
            return self.values.constant(value)
        return torch.tensor(float(value), dtype=torch.float64) if type(value) in (int, float) else None  # type: ignore[arg-type]

    def _value(self, value: object) -> Tensor | None:
        return self.values.constant(value) if isinstance(value, fx.Node) else None


def conv_words(form: ConvForm, path: str) -> str:
    grouped = "" if form.groups == 1 else "depthwise " if form.groups == form.in_channels else f"{form.groups}-group "
    return f"{form.size[0]}x{form.size[1]} {grouped}conv {path}"


def _pool_words(form: ConvForm, path: str) -> str:
    return f"{form.size[0]}x{form.size[1]} average pool {path}"


def _linear_form(weight: Tensor, bias: Tensor | None) -> ConvForm:
    kernel = weight.detach().double()[:, :, None, None]
    return ConvForm(kernel, kernel.new_zeros(len(kernel)) if bias is None else bias.detach().double())


def _per_channel(constant: Tensor) -> tuple[Tensor, Layout] | None:
    """A constant that is broadcast over positions, and of what; None for others."""
    if not constant.is_floating_point():
        return None
    shape = constant.shape
    if math.prod(shape) == 1 and len(shape) <= 4:
        return constant.reshape(1), "any" if len(shape) <= 2 else "image"
    if len(shape) in (3, 4) and shape[-2:] == (1, 1) and shape[:-3] in ((), (1,)):
        return constant.flatten(), "image"
    if len(shape) == 1 or (len(shape) == 2 and shape[0] == 1):
        return constant.flatten(), "rows"
    return None


def _padding(amounts: object, mode: str, value: float) -> ConvForm:
    sides = (amounts,) * 4 if isinstance(amounts, int) else tuple(amounts)  # type: ignore[arg-type]
    left, right, top, bottom = sides if len(sides) == 4 else (*sides, 0, 0) if len(sides) == 2 else (0, 1, 0, 1)
    if (left, top) != (right, bottom) or min(left, top) < 0:
        raise MergeError(f"padding {sides} is not alike on both sides, as a convolution's is")
    return padding_form((top, left), mode, value)


def _whole(value: object) -> bool:
    return isinstance(value, int) or (isinstance(value, tuple | list) and all(isinstance(v, int) for v in value))


def _pair(value: int | tuple[int, ...]) -> tuple[int, int]:
    return (value, value) if isinstance(value, int) else (value[0], value[-1])


def _numbers(form: ConvForm) -> int:
    return form.kernel.numel() + int(bool(form.bias.any())) * form.bias.numel()
