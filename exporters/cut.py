"""Parts of a Graph as Graphs of their own, with their real weights and quantisation."""

from __future__ import annotations

import difflib
from collections.abc import Sequence

from paceline.errors import ExportError
from paceline.graph import Graph, Op, OpSpec


def cut(graph: Graph) -> list[tuple[OpSpec, Graph]]:
    """Every operator of `graph.operators()` and the Graph of it alone, in execution order: what a latency table of it needs.

    Raises ExportError for operators that run other graphs of their file (IF, WHILE, …).
    """
    found = []
    for spec, group in zip(graph.operators(), graph.groups(), strict=True):
        runs = [name for name, _ in spec.attrs if "subgraph" in name]
        if runs:
            raise ExportError(f"{spec.kind} runs other graphs of its file ({runs[0]}) and can't be cut out; measure the whole")
        found.append((spec, _part(graph, group, _open(graph, group), group[-1].outputs)))
    return found


def between(graph: Graph, inputs: Sequence[str], outputs: Sequence[str]) -> Graph:
    """The part of `graph` that computes the tensors `outputs` from the tensors `inputs`.

    Raises ExportError for a tensor that does not exist (with near names), and where `outputs` need more than `inputs`.
    """
    for name in (*inputs, *outputs):
        if name not in graph.tensors:
            near = difflib.get_close_matches(name, list(graph.tensors), n=5, cutoff=0.4)
            raise ExportError(f"there is no tensor {name!r}; " + (f"near ones: {', '.join(near)}" if near else "see their names"))
    if not outputs:
        raise ExportError("no outputs are named; name at least one tensor to compute")
    needed, kept = set(outputs) - set(inputs), list[Op]()
    for op in reversed(graph.ops):
        if needed.intersection(op.outputs):
            kept.append(op)
            needed.difference_update(op.outputs)
            needed.update(name for name in op.inputs if name and name not in inputs)
    missing = needed - graph.weights.keys() - graph.variables
    if missing:
        raise ExportError(
            f"{', '.join(map(repr, inputs)) or 'no tensor'} does not determine {', '.join(map(repr, outputs))}: "
            f"also needed is {sorted(missing)[0]!r}; name it among the inputs, or cut behind it"
        )
    return _part(graph, kept[::-1], tuple(inputs), tuple(outputs))


def _open(graph: Graph, ops: Sequence[Op]) -> tuple[str, ...]:
    """The computed tensors that `ops` read and none of them produces."""
    produced = {name for op in ops for name in op.outputs}
    read = dict.fromkeys(name for op in ops for name in op.inputs if name)
    return tuple(name for name in read if name not in produced and name not in graph.weights and name not in graph.variables)


def _part(graph: Graph, ops: Sequence[Op], inputs: tuple[str, ...], outputs: tuple[str, ...]) -> Graph:
    inside = [name for op in ops for name in (*op.inputs, *op.outputs) if name]
    used = dict.fromkeys([*inputs, *inside, *outputs])
    return Graph(
        tuple(ops),
        {name: graph.tensors[name] for name in used},
        inputs,
        outputs,
        {name: graph.weights[name] for name in used if name in graph.weights and name not in inputs},
        {name: graph.quantization[name] for name in used if name in graph.quantization},
        graph.variables.intersection(used),
        {name: graph.dynamic[name] for name in used if name in graph.dynamic},
        graph.name,
    )
