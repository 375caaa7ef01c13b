"""Layers of the largest width, of which a path computes the first channels."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from paceline.arch import Arch
from paceline.errors import SpaceError
from paceline.pipeline.supernet.mixed import OnPath, Path
from paceline.pipeline.supernet.widths import Channels, Width


class Elastic(OnPath):
    """A layer of the largest width that computes its first outputs from its first inputs, as many channels as the path says.

    Along the path of one architecture it is the narrow layer, at the cost of that. Along a relaxed path it computes the widest
    option that has a weight; where a layer mixes channels, its input channels count with their mask (`Channels.now`). So each
    tensor is masked once on its way into each convolution, and BatchNorm, activations and depthwise convolutions need no mask.
    The gradient reaches the channels that are used, and is zero for the others.
    """

    c_in: Channels
    c_out: Channels

    def refer_to(self, c_in: Channels, c_out: Channels) -> None:
        """Sets the channels; their widths become part of this module, and so of the network that it is in."""
        self.c_in, self.c_out = c_in, c_out
        self.widths = nn.ModuleList(dict.fromkeys((*c_in.widths, *c_out.widths)))

    def take(self, weights: Path) -> None:
        """Nothing to set: its widths know."""

    def input_channels(self, given: int) -> tuple[int, Tensor | None]:
        """`Channels.now` of the input. Raises SpaceError where the input has another number of channels than the widths say."""
        number, mask = self.c_in.now()
        if given != number:
            names = ", ".join(width.choice.name for width in self.c_in.widths) or "no choice"
            raise SpaceError(
                f"{type(self).__name__} got {given} channels, its input has {number} on this path ({names} decides that); "
                "what writes a tensor and what reads it must refer to the same Width"
            )
        return number, mask


class ElasticConv2d(Elastic, nn.Conv2d):
    """A convolution with elastic channels. It takes over the parameters of `conv`, the one of the largest width.

    Raises SpaceError for groups other than depthwise: the channels of a group would change with the width.
    """

    def __init__(self, conv: nn.Conv2d, c_in: Channels, c_out: Channels) -> None:
        depthwise = conv.groups == conv.in_channels == conv.out_channels
        if conv.padding_mode != "zeros" or not (depthwise or conv.groups == 1):
            raise SpaceError(f"can't make {conv} elastic: only zero padding, and one group or depthwise")
        super().__init__(conv.in_channels, conv.out_channels, **_geometry(conv), groups=conv.groups, bias=False, device="meta")
        self.weight, self.bias = conv.weight, conv.bias
        self.refer_to(c_in, c_in if depthwise else c_out)

    def forward(self, x: Tensor) -> Tensor:
        n_in, mask = self.input_channels(x.shape[1])
        n_out = n_in if self.c_out is self.c_in else self.c_out.now()[0]
        weight, bias, groups = self._narrow(n_in, n_out)
        if mask is not None and groups == 1:
            weight = weight * mask.to(weight)[:, None, None]
        return functional.conv2d(x, weight, bias, self.stride, self.padding, self.dilation, groups)

    def chosen(self, arch: Arch) -> nn.Module:
        n_in, n_out = self.c_in.at(arch), self.c_out.at(arch)
        weight, bias, groups = self._narrow(n_in, n_out)
        plain = nn.Conv2d(n_in, n_out, **_geometry(self), groups=groups, bias=False, device="meta")
        plain.weight, plain.bias = _parameter(weight), None if bias is None else _parameter(bias)
        return plain.train(self.training)

    def _narrow(self, n_in: int, n_out: int) -> tuple[Tensor, Tensor | None, int]:
        """Weight, bias, groups."""
        bias = None if self.bias is None else _first(self.bias, n_out)
        if self.groups > 1:
            return _first(self.weight, n_out), bias, n_out
        return _first(_first(self.weight, n_out), n_in, dim=1), bias, 1


class ElasticLinear(Elastic, nn.Linear):
    """A linear layer with elastic features, the last dimension. It takes over the parameters of `linear`, the largest one."""

    def __init__(self, linear: nn.Linear, c_in: Channels, c_out: Channels) -> None:
        super().__init__(linear.in_features, linear.out_features, bias=False, device="meta")
        self.weight, self.bias = linear.weight, linear.bias
        self.refer_to(c_in, c_out)

    def forward(self, x: Tensor) -> Tensor:
        n_in, mask = self.input_channels(x.shape[-1])
        weight, bias = self._narrow(n_in, self.c_out.now()[0])
        return functional.linear(x, weight if mask is None else weight * mask.to(weight), bias)

    def chosen(self, arch: Arch) -> nn.Module:
        n_in, n_out = self.c_in.at(arch), self.c_out.at(arch)
        weight, bias = self._narrow(n_in, n_out)
        plain = nn.Linear(n_in, n_out, bias=False, device="meta")
        plain.weight = _parameter(weight)
        plain.register_parameter("bias", None if bias is None else _parameter(bias))
        return plain.train(self.training)

    def _narrow(self, n_in: int, n_out: int) -> tuple[Tensor, Tensor | None]:
        """Weight, bias."""
        return _first(_first(self.weight, n_out), n_in, dim=1), None if self.bias is None else _first(self.bias, n_out)


class ElasticBatchNorm2d(Elastic, nn.BatchNorm2d):
    """A BatchNorm whose first channels have the statistics and the affine parameters of the path. It takes over those of `norm`.

    Widths share them, so the running statistics are those of no single width: recalibrate for the one that counts.
    Raises SpaceError for a norm without statistics or affine parameters.
    """

    running_mean: Tensor
    running_var: Tensor
    num_batches_tracked: Tensor

    def __init__(self, norm: nn.BatchNorm2d, c_in: Channels, c_out: Channels) -> None:
        if not norm.track_running_stats or not norm.affine:
            raise SpaceError(f"can't make {norm} elastic: it needs running statistics and affine parameters")
        super().__init__(norm.num_features, norm.eps, norm.momentum, device="meta")
        for name, values in (*norm.named_parameters(), *norm.named_buffers()):
            setattr(self, name, values)
        self.refer_to(c_in, c_in)

    def forward(self, x: Tensor) -> Tensor:
        n, _ = self.input_channels(x.shape[1])
        momentum = self.momentum
        if self.training:
            self.num_batches_tracked.add_(1)
            if momentum is None:  # torch: cumulative average
                momentum = 1.0 / float(self.num_batches_tracked)
        mean, var, weight, bias = self._narrow(n)
        return functional.batch_norm(x, mean, var, weight, bias, self.training, momentum or 0.0, self.eps)

    def chosen(self, arch: Arch) -> nn.Module:
        n = self.c_in.at(arch)
        mean, var, weight, bias = self._narrow(n)
        plain = nn.BatchNorm2d(n, self.eps, self.momentum, device="meta")
        plain.weight, plain.bias = _parameter(weight), _parameter(bias)
        plain.running_mean, plain.running_var, plain.num_batches_tracked = mean, var, self.num_batches_tracked
        return plain.train(self.training)

    def reset_running_stats(self) -> None:
        """Of the channels on the current path, outside of one of all."""
        used = self.c_in.now()[0] if hasattr(self, "c_in") and all(w.taken for w in self.c_in.widths) else self.num_features
        self.running_mean[:used].zero_()
        self.running_var[:used].fill_(1)
        self.num_batches_tracked.zero_()

    def _narrow(self, n: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Running mean and variance, scale, shift."""
        return _first(self.running_mean, n), _first(self.running_var, n), _first(self.weight, n), _first(self.bias, n)


