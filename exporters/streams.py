"""Which values of a traced network share a basis of their channels, and what holds it.

Every value v may be kept in another basis, v = B v'. Sums, pools and flattening need one basis for what they read and what they
give. A dense convolution K passes from one to another, as B_out^-1 K B_in. Everything else needs its channels as they are.
"""

from __future__ import annotations

import torch
from scipy.cluster.hierarchy import DisjointSet
from torch import fx, nn
from torch.nn import functional

from paceline.exporters.traced import has_hooks, is_plain, is_sum, writes_in_place


class Streams:
    """The streams of a network: sets of values that share a basis, each named by one of them."""

    def __init__(self, network: fx.GraphModule) -> None:
        self.nodes: list[fx.Node] = list(network.graph.nodes)
        self.order = {node: i for i, node in enumerate(self.nodes)}
        self.modules: dict[str, nn.Module] = dict(network.named_modules())
        self._values = DisjointSet(self.nodes)
        self._held: dict[fx.Node, str] = {}
        self._find()
        self.held = {self._values[node]: why for node, why in reversed(self._held.items())}
        """Why a stream must keep its basis: for each the first reason in execution order."""

    def of(self, node: fx.Node) -> fx.Node:
        """The stream of a value."""
        stream: fx.Node = self._values[node]
        return stream

    def ends(self, node: fx.Node) -> set[fx.Node]:
        """The streams that a layer reads and gives."""
        return {self.of(node.all_input_nodes[0]), self.of(node)}

    def module(self, node: fx.Node) -> nn.Module | None:
        """The module that a node calls."""
        return self.modules[str(node.target)] if node.op == "call_module" else None

    def dense(self, node: fx.Node) -> nn.Conv2d | nn.Linear | None:
        """The layer that a node calls, if it mixes all channels linearly and nothing else."""
        module = self.module(node)
        if len(node.args) != 1 or node.kwargs or module is None:
            return None
        if isinstance(module, nn.Conv2d):
            return module if is_plain(module, nn.Conv2d) and module.groups == 1 else None
        return module if isinstance(module, nn.Linear) and is_plain(module, nn.Linear) else None

    def keeps_basis(self, node: fx.Node) -> bool:
        """Whether a node does the same linear thing to every channel by itself."""
        module = self.module(node)
        if module is not None:
            flatten = isinstance(module, nn.Flatten) and (module.start_dim, module.end_dim) == (1, -1)
            return (flatten or isinstance(module, nn.AvgPool2d | nn.AdaptiveAvgPool2d)) and not has_hooks(module)
        if node.target in (functional.adaptive_avg_pool2d, functional.avg_pool2d, "contiguous"):
            return True
        if node.target in (torch.flatten, "flatten"):
            return (_argument(node, 1, "start_dim", 0), _argument(node, 2, "end_dim", -1)) == (1, -1)
        return node.target in (torch.mean, "mean") and _over_image(_argument(node, 1, "dim", None))

    def words(self, node: fx.Node) -> str:
        """What a node is, for people."""
        if node.op in ("placeholder", "output"):
            return "the network's input" if node.op == "placeholder" else "the network's output"
        module = self.module(node)
        if module is None:
            return f"{getattr(node.target, '__name__', node.target)}()"
        return f"{type(module).__name__} {node.target!r}"

    def memory(self) -> DisjointSet:
        """Values that are, or might be, views of the same memory."""
        shared = DisjointSet(self.nodes)
        for node in self.nodes:
            module = self.module(node)
            fresh = is_sum(node) if module is None else not isinstance(module, nn.Flatten | nn.Identity)
            if node.all_input_nodes and (self.writes_in_place(node) or not fresh):
                shared.merge(node.all_input_nodes[0], node)
        return shared

    def writes_in_place(self, node: fx.Node) -> bool:
        """Whether a node changes the first value that it reads."""
        return writes_in_place(node, self.modules) and not self.keeps_basis(node)

    def _find(self) -> None:
        flat = set[fx.Node]()
        for node in self.nodes:
            inputs = node.all_input_nodes
            dense = self.dense(node)
            if is_sum(node) or (self.keeps_basis(node) and inputs[0] not in flat):
                for value in inputs:
                    self._values.merge(value, node)
                if inputs[0] in flat or _flattens(node, self.module(node)):
                    flat.add(node)
            elif isinstance(dense, nn.Linear) and inputs[0] in flat:
                self._held[node] = f"{self.words(node)} gives it"
            elif not (isinstance(dense, nn.Conv2d) or _reads_shape(node)):
                for value in inputs:
                    self._held.setdefault(value, f"{self.words(node)} reads it")
                self._held.setdefault(node, f"{self.words(node)} gives it")


def _argument(node: fx.Node, at: int, name: str, default: object) -> object:
    return node.args[at] if len(node.args) > at else node.kwargs.get(name, default)


def _over_image(dims: object) -> bool:
    """Whether a mean is over height and width."""
    return isinstance(dims, list | tuple) and sorted(dims) in ([2, 3], [-2, -1])


def _flattens(node: fx.Node, module: nn.Module | None) -> bool:
    if node.target in (torch.mean, "mean"):
        return not _argument(node, 2, "keepdim", False)
    return isinstance(module, nn.Flatten) or node.target in (torch.flatten, "flatten")


def _reads_shape(node: fx.Node) -> bool:
    return node.target == "size" or (node.target is getattr and node.args[1] in ("shape", "dtype", "device"))
