"""A network cut into segments whose merges do not touch each other, and the forms that each may be deployed in."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor, fx, nn
from torch.fx.passes.shape_prop import ShapeProp

from paceline.exporters.merge import merged
from paceline.exporters.merge_forms import OptionalMerge, optional_merges
from paceline.exporters.merge_plan import Decision, Planner
from paceline.exporters.merge_regions import Linear, Regions
from paceline.exporters.traced import trace

Made = frozenset[str]
"""The names of the optional merges that are made; all others are not."""

MOST = 128
"""With more forms of a segment that is no chain, merges that cost neither work nor weights are made unasked; with still more of
the others too, these are left."""


@dataclass(frozen=True, eq=False)
class Form:
    """One way to compute a segment: `made` merges, as a network of its own."""

    made: Made
    module: nn.Module
    example: tuple[Tensor, ...]

    @cached_property
    def signature(self) -> str:
        """The same for forms with the same operators: layers with their settings and shapes, and who reads whom."""
        network = self.module if isinstance(self.module, fx.GraphModule) else trace(self.module)
        modules, order = dict(network.named_modules()), {node: i for i, node in enumerate(network.graph.nodes)}

        def words(node: fx.Node) -> str:
            what = repr(modules[str(node.target)]) if node.op == "call_module" else f"{node.op} {node.target}"
            if node.op in ("placeholder", "get_attr"):
                what = node.op
            return f"{what} {fx.map_arg((node.args, node.kwargs), lambda n: order[n])}"

        return "\n".join([str([tuple(x.shape) for x in self.example]), *map(words, network.graph.nodes)])


@dataclass(frozen=True, eq=False)
class Segment:
    """A part of a network, as a network of its own, with its optional `merges`; of the `unasked` the free ones are made.

    `names` says what the merges are called in `module`, in their order. `choices` are all that lead to forms of their own; of a
    chain there are none, since its `runs` tell what it takes.
    """

    module: nn.Module
    example: tuple[Tensor, ...]
    merges: tuple[OptionalMerge, ...]
    names: tuple[str, ...]
    unasked: tuple[OptionalMerge, ...] = ()
    choices: tuple[Made, ...] = ()
    signature: str = ""
    """The same for segments that have the same forms, merge by merge."""

    @property
    def name(self) -> str:
        return self._asked_and_not[0].region

    @property
    def is_chain(self) -> bool:
        """Whether its merges are the joints of a chain of layers: only neighbouring ones have to do with each other."""
        return bool(self.merges) and all(merge.kind == "chain" for merge in self.merges)

    def form(self, made: Made) -> Form:
        inner = {name: merge.name in made for name, merge in zip(self.names, self._asked_and_not, strict=True)}
        return Form(made, merged(self.module, inner).module, self.example)

    def runs(self) -> Iterator[tuple[int, int]]:
        """First and last merge of every run of neighbouring merges."""
        return itertools.combinations_with_replacement(range(len(self.merges)), 2)

    def runs_in(self, made: Made) -> list[tuple[int, int]]:
        """The longest runs of neighbours among `made`."""
        runs: list[tuple[int, int]] = []
        for i, merge in enumerate(self.merges):
            if merge.name in made:
                runs = [*runs[:-1], (runs[-1][0], i)] if runs and runs[-1][1] == i - 1 else [*runs, (i, i)]
        return runs

    def places(self, made: Made) -> frozenset[int]:
        """Which of its merges, in their order."""
        return frozenset(i for i, merge in enumerate(self._asked_and_not) if merge.name in made)

    @property
    def least(self) -> Made:
        """Nothing but what is made unasked."""
        return frozenset(merge.name for merge in self.unasked if merge.free)

    def of_run(self, first: int, last: int) -> Made:
        return self.least | {merge.name for merge in self.merges[first : last + 1]}

    @property
    def _asked_and_not(self) -> tuple[OptionalMerge, ...]:
        return (*self.merges, *self.unasked)


def segments_of(module: nn.Module, example: tuple[Tensor, ...]) -> tuple[Segment, ...]:
    """The segments of a network in evaluation that have optional merges, in execution order; `example` are its inputs.

    Raises MergeError as `merged` does.
    """
    by_region: dict[str, list[OptionalMerge]] = {}
    for merge in optional_merges(module):
        by_region.setdefault(merge.region, []).append(merge)
    if not by_region:
        return ()
    network = trace(module)
    regions = Regions(network)
    with torch.no_grad():
        ShapeProp(network).propagate(*(x.clone() for x in example))
    found = {region.heavy[0].path: region for region in regions.found.values() if region.heavy}
    return tuple(_segment(module, example, network, regions, found[name], merges) for name, merges in by_region.items())


def _segment(
    module: nn.Module,
    example: tuple[Tensor, ...],
    network: fx.GraphModule,
    regions: Regions,
    region: Linear,
    merges: Sequence[OptionalMerge],
) -> Segment:
    cut, inputs = _cut(network, regions, region)
    inside = optional_merges(cut)
    part: nn.Module = cut
    signature = _signature(cut, inputs, inside)
    if [(m.kind, m.free) for m in inside] != [(m.kind, m.free) for m in merges]:
        part, inputs, inside = module, example, tuple(merges)  # not to be had alone: its forms are those of the whole network
        signature = merges[0].region
    names = {inner.name: merge.name for merge, inner in zip(merges, inside, strict=True)}
    if all(merge.kind == "chain" for merge in merges):
        return Segment(part, inputs, tuple(merges), tuple(names), signature=signature)
    inner = {outer: its for its, outer in names.items()}
    for asked in (tuple(merges), tuple(merge for merge in merges if not merge.free), ()):
        unasked = tuple(merge for merge in merges if merge not in asked)
        choices = _choices(part, names, {merge.name: merge.free for merge in unasked})
        if len(choices) <= MOST:
            break
    return Segment(part, inputs, asked, tuple(inner[merge.name] for merge in (*asked, *unasked)), unasked, choices, signature)


def _signature(part: fx.GraphModule, inputs: tuple[Tensor, ...], merges: Sequence[OptionalMerge]) -> str:
    """Of a part its operators, and which of them each merge unites: weights decide that, too, a bias that is zero for example."""
    places = {str(node.target): str(i) for i, node in enumerate(part.graph.nodes)}
    told = [(m.kind, m.free, [places.get(word, word) for word in m.name.split()]) for m in merges]
    return f"{Form(frozenset(), part, inputs).signature}\n{told}"


def _choices(part: nn.Module, names: Mapping[str, str], unasked: Mapping[str, bool]) -> tuple[Made, ...]:
    """The choices that lead somewhere, those of fewer merges first: a merge is only decided on where it is met.

    `names` are those of the merges in `part`, and what they are called outside. It ends early where there are too many.
    """
    regions = Regions(trace(part))
    fixed = {name: unasked.get(outer) for name, outer in names.items()}
    always = frozenset(name for name, made in unasked.items() if made)
    found: dict[Made, None] = {}
    open_ends: list[dict[str, bool]] = [{}]
    while open_ends and len(found) <= MOST:
        given = open_ends.pop()
        met: dict[str, bool] = {}

        def choose(decision: Decision, given: dict[str, bool] = given, met: dict[str, bool] = met) -> bool:
            known = fixed.get(decision.name, False)  # what has no name can't be asked for
            return met.setdefault(decision.name, given.get(decision.name, False)) if known is None else known

        planner = Planner(choose)
        for region in regions.found.values():
            planner.plan(region)
        found[always | {names[name] for name, made in met.items() if made}] = None
        answers = list(met.items())
        open_ends += [{**dict(answers[:i]), answers[i][0]: True} for i in range(len(given), len(answers))]
    return tuple(sorted(found, key=lambda made: (len(made), sorted(made))))


def _cut(network: fx.GraphModule, regions: Regions, region: Linear) -> tuple[fx.GraphModule, tuple[Tensor, ...]]:
    """A region with the activation behind it, and inputs of the shapes that it reads."""
    inside = set(region.nodes)
    nodes = [node for node in network.graph.nodes if node in inside]
    others = {node for found in regions.found.values() for node in found.nodes}
    last = nodes[-1]
    if len(last.users) == 1 and _is_elementwise(next(iter(last.users)), last, others):
        nodes += last.users
        last = nodes[-1]
    graph, copies, inputs = fx.Graph(), dict[fx.Node, fx.Node](), list[Tensor]()

    def copied(node: fx.Node) -> fx.Node:
        if node not in copies:
            if node in nodes or _is_constant(node):
                copies[node] = graph.node_copy(node, copied)
            else:
                copies[node] = graph.placeholder(node.name)
                inputs.append(torch.zeros(_shape(node)))
        return copies[node]

    for read in dict.fromkeys(read for node in nodes for read in node.all_input_nodes if read not in nodes):
        copied(read)  # before all others: placeholders come first
    for node in nodes:
        copied(node)
    graph.output(copies[last])
    return fx.GraphModule(network, graph).eval(), tuple(inputs)


def _is_constant(node: fx.Node) -> bool:
    """Whether a value depends on weights only."""
    return node.op == "get_attr" or (bool(node.all_input_nodes) and all(map(_is_constant, node.all_input_nodes)))


def _is_elementwise(node: fx.Node, read: fx.Node, others: set[fx.Node]) -> bool:
    """Whether a node may be an activation that runtimes fuse: it reads one value, keeps its shape, and is no linear layer."""
    if node.op == "output" or node in others or node.all_input_nodes != [read]:
        return False
    return "tensor_meta" in node.meta and "tensor_meta" in read.meta and _shape(node) == _shape(read)


def _shape(node: fx.Node) -> torch.Size:
    shape: torch.Size = node.meta["tensor_meta"].shape
    return shape
