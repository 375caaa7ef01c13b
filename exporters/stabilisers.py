"""Fold the stabilisers of skip layers away, exactly, by a change of basis.

SCARLET-NAS (Chu et al. 2021, arXiv 1908.06022) trains a skip as a learnable 1x1 convolution W without bias, norm or activation.
To multiply W into the next convolution is wrong where residual blocks follow, for they add to the channels that they read. Here
every value of a network may be kept in another basis, v = B v'. Sums, pools and flattening keep the basis, a convolution K
becomes B_out^-1 K B_in, and a stabiliser becomes the identity where B_out = W B_in.
"""

from __future__ import annotations

import copy
import itertools
from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import dataclass

import torch
from scipy.cluster.hierarchy import DisjointSet
from torch import Tensor, fx, nn

from paceline.exporters.algebra import MergeError, conv_form
from paceline.exporters.merge import merged
from paceline.exporters.streams import Streams
from paceline.exporters.traced import is_sum

WORST_CONDITION = 1e6
_ROUNDING = 1e-12


@dataclass(frozen=True)
class Fold:
    """One stabiliser that is gone: its module path, its condition number, and the layers that took it in.

    Stabilisers of one stream are taken in by the same layers.
    """

    name: str
    condition: float
    layers: tuple[str, ...]


@dataclass(frozen=True)
class Folded:
    """A merged network in evaluation mode without its stabilisers, and what they were, in execution order."""

    module: nn.Module
    report: tuple[Fold, ...]


def fold_stabilisers(module: nn.Module, names: Collection[str] | None = None) -> Folded:
    """A new network, merged, that computes the same in evaluation without its stabilisers; `module` itself is not changed.

    `names` are the module paths of the stabilisers. Without them they are found by what they are: 1x1 convolutions of stride 1
    that keep the number of channels, have neither bias nor BatchNorm, and are read by a convolution, a sum or a pool. New
    weights are computed in float64 and cast once.

    Raises MergeError for a network in training mode, a name that is no stabiliser, a stabiliser that is singular or whose
    condition number exceeds 1e6 (alone or with others of its stream), and one that can't be folded: where both the channels that
    it reads and those that it gives are held by something else, such as an activation, the input or a grouped convolution.
    """
    training = next((name or type(module).__name__ for name, m in module.named_modules() if m.training), None)
    if training is not None:
        raise MergeError(f"{training!r} is in training mode, where BatchNorm depends on the batch; call eval() before folding")
    # No chains: they would take in a stabiliser here and there, unnamed and however badly conditioned it is.
    network = merged(module).module
    assert isinstance(network, fx.GraphModule)
    report = _Folder(network, names).fold()
    network.graph.lint()
    return Folded(fx.GraphModule(network, network.graph, type(module).__name__).eval(), report)


@dataclass(frozen=True, eq=False)
class _Stabiliser:
    """One call of a stabiliser: it reads the stream `read` and gives the stream `given`."""

    node: fx.Node
    name: str
    weight: Tensor
    condition: float
    read: fx.Node
    given: fx.Node


