"""Operators that torch itself defines by other operators, taken apart into those."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, fx
from torch._decomp import get_decompositions
from torch.fx.experimental.proxy_tensor import make_fx
from torch.utils import _pytree as pytree

from paceline.exporters.lowering.values import Constant, Value
from paceline.exporters.tracing import quiet

Operator = torch._ops.OpOverload


def parts_of(
    operator: Operator, args: Sequence[Any], kwargs: dict[str, Any]
) -> tuple[fx.GraphModule, list[Value | Constant]] | None:
    """`operator` on `args` and `kwargs` as a graph of other operators, which returns a tuple, and the operands of the graph.

    None for an operator that torch does not define by others, that draws random numbers or writes into its arguments, and
    where the definition depends on values.
    """
    if operator._schema.is_mutable or torch.Tag.nondeterministic_seeded in operator.tags:
        return None
    leaves, structure = pytree.tree_flatten((tuple(args), kwargs))
    places = [i for i, leaf in enumerate(leaves) if isinstance(leaf, Value | Constant)]
    operands = [leaves[i] for i in places]

    def call(*tensors: Tensor) -> tuple[Any, ...]:
        for i, tensor in zip(places, tensors, strict=True):
            leaves[i] = tensor
        positional, named = pytree.tree_unflatten(leaves, structure)
        result = operator(*positional, **named)
        return (result,) if isinstance(result, Tensor) else tuple(result)

    examples = [x.tensor if isinstance(x, Constant) else torch.zeros(x.shape) for x in operands]
    definition: Any = get_decompositions([operator])
    try:
        with quiet(), torch.no_grad():
            graph = make_fx(call, definition, tracing_mode="fake")(*examples)
    except Exception:  # nothing that torch's definition stumbles over can be exported
        return None
    if any(node.target is operator or node.op == "get_attr" for node in graph.graph.nodes):
        return None
    return graph, operands
