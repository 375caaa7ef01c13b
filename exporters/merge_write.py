"""Writes planned regions into a traced network."""

from __future__ import annotations

import itertools
import operator
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch
from torch import fx

from paceline.exporters.algebra import MergeError, to_conv, to_linear
from paceline.exporters.merge_plan import Added, Concatenated, Conv, Part
from paceline.exporters.merge_regions import Linear, Regions


@dataclass(frozen=True)
class Merge:
    """One place that became a single convolution: `name` is the module path of that convolution in the merged network."""

    name: str
    branches: tuple[str, ...]
    """What was merged, one text for each branch of a sum, with module paths."""
    layers: tuple[str, ...]
    """The module paths of the layers with weights among it."""
    params_before: int
    params_after: int


class Writer:
    """Changes the graph of one network, region by region in execution order."""

    def __init__(self, network: fx.GraphModule, regions: Regions) -> None:
        self.network, self.order, self.reader = network, regions.order, regions.reader
        self.calls = Counter(node.target for node in regions.nodes if node.op == "call_module")
        self.merges: dict[tuple[tuple[str, ...], tuple[str, ...]], tuple[int, Merge]] = {}
        self._written: dict[Conv, fx.Node] = {}
        self._instead: dict[fx.Node, fx.Node] = {}

    @property
    def report(self) -> tuple[Merge, ...]:
        """What was merged, in execution order."""
        return tuple(merge for _, merge in sorted(self.merges.values(), key=lambda placed: placed[0]))

    def write(self, region: Linear, part: Part | fx.Node) -> None:
        """Puts `part` in the place of a region and erases what it replaces."""
        self._value(part)
        for node in sorted(set(region.nodes), key=self.order.__getitem__, reverse=True):
            if not node.users:
                self._erase(node)

    def _value(self, part: Part | fx.Node) -> fx.Node:
        """The node that gives a part's value."""
        if isinstance(part, fx.Node):
            while part in self._instead:
                part = self._instead[part]
            return part
        if isinstance(part, Conv):
            if part not in self._written:
                self._written[part] = self._conv(part)
            return self._written[part]
        return self._added(part) if isinstance(part, Added) else self._concatenated(part)

    def _conv(self, part: Conv) -> fx.Node:
        read = self._value(part.input)
        nodes = sorted([*(layer.node for layer in part.layers), *part.joints], key=self.order.__getitem__)
        if part.stays:
            return nodes[-1]
        # Where the first of its nodes was: what it reads may be changed in place later.
        key = (
            part.branches,
            tuple(str(layer.node.target if layer.node.op == "call_module" else layer.node) for layer in part.layers),
        )
        if key not in self.merges:  # a layer that is called twice is merged once
            self.merges[key] = self.order[nodes[0]], self._build(part)
        with self.network.graph.inserting_before(nodes[0]):
            new = self.network.graph.call_module(self.merges[key][1].name, (read,))
        return self._replace(nodes[-1], new)

    def _added(self, part: Added) -> fx.Node:
        root = part.additions[-1]
        terms = [(sign, self._value(term)) for sign, term in part.terms]
        if not part.changed:
            return root
        terms.sort(key=lambda term: -term[0])
        (sign, total), *others = terms
        with self.network.graph.inserting_before(root):
            total = total if sign > 0 else self.network.graph.call_function(operator.neg, (total,))
            for sign, other in others:
                total = self.network.graph.call_function(operator.add if sign > 0 else operator.sub, (total, other))
        return self._replace(root, total)

    def _concatenated(self, part: Concatenated) -> fx.Node:
        values = [self._value(term) for term in part.terms]
        if not part.changed:
            return part.node
        with self.network.graph.inserting_before(part.node):
            return self._replace(part.node, self.network.graph.call_function(torch.cat, (values, 1)))

    def _replace(self, old: fx.Node, new: fx.Node) -> fx.Node:
        old.replace_all_uses_with(new)
        self._instead[old] = new
        return new

    def _build(self, part: Conv) -> Merge:
        name = self._name([layer.path for layer in part.convs or part.layers])
        like = next((layer.weight for layer in part.layers if layer.weight is not None), torch.empty(0))
        make = to_linear if any(layer.layout == "rows" for layer in part.layers) else to_conv
        try:
            conv = make(part.form, like.dtype, like.device)
        except MergeError as e:
            raise MergeError(f"{name!r}, merged from {'; '.join(part.branches)}: {e}") from e
        self.network.add_submodule(name, conv)
        self.reader.modules[name] = conv
        before = {layer.words: layer.params for layer in part.layers}
        layers = tuple(dict.fromkeys(layer.path for layer in part.convs))
        return Merge(name, part.branches, layers, sum(before.values()), sum(p.numel() for p in conv.parameters()))

    def _name(self, paths: Sequence[str]) -> str:
        """A folded convolution keeps its path; several become `merged` in the module that holds them all."""
        if len(paths) == 1 and self.calls[paths[0]] == 1:
            return paths[0]
        parents = itertools.takewhile(lambda at: len(set(at)) == 1, zip(*(path.split(".")[:-1] for path in paths), strict=False))
        wanted = ".".join([*(at[0] for at in parents), "merged"])
        numbered = (f"{wanted}_{i}" for i in itertools.count(1))
        return next(name for name in itertools.chain([wanted], numbered) if name not in self.reader.modules)

    def _erase(self, node: fx.Node) -> None:
        """Erases a node, and the constants that only it read."""
        inputs: Iterable[fx.Node] = list(node.all_input_nodes)
        self.network.graph.erase_node(node)
        for value in inputs:
            if not value.users and self.reader.values.constant(value) is not None:
                self._erase(value)
