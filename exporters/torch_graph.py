"""torch module -> Graph: traced by torch.export, its ATen operators lowered to NHWC, then simplified."""

from __future__ import annotations

import operator
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.export.graph_signature import InputKind, OutputKind

from paceline.errors import ExportError
from paceline.exporters import lowering
from paceline.exporters.decomposing import parts_of
from paceline.exporters.draft import Draft
from paceline.exporters.lowering.layout import arranged, nhwc, stored, usual
from paceline.exporters.lowering.registry import LOWERINGS, Lowering, LoweringError, UnsupportedOperator
from paceline.exporters.lowering.values import Constant, Value
from paceline.exporters.passes import legalise, simplify
from paceline.exporters.tracing import functional, traced
from paceline.graph import Graph

__all__ = ["Lowered", "UnsupportedOperator", "graph_of", "lowered", "lowering"]

_TORCH = str(Path(torch.__file__).parent)


def graph_of(module: nn.Module, example: Tensor | tuple[Tensor, ...]) -> Graph:
    """The operators that a mobile runtime executes for `module` in inference, for inputs shaped like `example`.

    4-D inputs and outputs are NHWC in the Graph (NCHW in torch), all others keep torch's order. BatchNorm is folded into the
    convolution or linear layer in front of it, ReLU and ReLU6 are fused, `Op.source` is the module path. Raises
    UnsupportedOperator for an operator with no exact counterpart, ExportError for a module in training mode or one that
    torch.export can't trace.
    """
    return lowered(module, example).graph


@dataclass(frozen=True)
class Lowered:
    """A Graph and the names of the passes that changed something on the way to it."""

    graph: Graph
    passes: tuple[str, ...]


def lowered(module: nn.Module, example: Tensor | tuple[Tensor, ...]) -> Lowered:
    """As `graph_of`, with the passes."""
    draft = draft_of(module, example)
    used = simplify(draft)
    legalise(draft)
    used += tuple(name for name in simplify(draft) if name not in used)
    return Lowered(draft.graph(), used)


def draft_of(module: nn.Module, example: Tensor | tuple[Tensor, ...]) -> Draft:
    """The operators as they are lowered, before any pass."""
    examples = example if isinstance(example, tuple) else (example,)
    program = traced(module, examples)
    if _overwrites(program.graph_module.graph):
        program = functional(program)
    draft = Draft()
    arguments: list[Any] = []
    for spec in program.graph_signature.input_specs:
        if spec.kind == InputKind.USER_INPUT:
            shape = tuple(examples[len(draft.inputs)].shape)
            arguments.append(stored(draft.tensor(spec.arg.name, nhwc(shape)), shape))
            draft.inputs += (arguments[-1].name,)
        else:
            target = spec.target or spec.arg.name
            tensor = program.state_dict[target] if target in program.state_dict else program.constants[target]
            if not isinstance(tensor, Tensor):
                what = f"{target!r} of {type(module).__name__} is a {type(tensor).__name__}"
                raise ExportError(f"{what}; use tensors and numbers only")
            arguments.append(Constant(target, tensor.detach()))
    with torch.no_grad():
        outputs = _Interpreter(draft, program.graph_module).run(arguments)
    specs = program.graph_signature.output_specs
    kept = [o for o, spec in zip(outputs, specs, strict=True) if spec.kind == OutputKind.USER_OUTPUT]
    for i, result in enumerate(kept):
        if not isinstance(result, Value | Constant):
            reason = f"output {i} of {type(module).__name__} is {result!r}, no tensor"
            raise ExportError(f"{reason}; return tensors only")
    if not any(isinstance(o, Value) for o in kept):
        raise ExportError(f"{type(module).__name__} returns what does not depend on its inputs; return computed tensors")
    draft.at("", "output")
    draft.outputs = tuple(_output(draft, o) for o in kept)
    return draft


def _output(draft: Draft, result: Value | Constant) -> str:
    """A result as a tensor of its own: 4-D as NHWC, others as torch has them."""
    if isinstance(result, Constant):
        values = result.tensor.detach().cpu().numpy()
        return draft.constant(result.name, values.transpose(0, 2, 3, 1) if values.ndim == 4 else values)
    return arranged(draft, result, usual(result.dims)).name


