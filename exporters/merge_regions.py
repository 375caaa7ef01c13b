"""The linear regions of a traced network: chains of linear layers, and the sums and concatenations of such chains."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

import torch
from torch import fx

from paceline.exporters.algebra import MergeError
from paceline.exporters.merge_layers import Layer, LayerReader
from paceline.exporters.traced import is_difference, is_sum, writes_in_place


@dataclass(frozen=True)
class Refusal:
    """Something that looks as if it could be merged and can't, exactly: where, and why."""

    where: str
    reason: str


@dataclass(frozen=True, eq=False)
class Linear:
    """Layers one behind the other. Without any, the value `start` itself."""

    start: fx.Node | Sum | Concat
    layers: tuple[Layer, ...] = ()

    @property
    def source(self) -> fx.Node | None:
        """The one value of which this is a linear function; None where there are several."""
        return self.start if isinstance(self.start, fx.Node) else self.start.source

    @property
    def heavy(self) -> tuple[Layer, ...]:
        """Convolutions and pools, those inside of sums included."""
        inner = () if isinstance(self.start, fx.Node) else self.start.heavy
        return (*inner, *(layer for layer in self.layers if layer.kind in ("conv", "pool")))

    @property
    def nodes(self) -> tuple[fx.Node, ...]:
        inner = () if isinstance(self.start, fx.Node) else self.start.nodes
        return (*inner, *(layer.node for layer in self.layers))


@dataclass(frozen=True, eq=False)
class Sum:
    """Terms with their signs; `additions` are the nodes that add them, the last of them the sum."""

    additions: tuple[fx.Node, ...]
    terms: tuple[tuple[int, Linear], ...]

    @property
    def source(self) -> fx.Node | None:
        sources = {term.source for _, term in self.terms}
        return sources.pop() if len(sources) == 1 else None

    @property
    def heavy(self) -> tuple[Layer, ...]:
        return tuple(layer for _, term in self.terms for layer in term.heavy)

    @property
    def nodes(self) -> tuple[fx.Node, ...]:
        return (*(node for _, term in self.terms for node in term.nodes), *self.additions)


@dataclass(frozen=True, eq=False)
class Concat:
    """Terms one after the other on the axis of channels."""

    node: fx.Node
    terms: tuple[Linear, ...]

    @property
    def source(self) -> fx.Node | None:
        sources = {term.source for term in self.terms}
        return sources.pop() if len(sources) == 1 else None

    @property
    def heavy(self) -> tuple[Layer, ...]:
        return tuple(layer for term in self.terms for layer in term.heavy)

    @property
    def nodes(self) -> tuple[fx.Node, ...]:
        return (*(node for term in self.terms for node in term.nodes), self.node)