_ELASTIC: Mapping[type[nn.Module], Callable[..., Elastic]] = {
    nn.Conv2d: ElasticConv2d,
    nn.Linear: ElasticLinear,
    nn.BatchNorm2d: ElasticBatchNorm2d,
}


def elastic(build: Callable[..., nn.Module], *widths: Width) -> nn.Module:
    """`build(*numbers)` for the largest number of each width, its layers elastic where their channels follow from the widths.

    Along a path it computes what `build` of the chosen numbers with the first channels of its weights computes. All combinations
    of numbers are built once, without weights, to see how the channels of each layer follow; nothing else may change with them.
    Example: `elastic(lambda c_in, e, c_out: MBConv(c_in, c_out, 3, 2, e), before, expansion, after)`.

    Raises SpaceError where the structure changes (a shortcut that only some widths allow, an expansion of 1 that leaves a
    convolution out), or a layer is of a kind that can't be elastic.
    """
    keys = list(itertools.product(*(width.choice.options for width in widths)))
    with torch.device("meta"):
        seen = {key: _parts(build(*(w.numbers[option] for w, option in zip(widths, key, strict=True)))) for key in keys}
    module = build(*(width.numbers[width.choice.options[-1]] for width in widths))
    for key in keys:
        _check_alike(_parts(module), seen[key], type(module).__name__, key)
    for name, part in _parts(module).items():
        c_in = _channels(widths, {key: parts[name].c_in for key, parts in seen.items()})
        c_out = _channels(widths, {key: parts[name].c_out for key, parts in seen.items()})
        if c_in.widths or c_out.widths:
            layer = _ELASTIC[type(part.module)](part.module, c_in, c_out)
            if not name:
                return layer
            parent, _, leaf = name.rpartition(".")
            module.get_submodule(parent).register_module(leaf, layer)
    return module