class _Interpreter:
    """Walks a traced graph: evaluates what does not depend on the inputs, lowers the rest."""

    def __init__(self, draft: Draft, module: fx.GraphModule) -> None:
        self.draft = draft
        self.module = module

    def run(self, arguments: Sequence[Any]) -> tuple[Any, ...]:
        values: dict[fx.Node, Any] = {}
        remaining = iter(arguments)
        for node in self.module.graph.nodes:
            if node.op == "placeholder":
                values[node] = next(remaining)
            elif node.op == "get_attr":
                found = operator.attrgetter(node.target)(self.module)
                values[node] = Constant(node.target, found) if isinstance(found, Tensor) else found
            elif node.op == "output":
                return tuple(fx.map_arg(node.args[0], values.__getitem__))
            else:
                values[node] = self._call(node, values) if node.users else None
        raise ExportError("the traced graph has no output")

    def _call(self, node: fx.Node, values: dict[fx.Node, Any]) -> Any:
        args: Any = fx.map_arg(node.args, values.__getitem__)
        kwargs: Any = fx.map_arg(node.kwargs, values.__getitem__)
        try:
            if node.target is operator.getitem:
                return self._item(node, *args)
            part = _wrapped(node.target, args)
            if part is not None:
                return _Interpreter(self.draft, part[0]).run(part[1])
            if not isinstance(node.target, torch._ops.OpOverload) or node.target.namespace != "aten":
                raise LoweringError("it is no ATen operator", "write this part with plain torch functions")
            if node.target._opname.startswith("_assert"):
                return None
            path = _module_path(node)
            self.draft.at(path, f"{path or 'network'}/{_name(node.target)}")
            arguments = _bound(node.target, args, kwargs)
            if not any(isinstance(leaf, Value) for leaf in _leaves(arguments)):
                return _evaluated(node, args, kwargs)
            found = self._in_parts(node, args, kwargs) if _has_parts(node) else None
            return _checked(node, self._lowered(node, arguments) if found is None else found)
        except LoweringError as e:
            raise _located(node, e) from e

    def _item(self, node: fx.Node, values: Sequence[Any], index: int) -> Any:
        if values[index] is None:
            raise LoweringError(f"result {index} of {node.args[0]} is used", "use the values only, not the indices")
        return values[index]

    def _lowered(self, node: fx.Node, arguments: list[Any]) -> Any:
        assert isinstance(node.target, torch._ops.OpOverload)
        results = node.meta["val"]
        if isinstance(results, Tensor):
            if results.dtype != torch.float32:
                raise LoweringError(f"it computes {results.dtype}", "compute in float32")
            return self._function(node.target)(self.draft, _static(results), *arguments)
        return self._function(node.target)(self.draft, tuple(_static(r) for r in results), *arguments)

    def _function(self, target: torch._ops.OpOverload) -> Lowering:
        name = _name(target)
        function = LOWERINGS.get(f"{name}.{target._overloadname}") or LOWERINGS.get(name)
        if function is None:
            raise LoweringError("there is no lowering for it", "express it with operators that mobile runtimes have")
        return function

    def _in_parts(self, node: fx.Node, args: Any, kwargs: Any) -> Any:
        """The result of an operator by those of which torch makes it up; None where one of these has no lowering either."""
        found = parts_of(node.target, args, kwargs)  # type: ignore[arg-type]
        if found is None:
            return None
        graph, operands = found
        for part in graph.graph.nodes:
            part.meta |= {key: node.meta[key] for key in ("nn_module_stack", "stack_trace") if key in node.meta}
        try:
            results = _Interpreter(self.draft, graph).run(operands)
        except UnsupportedOperator:
            return None
        return results[0] if isinstance(node.meta["val"], Tensor) else results


def _has_parts(node: fx.Node) -> bool:
    """Whether it is worth asking torch what `node` is made of: no lowering is known, and it computes float32."""
    target, result = node.target, node.meta["val"]
    assert isinstance(target, torch._ops.OpOverload)
    known = _name(target) in LOWERINGS or f"{_name(target)}.{target._overloadname}" in LOWERINGS
    return not known and (not isinstance(result, Tensor) or result.dtype == torch.float32)


def _checked(node: fx.Node, results: Any) -> Any:
    """`results`, which must have the shapes that torch computes: a wrong graph shall never leave unseen."""
    expected = [node.meta["val"]] if isinstance(node.meta["val"], Tensor) else node.meta["val"]
    computed = [results] if isinstance(node.meta["val"], Tensor) else results
    for theirs, ours in zip(expected, computed, strict=False):
        known = isinstance(ours, Value | Constant) and all(isinstance(n, int) for n in theirs.shape)
        if known and ours.shape != tuple(theirs.shape):
            reason = f"its lowering has the result {ours.shape} instead of {tuple(theirs.shape)}"
            raise LoweringError(reason, "report this as a defect of Paceline")
    return results