class Regions:
    """Finds them. `found` holds every region by the node that gives its value, in execution order."""

    def __init__(self, network: fx.GraphModule) -> None:
        self.reader = LayerReader(network)
        self._clean(network)
        self.nodes: list[fx.Node] = list(network.graph.nodes)
        self.order = {node: i for i, node in enumerate(self.nodes)}
        self._linear: dict[fx.Node, Linear] = {}
        self._ended: dict[fx.Node, Linear] = {}
        self._blocked: dict[fx.Node, str] = {}
        for node in self.nodes:
            self._visit(node)
        self.found = dict(sorted({**self._linear, **self._ended}.items(), key=lambda item: self.order[item[0]]))
        self._inside = {node for region in self.found.values() for node in region.nodes}
        self.refusals = tuple(dict.fromkeys(self._refusals()))

    def obstacles(self) -> Iterator[Refusal]:
        """Everything that is not linear, in execution order."""
        for node in self.nodes:
            known = node in self._inside or node.op in ("placeholder", "output", "get_attr")
            if not known and self.reader.values.constant(node) is None:
                yield Refusal(self.reader.words(node), self._blocked.get(node, "it is not linear"))

    def _clean(self, network: fx.GraphModule) -> None:
        """Takes out what does nothing in evaluation, assertions among it: they held when the network was trained."""
        for node in network.graph.nodes:
            self.reader.check(node)
            if self.reader.vanishes(node):
                node.replace_all_uses_with(node.all_input_nodes[0])
        for node in reversed(network.graph.nodes):
            if self.reader.vanishes(node) or self.reader.is_idle(node):
                network.graph.erase_node(node)

    def _visit(self, node: fx.Node) -> None:
        try:
            layer = self.reader.layer(node)
        except MergeError as e:
            self._blocked[node] = str(e)
            return
        if layer is not None:
            before = self._taken(layer.read)
            if before is None and layer.in_place:
                return  # what it writes may be read elsewhere
            if before is not None and _fit(before, layer):
                del self._linear[layer.read]
                self._linear[node] = replace(before, layers=(*before.layers, layer))
            else:
                self._linear[node] = Linear(layer.read, (layer,))
        elif is_sum(node) or is_difference(node):
            if not _only_added(node):
                self._visit_sum(node)
        elif _concatenated(node):
            self._visit_concat(node, _concatenated(node))

    def _visit_sum(self, root: fx.Node) -> None:
        additions, values = _flattened(root, 1)
        additions = sorted(set(additions), key=self.order.__getitem__)
        terms = [(sign, self._taken(value) or Linear(value)) for sign, value in values]
        taken = [node for _, term in terms for node in term.nodes]
        sources = [term.source for _, term in terms]
        shared = {term.source for _, term in terms if term.heavy}
        if not any(source in shared and sources.count(source) > 1 for source in sources if source is not None):
            return
        if not self._is_safe(root, {*additions, *taken}):
            return
        self._take(root, Sum(tuple(additions), tuple(terms)), taken)

    def _visit_concat(self, node: fx.Node, values: Sequence[fx.Node]) -> None:
        terms = [self._taken(value) or Linear(value) for value in values]
        taken = [n for term in terms for n in term.nodes]
        pairs = itertools.pairwise(terms)
        if not any(a.source is b.source is not None and a.heavy and b.heavy for a, b in pairs):
            return
        if len(set(values)) == len(values) and self._is_safe(node, {node, *taken}):
            self._take(node, Concat(node, tuple(terms)), taken)

    def _take(self, root: fx.Node, start: Sum | Concat, taken: Iterable[fx.Node]) -> None:
        for node in taken:
            self._linear.pop(node, None)
        known = self._linear if start.source is not None else self._ended
        known[root] = Linear(start)

    def _taken(self, node: fx.Node) -> Linear | None:
        """The layers that compute a value, if it is read only once and so may vanish."""
        return self._linear.get(node) if len(node.users) == 1 else None

    def _is_safe(self, root: fx.Node, inside: set[fx.Node]) -> bool:
        """Whether no in-place operator changes what is read between the first and the last of the nodes that become one."""
        modules = self.reader.modules
        for node in self.nodes[min(self.order[n] for n in inside) : self.order[root] + 1]:
            if not writes_in_place(node, modules):
                continue
            if node in inside:  # an in-place sum: nothing else may have to see what it writes
                written = node.args[0]
                if not isinstance(written, fx.Node) or not inside.issuperset(written.users):
                    return False
            elif not all(n in self._linear and inside.isdisjoint(n.users) for n in node.all_input_nodes):
                return False  # only a layer's fresh output, read elsewhere, is surely no view of what is read here
        return True

    def _refusals(self) -> Iterator[Refusal]:
        """Layers that are none of a convolution's behind linear ones, and branches of sums that are not linear."""
        for node, reason in self._blocked.items():
            before = self.found.get(node.all_input_nodes[0]) if node.all_input_nodes else None
            if before is not None and before.heavy:
                yield Refusal(self.reader.words(node), reason)
        for node in self.nodes:
            if (is_sum(node) or is_difference(node)) and not _only_added(node):
                terms = [self._term(value, node) for _, value in _flattened(node, 1)[1]]
                shared = {term.source for term in terms if term.heavy and term.source is not None}
                for own in dict.fromkeys(term.source for term in terms if term.source is not None):
                    yield from self._between(own, shared - {own})

    def _term(self, value: fx.Node, root: fx.Node) -> Linear:
        inside = self.found[root].start if root in self.found else None
        terms = [term for _, term in inside.terms] if isinstance(inside, Sum) else []
        known = next((term for term in terms if value in term.nodes), None)
        return known or self.found.get(value) or Linear(value)

    def _between(self, value: fx.Node, shared: set[fx.Node]) -> Iterator[Refusal]:
        """What is not linear between an input that other branches of a sum share, and a value that a branch of it reads."""
        if not shared:
            return
        first = min(self.order[node] for node in shared)
        blocked, seen, front = None, {value}, [value]
        while front:
            at = front.pop(0)
            if at in shared and blocked is not None:
                yield blocked
                return
            if blocked is None and at not in self._inside and at.op != "placeholder":
                reason = self._blocked.get(at, "it is not linear, so its branch can't be added to the others")
                blocked = Refusal(self.reader.words(at), reason)
            new = [n for n in at.all_input_nodes if n not in seen and self.order[n] >= first]
            seen.update(new)
            front += new


def _fit(before: Linear, layer: Layer) -> bool:
    """Whether a layer reads what the layers before it give: images, or features on the last axis."""
    layouts = {known.layout for known in (*before.heavy, *before.layers, layer)} - {"any"}
    return len(layouts) < 2


def _only_added(node: fx.Node) -> bool:
    users = list(node.users)
    return len(users) == 1 and (is_sum(users[0]) or is_difference(users[0]))


def _flattened(root: fx.Node, sign: int) -> tuple[list[fx.Node], list[tuple[int, fx.Node]]]:
    """The additions under a sum whose values nothing else reads, and the terms that they add, with signs."""
    additions, terms = [root], []
    signs = (sign, -sign) if is_difference(root) else (sign, sign)
    for arg, its in zip(root.args, signs, strict=True):
        if isinstance(arg, fx.Node):
            inner = (is_sum(arg) or is_difference(arg)) and len(arg.users) == 1
            below, leaves = _flattened(arg, its) if inner else ([], [(its, arg)])
            additions += below
            terms += leaves
    return additions, terms


def _concatenated(node: fx.Node) -> tuple[fx.Node, ...]:
    """What a node concatenates on the axis of channels; nothing for other nodes."""
    if node.op != "call_function" or node.target not in (torch.cat, torch.concat, torch.concatenate):
        return ()
    values = node.args[0] if node.args else node.kwargs.get("tensors")
    dim = node.args[1] if len(node.args) > 1 else node.kwargs.get("dim", node.kwargs.get("axis", 0))
    nodes = tuple(v for v in values if isinstance(v, fx.Node)) if isinstance(values, list | tuple) else ()
    return nodes if dim in (1, -3) and isinstance(values, list | tuple) and len(nodes) == len(values) else ()