class _Part(NamedTuple):
    """A module of a block: what widths may change, its channels, and what they may not."""

    module: nn.Module
    c_in: int
    c_out: int
    rest: tuple[object, ...]


def _parts(block: nn.Module) -> dict[str, _Part]:
    return {name: _part(module) for name, module in block.named_modules()}


def _part(module: nn.Module) -> _Part:
    match module:
        case nn.Conv2d() if type(module) is nn.Conv2d:
            rest = (*_geometry(module).values(), module.groups > 1, module.bias is None)
            return _Part(module, module.in_channels, module.out_channels, rest)
        case nn.Linear() if type(module) is nn.Linear:
            return _Part(module, module.in_features, module.out_features, (module.bias is None,))
        case nn.BatchNorm2d() if type(module) is nn.BatchNorm2d:
            return _Part(module, module.num_features, module.num_features, ())
    plain = tuple((k, v) for k, v in vars(module).items() if isinstance(v, bool | int | float | str | tuple))
    shapes = tuple(tuple(p.shape) for p in (*module.parameters(recurse=False), *module.buffers(recurse=False)))
    return _Part(module, 0, 0, (type(module), *plain, *shapes))


def _check_alike(largest: Mapping[str, _Part], other: Mapping[str, _Part], block: str, options: tuple[str, ...]) -> None:
    strange = sorted(largest.keys() ^ other.keys()) or [name for name in largest if not _fits(other[name], largest[name])]
    if strange:
        raise SpaceError(
            f"{block} can't be elastic: at the widths {', '.join(options)} its part {strange[0] or 'itself'!r} differs from the "
            "largest in more than channels (a shortcut that only equal widths allow? a convolution that is left out?); give all "
            "of them the same structure"
        )


def _fits(part: _Part, largest: _Part) -> bool:
    return part.rest == largest.rest and part.c_in <= largest.c_in and part.c_out <= largest.c_out


def _channels(widths: tuple[Width, ...], counts: Mapping[tuple[str, ...], int]) -> Channels:
    """The same as a function of those widths only on which it depends."""
    for i in range(len(widths)):
        rest: dict[tuple[str, ...], set[int]] = {}
        for key, count in counts.items():
            rest.setdefault((*key[:i], *key[i + 1 :]), set()).add(count)
        if all(len(found) == 1 for found in rest.values()):
            return _channels((*widths[:i], *widths[i + 1 :]), {key: found.pop() for key, found in rest.items()})
    return Channels(widths, counts)


def _geometry(conv: nn.Conv2d) -> dict[str, Any]:
    return {"kernel_size": conv.kernel_size, "stride": conv.stride, "padding": conv.padding, "dilation": conv.dilation}


def _first(values: Tensor, n: int, dim: int = 0) -> Tensor:
    return values if values.shape[dim] == n else values.narrow(dim, 0, n)  # a slice of everything still costs a copy backwards


def _parameter(values: Tensor) -> nn.Parameter:
    return nn.Parameter(values.detach())
