"""What may be measured, and what a table is for."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache, partial
from itertools import chain, combinations
from pathlib import Path

import numpy as np

from paceline.exporters import tflite
from paceline.exporters.cut import between, cut
from paceline.exporters.operator_models import write_operator
from paceline.files import write_atomically
from paceline.graph import Graph, OpSpec, TensorSpec
from paceline.latency_models.collection.block_networks import block_network
from paceline.latency_models.model import Network
from paceline.measurement import Artifact

_ENOUGH_NETWORKS = 40
"""With fewer networks given, parts of them are measured as networks too: calibration needs some dozens."""

_SHORTEST = 6
"""Operators of the shortest part that counts as a network."""


@dataclass(frozen=True)
class Candidate:
    """Something that may be measured: a network, or one operator as a model of its own. `write` makes its file in a folder."""

    name: str
    operators: tuple[OpSpec, ...]
    write: Callable[[Path], Artifact] = field(compare=False, repr=False)


@dataclass(frozen=True)
class Corpus:
    """What a table is for: networks like `mix`, each with its weight. `networks` may be measured as they are, and of single
    operators those in `operators`."""

    mix: tuple[Network, ...]
    weights: tuple[float, ...]
    operators: tuple[Candidate, ...]
    networks: tuple[Candidate, ...]


def block_corpus(seed: int, networks: int = 120) -> Corpus:
    """For a table that is made for no network in particular.

    Every other of the networks may be measured as a whole. The rest are what the table is made for, so that it is judged on
    networks that had no say in which operators it holds.
    """
    drawn = [partial(_drawn, seed, i) for i in range(networks)]
    operators = [tuple(graph(weights=False).operators()) for graph in drawn]
    whole = [_network(f"blocks {seed}-{i}", operators[i], drawn[i]) for i in range(0, networks, 2)]
    mix = tuple(operators[1::2])
    return Corpus(mix, (1.0,) * len(mix), tuple(_alone(specs) for specs in dict.fromkeys(chain(*operators))), tuple(whole))


def model_corpus(models: Sequence[Artifact], seed: int) -> Corpus:
    """For the networks in these `.tflite` files, and a little for others like them: the same with other widths.

    Raises ExportError for a file that can't be read.
    """
    rng = np.random.default_rng(seed)
    parts_each = max(0, -(-(_ENOUGH_NETWORKS - len(models)) // len(models)))
    given: list[Network] = []
    others: list[Network] = []
    networks: list[Candidate] = []
    parts: list[Candidate] = []
    alone: dict[OpSpec, Candidate] = {}
    for model in models:
        graph = _read(model.path)
        given.append(tuple(graph.operators()))
        others.append(widened(given[-1], float(rng.choice([0.5, 0.75, 1.25, 1.5]))))
        networks.append(Candidate(model.subject, tuple(given[-1]), partial(_as_given, model)))
        parts += _parts(model, graph, parts_each, rng)
        alone |= _cut_out(model, graph)
    mix = (*given, *(specs for specs in others if specs))
    operators = tuple(alone.get(spec, _alone(spec)) for spec in dict.fromkeys(chain(*mix)))
    return Corpus(mix, (1.0,) * len(given) + (0.2,) * (len(mix) - len(given)), operators, (*networks, *parts))


def executed_corpus(corpus: Corpus, executed: Callable[[Network], Sequence[OpSpec]]) -> Corpus:
    """The same with networks as a runtime executes them, fused operators as one for example (`fusion.executed`)."""
    mix = tuple(tuple(executed(network)) for network in corpus.mix)
    networks = tuple(replace(c, operators=tuple(executed(c.operators))) for c in corpus.networks)
    alone = {c.operators[0]: c for c in corpus.operators}
    specs = dict.fromkeys(chain(*mix, *(c.operators for c in networks)))
    return Corpus(mix, corpus.weights, tuple(alone.get(spec, _alone(spec)) for spec in specs), networks)


def widened(operators: Network, factor: float) -> tuple[OpSpec, ...]:
    """The operators of a network that is `factor` times as wide, in steps of 8 channels, where that is clear."""
    return tuple(dict.fromkeys(wide for spec in operators if (wide := _wider(spec, factor)) is not None))


def _wider(spec: OpSpec, factor: float) -> OpSpec | None:
    def scaled(channels: int) -> int:
        return channels if channels < 8 else max(8, 8 * round(channels * factor / 8))

    first, last = spec.inputs[0], spec.outputs[0]
    filters = spec.inputs[1].shape if len(spec.inputs) > 1 else ()
    if len(first.shape) != 4 or len(last.shape) != 4 or len(spec.outputs) > 1:
        return None
    match spec.kind, filters:
        case "CONV_2D", (o, kh, kw, per_group) if per_group == first.shape[-1]:
            shapes = [(*first.shape[:3], scaled(per_group)), (scaled(o), kh, kw, scaled(per_group)), (scaled(o),)]
        case "DEPTHWISE_CONV_2D", (1, kh, kw, c) if c == first.shape[-1]:
            shapes = [(*first.shape[:3], scaled(c)), (1, kh, kw, scaled(c)), (scaled(c),)]
        case (("ADD" | "MUL" | "HARD_SWISH" | "LOGISTIC" | "GELU" | "MEAN" | "AVERAGE_POOL_2D" | "MAX_POOL_2D"), _):
            if any(len(t.shape) != 4 for t in spec.inputs):
                return None
            shapes = [(*t.shape[:3], scaled(t.shape[-1])) for t in spec.inputs]
        case _:
            return None
    inputs = tuple(TensorSpec(shape, t.dtype) for t, shape in zip(spec.inputs, shapes, strict=False))
    return OpSpec(
        spec.kind, inputs, (TensorSpec((*last.shape[:3], scaled(last.shape[-1])), last.dtype),), spec.attrs, spec.constants
    )


def _alone(spec: OpSpec) -> Candidate:
    return Candidate(spec.key, (spec,), partial(write_operator, spec))


def _network(name: str, operators: Network, graph: Callable[[], Graph]) -> Candidate:
    return Candidate(name, tuple(operators), partial(write_graph, name, graph))


def _drawn(seed: int, number: int, weights: bool = True) -> Graph:
    return block_network(np.random.default_rng([seed, number]), weights)


def _parts(model: Artifact, graph: Graph, count: int, rng: np.random.Generator) -> list[Candidate]:
    """Up to `count` networks that are the part of `graph` between two tensors through which all of it passes."""
    narrow = [(0, name) for name in graph.inputs if len(graph.inputs) == 1] + _narrow(graph)
    pairs = [
        (a, b) for (i, a), (j, b) in combinations(narrow, 2) if j - i >= _SHORTEST and (a, b) != (narrow[0][1], narrow[-1][1])
    ]
    found = []
    for at in sorted(rng.permutation(len(pairs))[:count].tolist()):
        first, last = pairs[at]
        operators = between(graph, [first], [last]).operators()
        found.append(_network(f"{model.subject} from {first} to {last}", operators, partial(_part, model.path, first, last)))
    return found


def _narrow(graph: Graph) -> list[tuple[int, str]]:
    """Tensors that are all what is read later of what was computed before; with the number of operators until there."""
    last_read = {name: i for i, op in enumerate(graph.ops) for name in op.inputs} | dict.fromkeys(graph.outputs, len(graph.ops))
    alive = {name for name in graph.inputs if name in last_read}
    found = []
    for i, op in enumerate(graph.ops):
        alive = {name for name in alive | set(op.outputs) if last_read.get(name, -1) > i}
        if len(alive) == 1:
            found.append((i + 1, next(iter(alive))))
    return found


def _cut_out(model: Artifact, graph: Graph) -> dict[OpSpec, Candidate]:
    """The operators of a quantised model, each with its own weights and scales."""
    if not graph.quantization or any("subgraph" in name for op in graph.ops for name, _ in op.attrs):
        return {}
    specs = enumerate(graph.operators())
    return {spec: _network(spec.key, (spec,), partial(_operator, model.path, i)) for i, spec in specs}


@lru_cache(maxsize=2)
def _read(path: Path) -> Graph:
    return tflite.read(path.read_bytes()).graph


def _part(path: Path, first: str, last: str) -> Graph:
    return between(_read(path), [first], [last])


def _operator(path: Path, at: int) -> Graph:
    return cut(_read(path))[at][1]


def _as_given(model: Artifact, folder: Path) -> Artifact:
    return model


def write_graph(name: str, graph: Callable[[], Graph], folder: Path) -> Artifact:
    """The network or operator `name` in `folder`; an existing file is the same file."""
    path = folder / (hashlib.sha256(name.encode()).hexdigest()[:16] + ".tflite")
    if not path.exists():
        write_atomically(path, tflite.write(graph()), sync=False)
    return Artifact(path, name)
