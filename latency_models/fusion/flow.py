"""Who reads whose result: a network's operators with their tensors by number."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

from paceline.graph import Graph, OpSpec, TensorSpec

CONSTANT = -1


@dataclass(frozen=True)
class Flow:
    """`reads` numbers the tensor of each operand (CONSTANT for weights and absent ones), `writes` that of each result."""

    operators: tuple[OpSpec, ...]
    reads: tuple[tuple[int, ...], ...]
    writes: tuple[tuple[int, ...], ...]
    outputs: frozenset[int]

    @cached_property
    def readers(self) -> Counter[int]:
        """How often each tensor is read, as a result of the network too."""
        return Counter([n for its in self.reads for n in its if n != CONSTANT] + list(self.outputs))

    @cached_property
    def producers(self) -> dict[int, int]:
        """The operator that makes each tensor."""
        return {n: at for at, its in enumerate(self.writes) for n in its}

    @cached_property
    def tensors(self) -> dict[int, TensorSpec]:
        found: dict[int, TensorSpec] = {}
        for spec, reads, writes in zip(self.operators, self.reads, self.writes, strict=True):
            found |= {n: t for n, t in zip((*reads, *writes), (*spec.inputs, *spec.outputs), strict=True) if n != CONSTANT}
        return found


def flow_of(network: Graph | Sequence[OpSpec]) -> Flow:
    """Of a Graph exactly. A list of operators does not say who reads what: it is taken for a network in execution order.

    There, an operand is the result of the operator before it where that fits, else the latest result that fits, one that nobody
    has read yet first, else an input of the network. So residuals, gates and squeeze-and-excite come out right; branches side by
    side only where their shapes differ.
    """
    return _of_graph(network) if isinstance(network, Graph) else _of_list(network)


def _of_graph(graph: Graph) -> Flow:
    numbers: dict[str, int] = {}
    reads, writes = [], []
    for spec, group in zip(graph.operators(), graph.groups(), strict=True):
        names = list(group[-1].inputs)[: len(spec.inputs)]
        for part in group[:-1]:
            if part.kind == "PAD":
                names[0] = part.inputs[0]
        constant = [not name or i in spec.constants for i, name in enumerate(names)]
        reads.append(tuple(CONSTANT if c else numbers.setdefault(t, len(numbers)) for t, c in zip(names, constant, strict=True)))
        writes.append(tuple(numbers.setdefault(t, len(numbers)) for t in group[-1].outputs))
    outputs = frozenset(numbers[t] for t in graph.outputs if t in numbers)
    return Flow(tuple(graph.operators()), tuple(reads), tuple(writes), outputs)


def _of_list(operators: Sequence[OpSpec]) -> Flow:
    made: list[tuple[int, TensorSpec]] = []
    read = set[int]()
    reads, writes = list[tuple[int, ...]](), list[tuple[int, ...]]()
    count = 0
    for spec in operators:
        before = writes[-1] if writes else ()
        its: list[int] = []
        for i, operand in enumerate(spec.inputs):
            if i in spec.constants or operand.dtype == "void":
                its.append(CONSTANT)
                continue
            fits = [n for n, t in made if t == operand and n not in its]
            chosen = max(fits, key=lambda n: (n in before, n not in read, n), default=count)
            count += chosen == count
            its.append(chosen)
        read.update(its)
        reads.append(tuple(its))
        writes.append(tuple(range(count, count + len(spec.outputs))))
        made += zip(writes[-1], spec.outputs, strict=True)
        count += len(spec.outputs)
    last = frozenset(n for n, _ in made if n not in read)
    return Flow(tuple(operators), tuple(reads), tuple(writes), last)