class _Folder:
    """Rewrites one merged network."""

    def __init__(self, network: fx.GraphModule, names: Collection[str] | None) -> None:
        self.network = network
        self.streams = Streams(network)
        self.calls = Counter(node.target for node in self.streams.nodes if node.op == "call_module")
        self.stabilisers = [self._stabiliser(node) for node in self.streams.nodes if self._is_stabiliser(node, names)]
        unknown = set(names or ()) - {s.name for s in self.stabilisers}
        if unknown:
            raise MergeError(
                f"{min(unknown)!r} is no stabiliser: that is a 1x1 convolution of stride 1 that keeps the number of channels and "
                "has neither bias nor BatchNorm"
            )

    def fold(self) -> tuple[Fold, ...]:
        """Changes the graph; what was folded."""
        self._check_in_place()
        nodes, order = self.streams.nodes, self.streams.order
        linked = DisjointSet({self.streams.of(node): None for node in nodes})
        for s in self.stabilisers:
            linked.merge(s.read, s.given)
        bases: dict[fx.Node, Tensor] = {}
        for group in linked.subsets():
            inside = [s for s in self.stabilisers if s.given in group]
            if inside:
                bases |= self._bases(sorted(group, key=order.__getitem__), inside)
        gone = {s.node for s in self.stabilisers}
        layers = [node for node in nodes if self.streams.dense(node) and node not in gone]
        changed = {node: self._change(node, bases) for node in layers if self.streams.ends(node) & bases.keys()}
        report = []
        for s in self.stabilisers:
            group = linked.subset(s.given) & bases.keys()
            took = tuple(name for node, name in changed.items() if self.streams.ends(node) & group)
            report.append(Fold(s.name, s.condition, took))
        for s in self.stabilisers:
            s.node.replace_all_uses_with(s.node.all_input_nodes[0])
            self.network.graph.erase_node(s.node)
        return tuple(report)

    def _is_stabiliser(self, node: fx.Node, names: Collection[str] | None) -> bool:
        conv = self.streams.dense(node)
        if not isinstance(conv, nn.Conv2d) or conv.in_channels != conv.out_channels:
            return False
        if conv.bias is not None and bool(conv.bias.any()):  # merging with parallel branches gives it one of zeros
            return False
        if conv.kernel_size != (1, 1) or conv.stride != (1, 1) or conv_form(conv).padding != (0, 0):
            return False
        return node.target in names if names is not None else any(self._reads_on(user) for user in node.users)

    def _reads_on(self, user: fx.Node) -> bool:
        """Whether a node reads its value as what follows a skip does; an ordinary layer is read by its activation."""
        return is_sum(user) or self.streams.keeps_basis(user) or isinstance(self.streams.module(user), nn.Conv2d)

    def _stabiliser(self, node: fx.Node) -> _Stabiliser:
        name, conv = str(node.target), self.streams.dense(node)
        assert conv is not None
        weight = conv.weight.detach().double().flatten(1)
        condition = _condition(weight, f"the stabiliser {name!r} is")
        return _Stabiliser(node, name, weight, condition, self.streams.of(node.all_input_nodes[0]), self.streams.of(node))

    def _bases(self, group: Sequence[fx.Node], inside: Sequence[_Stabiliser]) -> dict[fx.Node, Tensor]:
        """The basis of each stream that gets another one, in a group of streams that stabilisers link."""
        start = next((stream for stream in group if stream in self.streams.held), inside[0].read)
        same = torch.eye(len(inside[0].weight), dtype=torch.float64, device=inside[0].weight.device)
        bases = {start: same}
        while len(bases) < len(group):
            for s in inside:
                if s.read in bases:
                    bases.setdefault(s.given, s.weight @ bases[s.read])
                elif s.given in bases:
                    bases[s.read] = torch.linalg.solve(s.weight, bases[s.given])
        names = ", ".join(dict.fromkeys(repr(s.name) for s in inside))
        if not all(_equal(s.weight @ bases[s.read], bases[s.given]) for s in inside):
            raise MergeError(f"can't fold {names}: what comes out is added to what goes in, so both need the same basis")
        held = [stream for stream in group if stream in self.streams.held]
        if not all(_equal(bases[stream], same) for stream in held):
            reasons = ", and ".join(self.streams.held[stream] for stream in held)
            raise MergeError(
                f"can't fold {names}: the channels before and behind must both stay as they are ({reasons}). A stabiliser "
                "needs a stream that is linear from one convolution to the next"
            )
        for basis in bases.values():
            _condition(basis, f"the stabilisers {names} together are" if len(inside) > 1 else f"the stabiliser {names} is")
        return {stream: basis for stream, basis in bases.items() if not torch.equal(basis, same)}

    def _change(self, node: fx.Node, bases: dict[fx.Node, Tensor]) -> str:
        """Gives a layer the kernel for the new bases of what it reads and gives; its path."""
        layer, name = self.streams.dense(node), str(node.target)
        assert layer is not None
        if self.calls[node.target] > 1:  # the other calls may need other kernels
            name = next(n for n in (f"{name}_{i}" for i in itertools.count(1)) if n not in self.streams.modules)
        read, given = (bases.get(self.streams.of(value)) for value in (node.all_input_nodes[0], node))
        self.streams.modules[name] = _rebased(layer, read, given, name)
        self.network.add_submodule(name, self.streams.modules[name])
        node.target = name
        return name

    def _check_in_place(self) -> None:
        """What a stabiliser reads and gives become one tensor. Raises MergeError where one of them is changed later."""
        memory = self.streams.memory()
        for s in self.stabilisers:
            memory.merge(s.node.all_input_nodes[0], s.node)
        for s in self.stabilisers:
            for node in self.streams.nodes[self.streams.order[s.node] + 1 :]:
                if self.streams.writes_in_place(node) and memory.connected(node.all_input_nodes[0], s.node):
                    raise MergeError(
                        f"can't fold {s.name!r}: {self.streams.words(node)} works in place on what it gives or reads; write it "
                        "out of place"
                    )


def _equal(a: Tensor, b: Tensor) -> bool:
    return bool((a - b).abs().max() <= _ROUNDING * torch.maximum(a.abs().max(), b.abs().max()))


def _condition(matrix: Tensor, who: str) -> float:
    """The condition number. Raises MergeError where it is too large."""
    condition = float(torch.linalg.cond(matrix)) if bool(matrix.isfinite().all()) else float("nan")
    if not condition <= WORST_CONDITION:  # NaN is no better
        raise MergeError(
            f"{who} singular or nearly so (condition number {condition:.3g}, at most {WORST_CONDITION:g} can be undone exactly): "
            "it loses channels that the skip would keep. Train it from the identity, or with a smaller learning rate"
        )
    return condition


def _rebased(layer: nn.Conv2d | nn.Linear, read: Tensor | None, given: Tensor | None, name: str) -> nn.Module:
    """The layer for what it reads in the basis `read` and gives in the basis `given`; None is the usual one."""
    weight = layer.weight.detach().double()
    bias = None if layer.bias is None else layer.bias.detach().double()
    if read is not None:
        if weight.shape[1] % len(read):
            raise MergeError(f"{name!r} reads {weight.shape[1]} channels of a stream with {len(read)} channels")
        # A linear layer behind flattening reads each channel's pixels one after the other.
        pixels = weight.reshape(len(weight), len(read), -1)
        weight = torch.einsum("ocp,cd->odp", pixels, read).reshape(weight.shape)
    if given is not None:
        if len(weight) != len(given):
            raise MergeError(f"{name!r} gives {len(weight)} channels to a stream with {len(given)} channels")
        weight = torch.linalg.solve(given, weight.flatten(1)).reshape(weight.shape)
        bias = None if bias is None else torch.linalg.solve(given, bias)
    new = copy.deepcopy(layer)
    for key, exact in (("weight", weight), ("bias", bias)):
        if exact is not None:
            setattr(new, key, nn.Parameter(exact.to(getattr(layer, key))))
    return new
