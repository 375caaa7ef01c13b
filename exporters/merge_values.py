"""Values of a traced network that are known without its input."""

from __future__ import annotations

import copy
import operator
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.nn.modules.dropout import _DropoutNd

from paceline.exporters.traced import writes_in_place

_ELEMENTWISE = (operator.add, operator.sub, operator.mul, operator.truediv, torch.add, torch.sub, torch.mul, torch.div)

_BY_CHANCE = ("rand", "dropout", "bernoulli", "normal_", "multinomial")


class Values:
    """Constants, where they are held, and which values are matrices."""

    def __init__(self, network: fx.GraphModule) -> None:
        self.modules = dict(network.named_modules())
        self._network = network
        self._constants: dict[fx.Node, Tensor | None] = {}
        self._matrices: dict[fx.Node, bool] = {}

    def constant(self, node: fx.Node) -> Tensor | None:
        """The value of a node that does not depend on the network's input, in float64; None for others."""
        if node not in self._constants:
            self._constants[node] = None
            self._constants[node] = self._evaluated(node)
        return self._constants[node]

    def holder(self, value: object, node: fx.Node) -> tuple[str, Tensor | None]:
        """The path of the first tensor that a constant is computed from (of its module for a weight), and that tensor."""
        while isinstance(value, fx.Node) and value.op != "get_attr":
            value = next(iter(value.all_input_nodes), None)
        if not isinstance(value, fx.Node):
            return node.name, None
        target = str(value.target)
        path, _, name = target.rpartition(".")
        return path if path and name in ("weight", "running_mean") else target, self._attribute(target)

    def _attribute(self, target: str) -> Tensor | None:
        path, _, name = target.rpartition(".")
        value = getattr(self._network.get_submodule(path), name, None)
        return value if isinstance(value, Tensor) else None

    @torch.no_grad()
    def _evaluated(self, node: fx.Node) -> Tensor | None:
        if node.op == "get_attr":
            value = self._attribute(str(node.target))
            return None if value is None else _double(value.detach())
        inputs = node.all_input_nodes
        if any(word in str(getattr(node.target, "__name__", node.target)) for word in _BY_CHANCE):
            return None
        if not inputs or node.op not in ("call_function", "call_method", "call_module") or writes_in_place(node, self.modules):
            return None
        values = {n: self.constant(n) for n in inputs}
        if any(v is None for v in values.values()):
            return None
        args, kwargs = fx.map_arg((node.args, node.kwargs), lambda n: values[n])
        if node.op == "call_module":
            result = copy.deepcopy(self.modules[str(node.target)]).double()(*args, **kwargs)
        elif node.op == "call_method":
            result = getattr(args[0], str(node.target))(*args[1:], **kwargs)
        else:
            result = node.target(*args, **kwargs)  # type: ignore[operator]
        return result if isinstance(result, Tensor) else None

    def is_matrix(self, node: fx.Node) -> bool:
        """Whether a value is known to have two axes: what flattening gives, and what keeps its shape."""
        if node not in self._matrices:
            self._matrices[node] = False
            self._matrices[node] = self._flattens(node) or (
                (
                    node.op == "call_module"
                    and isinstance(
                        self.modules[str(node.target)], nn.Linear | nn.BatchNorm1d | nn.Identity | _DropoutNd | nn.ReLU
                    )
                    and self.is_matrix(node.all_input_nodes[0])
                )
                or (
                    node.target in _ELEMENTWISE
                    and all(self.is_matrix(n) or self.constant(n) is not None for n in node.all_input_nodes)
                )
            )
        return self._matrices[node]

    def _flattens(self, node: fx.Node) -> bool:
        if node.op == "call_module":
            module = self.modules[str(node.target)]
            return isinstance(module, nn.Flatten) and (module.start_dim, module.end_dim) == (1, -1)
        if node.target in (torch.flatten, "flatten"):
            given = arguments(node, {"input": None, "start_dim": 0, "end_dim": -1})
            return (given["start_dim"], given["end_dim"]) == (1, -1)
        if node.target in (torch.mean, "mean"):  # of an image: two more axes than these
            given = arguments(node, {"input": None, "dim": None, "keepdim": False})
            over = given["dim"]
            return isinstance(over, tuple | list) and sorted(over) == [2, 3] and not given["keepdim"]
        return False


def arguments(node: fx.Node, defaults: Mapping[str, Any]) -> dict[str, Any]:
    """The arguments of a call by name."""
    return {**defaults, **dict(zip(defaults, node.args, strict=False)), **node.kwargs}


def _double(value: Tensor) -> Tensor:
    return value.double() if value.is_floating_point() else value
