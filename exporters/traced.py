"""Networks as torch.fx sees them: traced with their in-place operators, and what single nodes do."""

from __future__ import annotations

import copy
import operator
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, fx, nn

from paceline.exporters.algebra import MergeError


class _Proxy(fx.Proxy):
    """Records `x += y` as what it is; torch.fx takes it for x + y, which is another network where x is read again."""

    def __iadd__(self, other: object) -> fx.Proxy:
        return self._in_place(operator.iadd, other)

    def __isub__(self, other: object) -> fx.Proxy:
        return self._in_place(operator.isub, other)

    def __imul__(self, other: object) -> fx.Proxy:
        return self._in_place(operator.imul, other)

    def __itruediv__(self, other: object) -> fx.Proxy:
        return self._in_place(operator.itruediv, other)

    def _in_place(self, function: Callable[..., object], other: object) -> fx.Proxy:
        return self.tracer.create_proxy("call_function", function, (self, other), {})


class _Tracer(fx.Tracer):
    """Keeps in-place operators, and a user's subclass of a layer whole where it computes what the layer computes."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self._names: dict[Tensor, str] = {value: name for name, value in (*network.named_parameters(), *network.named_buffers())}

    def proxy(self, node: fx.Node) -> fx.Proxy:
        return _Proxy(node, self)

    def getattr(self, attr: str, attr_val: object, parameter_proxy_cache: dict[str, fx.Proxy]) -> object:
        """A parameter by its name; torch.fx goes through all parameters for each, which takes seconds in large networks."""
        if not isinstance(attr_val, nn.Parameter) or attr_val not in self._names:
            return super().getattr(attr, attr_val, parameter_proxy_cache)
        name = self._names[attr_val]
        if name not in parameter_proxy_cache:
            parameter_proxy_cache[name] = self.create_proxy("get_attr", name, (), {})
        return parameter_proxy_cache[name]

    def create_arg(self, a: object) -> Any:
        """A buffer by its name, for the same reason."""
        if isinstance(a, Tensor) and a in self._names:
            return self.create_node("get_attr", self._names[a], (), {})
        return super().create_arg(a)

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        plain = any(is_plain(m, kind) for kind in (nn.Conv2d, nn.BatchNorm2d, nn.SyncBatchNorm))
        return plain or super().is_leaf_module(m, module_qualified_name)


def trace(module: nn.Module) -> fx.GraphModule:
    """A copy of a network in evaluation mode with its graph. Raises MergeError where torch.fx can't trace it."""
    try:
        network = copy.deepcopy(module).eval()  # an exported program has no evaluation mode to go into
        return fx.GraphModule(network, _Tracer(network).trace(network), type(module).__name__)
    except Exception as e:
        raise MergeError(
            f"{type(module).__name__} can't be traced by torch.fx ({e}), so its branches can't be found. Make its forward free "
            "of Python control flow on tensors, or call torch.fx.wrap on the function that needs it"
        ) from e


def is_plain(module: nn.Module, kind: type[nn.Module]) -> bool:
    """Whether a module computes what `kind` computes: the same forward, and no hooks that might change it."""
    same = all(getattr(type(module), f, None) is getattr(kind, f, None) for f in ("forward", "_conv_forward"))
    return isinstance(module, kind) and same and not has_hooks(module)


def has_hooks(module: nn.Module) -> bool:
    return bool(module._forward_hooks or module._forward_pre_hooks)


def is_sum(node: fx.Node) -> bool:
    """An addition of two values, or of a value to the 0 that Python's sum() starts from."""
    function = node.op == "call_function" and node.target in (operator.add, operator.iadd, torch.add)
    method = node.op == "call_method" and node.target in ("add", "add_")
    if not (function or method) or len(node.args) != 2 or node.kwargs:
        return False
    values = [arg for arg in node.args if isinstance(arg, fx.Node)]
    return len(values) == 2 or (len(values) == 1 and any(type(arg) in (int, float) and arg == 0 for arg in node.args))


def is_difference(node: fx.Node) -> bool:
    """A value minus another one."""
    function = node.op == "call_function" and node.target in (operator.sub, operator.isub, torch.sub)
    method = node.op == "call_method" and node.target in ("sub", "sub_")
    if not (function or method) or len(node.args) != 2 or node.kwargs:
        return False
    return all(isinstance(arg, fx.Node) for arg in node.args)


def writes_in_place(node: fx.Node, modules: dict[str, nn.Module]) -> bool:
    """Whether a node may change a value that it reads."""
    if node.op == "call_module":
        return bool(getattr(modules[str(node.target)], "inplace", False))
    if node.op not in ("call_function", "call_method"):
        return False
    name = node.target if isinstance(node.target, str) else getattr(node.target, "__name__", "")
    operators = (operator.iadd, operator.isub, operator.imul, operator.itruediv, operator.setitem)
    # A True among the arguments may be `inplace=True`: taken for it, since that only leaves something unmerged.
    flagged = "out" in node.kwargs or any(arg is True for arg in (*node.args, *node.kwargs.values()))
    return name.endswith("_") or node.target in operators or flagged
