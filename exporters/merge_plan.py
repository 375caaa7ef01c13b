"""What a linear region becomes by decisions about every merge in it: convolutions, sums and concatenations."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Literal

import torch
from torch import fx

from paceline.exporters.algebra import ConvForm, MergeError, add, added_macs, check_add
from paceline.exporters.algebra_chains import check_compose, compose, composed_macs, concat, densify, repeat
from paceline.exporters.merge_layers import Layer
from paceline.exporters.merge_regions import Concat, Linear, Refusal, Sum

LARGEST_GROWTH = 10
"""Merges that need more than this many times the multiply-accumulates of what they replace are no option on any device."""

Kind = Literal["chain", "parallel", "concat", "dense"]


@dataclass(frozen=True)
class Decision:
    """One merge of a region: its name, kind and layers, and the term of a sum in which it lies (or that it adds)."""

    name: str
    kind: Kind
    layers: tuple[str, ...]
    within: str = ""


@dataclass(frozen=True, eq=False)
class Conv:
    """Layers that become one convolution of `input`; without a layer that has weights they stay as they are."""

    input: Part | fx.Node
    name: str
    """In decisions: its last layer with weights, of a sum the largest."""
    form: ConvForm
    layers: tuple[Layer, ...] = ()
    joints: tuple[fx.Node, ...] = ()
    """Additions and concatenations that it takes in."""
    branches: tuple[str, ...] = ()
    uniform: bool = False

    @property
    def convs(self) -> tuple[Layer, ...]:
        return tuple(layer for layer in self.layers if layer.kind == "conv")

    @property
    def is_conv(self) -> bool:
        """Whether it is a convolution; else it stays what it is: a norm, a scale, a padding, a pool."""
        return bool(self.convs) or len(self.branches) > 1

    @property
    def stays(self) -> bool:
        """Whether its layers are kept as they are."""
        return not self.is_conv or (len(self.layers) == 1 and self.form is self.layers[0].form)

    @property
    def weightless(self) -> bool:
        """Whether it only scales, shifts or pads, so that another layer takes it in at no cost."""
        return all(layer.kind in ("affine", "pad") for layer in self.layers)


@dataclass(frozen=True, eq=False)
class Added:
    """A sum of what did not become one; `changed` where some of its terms were united."""

    additions: tuple[fx.Node, ...]
    terms: tuple[tuple[int, Part | fx.Node], ...]
    changed: bool


@dataclass(frozen=True, eq=False)
class Concatenated:
    """A concatenation of what did not become one."""

    node: fx.Node
    terms: tuple[Part | fx.Node, ...]
    changed: bool


Part = Conv | Added | Concatenated
Choose = Callable[[Decision], bool]


@dataclass
class Planner:
    """Plans regions. `offered` are the exact merges it came across, `refused` those that are not exact."""

    choose: Choose
    offered: dict[str, Decision] = field(default_factory=dict)
    refused: dict[str, Refusal] = field(default_factory=dict)
    _known: dict[Linear, Part | fx.Node] = field(default_factory=dict)
    _within: str = ""

    def plan(self, region: Linear) -> Part | fx.Node:
        """What computes the region's value."""
        if region not in self._known:  # a value that is added twice is computed once
            self._known[region] = self._chain(region)
        return self._known[region]

    def _chain(self, region: Linear) -> Part | fx.Node:
        at: Part | fx.Node
        if isinstance(region.start, Sum):
            at = self._sum(region.start)
        elif isinstance(region.start, Concat):
            at = self._concat(region.start)
        else:
            at = region.start
        for layer in region.layers:
            at = self._linked(at, Conv(at, layer.path, self._form(layer), (layer,), (), (layer.words,), layer.uniform))
        return at

    def _form(self, layer: Layer) -> ConvForm:
        groups = layer.form.groups
        if layer.kind != "conv" or groups in (1, layer.form.in_channels) or groups > LARGEST_GROWTH:
            return layer.form
        wanted = self._decide(Decision(f"dense {layer.path}", "dense", (layer.words,), self._within))
        return densify(layer.form) if wanted else layer.form

    def _linked(self, at: Part | fx.Node, layer: Conv) -> Conv:
        """A layer behind what comes before it: one convolution with it, or by itself."""
        if not isinstance(at, Conv):
            return layer
        name = f"{at.name} > {layer.name}"
        folds = layer.weightless or at.weightless
        try:
            first, second = _alike(at, layer)
            check_compose(first, second)
        except MergeError as e:
            self.refused[name] = Refusal(name, str(e))
            return layer
        if composed_macs(first, second) > LARGEST_GROWTH * (first.macs + second.macs):
            return layer
        if not folds and not self._decide(Decision(name, "chain", (*at.branches, *layer.branches), self._within)):
            return layer
        words = tuple(f"{branch} {'+' if folds else '>'} {layer.branches[0]}" for branch in at.branches)
        last = at.name if at.convs and not layer.convs else layer.name
        layers, uniform = (*at.layers, *layer.layers), at.uniform and layer.uniform
        return Conv(at.input, last, compose(first, second), layers, at.joints, words, uniform)

    def _sum(self, region: Sum) -> Part:
        parts = [(sign, self._term(term), _key(term)) for sign, term in region.terms]
        inputs = {part.input for _, part, _ in parts if isinstance(part, Conv) and not part.weightless}
        branches: list[tuple[int, Conv, str]] = []
        rest: list[tuple[int, Part | fx.Node]] = []
        for sign, part, key in parts:
            if isinstance(part, Conv) and part.input in inputs:
                branches.append((sign, part, key))
            elif isinstance(part, fx.Node) and part in inputs:
                branches.append((sign, Conv(part, "identity", _IDENTITY, branches=("identity",), uniform=True), key))
            else:
                rest.append((sign, part))
        # Convolutions first and the densest before all: it hosts what can be expanded for nothing.
        branches.sort(key=lambda b: (not b[1].convs, b[1].weightless, -b[1].form.macs))
        united: list[tuple[int, Conv]] = []
        for sign, branch, key in branches:
            for i, host in enumerate(united):
                both = self._joined(*host, sign, branch, key)
                if both is not None:
                    united[i] = (1, both)
                    break
            else:
                united.append((sign, branch))
        if len(united) == 1 and len(branches) > 1 and not rest:
            return replace(united[0][1], joints=(*united[0][1].joints, *region.additions))
        left = [(sign, part if part.layers else part.input) for sign, part in united]
        return Added(region.additions, (*left, *rest), len(united) < len(branches))

    def _joined(self, host_sign: int, host: Conv, sign: int, branch: Conv, key: str) -> Conv | None:
        """Two terms of a sum as one convolution."""
        if host.input is not branch.input or host.weightless or (host.uniform and branch.uniform):
            return None
        name = f"{host.name} + {branch.name}"
        try:
            a, b = _alike(host, branch)
            check_add(a, b)
        except MergeError as e:
            self.refused[name] = Refusal(name, str(e))
            return None
        if added_macs(a, b) > LARGEST_GROWTH * (a.macs + b.macs):
            return None
        decision = Decision(name, "parallel", (host.branches[0], *branch.branches), self._within or key)
        taken = branch.weightless and host.is_conv
        if not taken and not self._decide(decision):
            return None
        both = add(_signed(a, host_sign), _signed(b, sign))
        words = (*_signed_words(host, host_sign), *_signed_words(branch, sign))
        return Conv(host.input, host.name, both, (*host.layers, *branch.layers), (*host.joints, *branch.joints), words)

    def _concat(self, region: Concat) -> Part:
        parts: list[Part | fx.Node] = []
        for term in region.terms:
            part = self._term(term)
            both = self._beside(parts[-1], part) if parts else None
            parts = [*parts[:-1], both] if both is not None else [*parts, part]
        if len(parts) == 1 and isinstance(parts[0], Conv):
            return replace(parts[0], joints=(*parts[0].joints, region.node))
        return Concatenated(region.node, tuple(parts), len(parts) < len(region.terms))

    def _beside(self, a: Part | fx.Node, b: Part | fx.Node) -> Conv | None:
        """Two neighbours in a concatenation as one convolution."""
        if not isinstance(a, Conv) or not isinstance(b, Conv) or a.input is not b.input or not (a.convs and b.convs):
            return None
        name = f"{a.name} | {b.name}"
        try:
            both = concat([a.form, b.form])
        except MergeError as e:
            self.refused[name] = Refusal(name, str(e))
            return None
        if both.macs > LARGEST_GROWTH * (a.form.macs + b.form.macs):
            return None
        if not self._decide(Decision(name, "concat", (*a.branches, *b.branches), self._within)):
            return None
        return Conv(a.input, b.name, both, (*a.layers, *b.layers), (*a.joints, *b.joints), (*a.branches, *b.branches))

    def _term(self, term: Linear) -> Part | fx.Node:
        outer = self._within
        self._within = outer or _key(term)
        try:
            return self.plan(term)
        finally:
            self._within = outer

    def _decide(self, decision: Decision) -> bool:
        self.offered[decision.name] = decision
        return self.choose(decision)


def _key(term: Linear) -> str:
    """Tells the terms of a sum apart."""
    return term.heavy[0].path if term.heavy else ""


def _alike(a: Conv, b: Conv) -> tuple[ConvForm, ConvForm]:
    """Both forms, one of a single channel repeated for as many as the other reads or gives."""
    if a.uniform and not b.uniform:
        return repeat(a.form, b.form.in_channels), b.form
    if b.uniform and not a.uniform:
        return a.form, repeat(b.form, a.form.out_channels)
    return a.form, b.form


def _signed(form: ConvForm, sign: int) -> ConvForm:
    return form if sign > 0 else replace(form, kernel=-form.kernel, bias=-form.bias)


def _signed_words(part: Conv, sign: int) -> tuple[str, ...]:
    return part.branches if sign > 0 else tuple(f"minus {branch}" for branch in part.branches)


_ONE = torch.ones(1, 1, 1, 1, dtype=torch.float64)
_IDENTITY = ConvForm(_ONE, torch.zeros(1, dtype=torch.float64))