def _wrapped(target: Any, args: Sequence[Any]) -> tuple[fx.GraphModule, Sequence[Any]] | None:
    """The part of the network that runs without gradients or under autocast, and its arguments."""
    name = getattr(target, "__name__", "")
    first = {"wrap_with_set_grad_enabled": 1, "wrap_with_autocast": 4}.get(name)
    return None if first is None else (args[first], args[first + 1 :])


def _static(result: Tensor) -> tuple[int, ...]:
    if not all(isinstance(n, int) for n in result.shape):
        raise LoweringError("the shape of its result depends on values", "use indices, not masks")
    return tuple(result.shape)


def _name(target: torch._ops.OpOverload) -> str:
    """The operator's bare name; in-place variants have the name of the others."""
    return target._opname.rstrip("_") or target._opname


def _bound(target: torch._ops.OpOverload, args: tuple[Any, ...], kwargs: dict[str, Any]) -> list[Any]:
    """All arguments in the schema's order."""
    rest = target._schema.arguments[len(args) :]
    return [*args, *(kwargs.get(a.name, a.default_value if a.has_default_value() else None) for a in rest)]


def _leaves(value: Any) -> Iterator[Any]:
    if isinstance(value, list | tuple):
        for item in value:
            yield from _leaves(item)
    else:
        yield value


def _evaluated(node: fx.Node, args: Any, kwargs: Any) -> Any:
    """The result of an operator on constants; in-place operators get copies, the module's tensors stay as they are."""
    target = node.target
    assert isinstance(target, torch._ops.OpOverload)
    if torch.Tag.nondeterministic_seeded in target.tags and not _dropout_at_rest(target, args, kwargs):
        raise LoweringError("it draws random numbers", "pass the numbers as an input, or make them a buffer")
    write = target._schema.is_mutable

    def tensor(leaf: Any) -> Any:
        return (leaf.tensor.clone() if write else leaf.tensor) if isinstance(leaf, Constant) else leaf

    result = target(*_mapped(args, tensor), **_mapped(kwargs, tensor))
    return _mapped(result, lambda leaf: Constant(node.name, leaf) if isinstance(leaf, Tensor) else leaf)


def _dropout_at_rest(target: torch._ops.OpOverload, args: Any, kwargs: Any) -> bool:
    arguments = dict(zip((a.name for a in target._schema.arguments), _bound(target, args, kwargs), strict=True))
    return "dropout" in target._opname and arguments.get("train") is False


def _mapped(value: Any, function: Callable[[Any], Any]) -> Any:
    if isinstance(value, list | tuple):
        return [_mapped(item, function) for item in value]
    if isinstance(value, dict):
        return {key: _mapped(item, function) for key, item in value.items()}
    return function(value)


def _located(node: fx.Node, error: LoweringError) -> UnsupportedOperator:
    where = f"in module {_module_path(node) or '(the network itself)'!r} at {_source_line(node)}"
    return UnsupportedOperator(f"{node.target} {where} can't be exported: {error.reason}. Remedy: {error.remedy}.")


def _module_path(node: fx.Node) -> str:
    stack = list((node.meta.get("nn_module_stack") or {}).values())
    return re.sub(r"@\d+", "", str(stack[-1][0])) if stack else ""


def _source_line(node: fx.Node) -> str:
    """file:line of the innermost call that is not torch's own."""
    lines = re.findall(r'File "(.+?)", line (\d+)', node.meta.get("stack_trace") or "")
    own = [f"{file}:{line}" for file, line in lines if not file.startswith(_TORCH)]
    return own[-1] if own else "an unknown line"


def _overwrites(graph: fx.Graph) -> bool:
    """Whether an in-place operator changes another tensor which is read later: the order of operators does not show that."""
    root: dict[fx.Node, fx.Node] = {}
    position = {node: i for i, node in enumerate(graph.nodes)}
    family: dict[fx.Node, list[fx.Node]] = {}
    for node in graph.nodes:
        source = node.args[0] if node.args and isinstance(node.args[0], fx.Node) else None
        root[node] = root[source] if source is not None and _shares_memory(node) else node
        late = (position[user] > position[node] for m in family.get(root[node], ()) for user in m.users)
        if _writes(node) and source is not None and any(late):
            return True
        family.setdefault(root[node], []).append(node)
    return False


def _writes(node: fx.Node) -> bool:
    return isinstance(node.target, torch._ops.OpOverload) and node.target._schema.is_mutable


def _shares_memory(node: fx.Node) -> bool:
    if node.target is operator.getitem:
        return True
    if not isinstance(node.target, torch._ops.OpOverload):
        return False
    return _name(node.target) == "dropout" or any(r.alias_info is not None for r in node.target._schema.returns)
