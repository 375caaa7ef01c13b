"""Names an ONNX graph's nodes, values and initializers after the modules and parameters that they come from."""

from __future__ import annotations

import ast
import itertools
import re
from collections.abc import Collection, Iterator

import onnx.defs
import onnx_ir as ir

_SCOPES = "pkg.torch.onnx.name_scopes"  # what torch.onnx notes: the module path, outermost first, then the operator's own name
_REARRANGES = ("Identity", "Reshape", "Squeeze", "Transpose", "Unsqueeze")
_WEIGHTED = ("Conv", "ConvTranspose", "Gemm")


def mark_parameters(model: ir.Model) -> None:
    """Names what merely rearranges a parameter after it, so that `rename` knows it when it has been folded."""
    parameters = dict(model.graph.initializers)
    taken = set(parameters) | {v.name for node in model.graph for v in node.outputs if v.name}
    for node in model.graph:
        source = node.inputs[0] if node.inputs else None
        if (
            node.op_type in _REARRANGES
            and source is not None
            and source.name in parameters
            and not node.outputs[0].is_graph_output()
        ):
            node.outputs[0].name = _unique(f"{source.name}_{node.op_type.lower()}", taken)
            parameters[node.outputs[0].name] = node.outputs[0]


def rename(model: ir.Model, parameters: Collection[str]) -> None:
    """`blocks.0.conv_dw/Conv` for nodes, `blocks.0.conv_dw/Conv_output` for their values, `blocks.0.conv_dw.weight` for weights.

    Nodes of one kind in one module are numbered (…/Conv, …/Conv_1); inputs and outputs keep their names. A constant that is
    no parameter is named after the first node that reads it and the operand's name in the ONNX standard.
    """
    graph = model.graph
    fixed = [*graph.inputs, *graph.outputs]
    nodes: set[str] = set()
    values = {_name(v) for v in fixed}
    names: dict[ir.Value, str] = {}
    for node in graph:
        path = _module_path(node, parameters)
        node.name = _unique(f"{path}/{node.op_type}" if path else node.op_type, nodes)
        for i, value in enumerate(node.inputs):
            if value is not None and value.is_initializer() and value not in names:
                names[value] = _unique(_initializer_name(node, i, path, parameters), values)
        for i, value in enumerate(node.outputs):
            if value not in fixed:
                names[value] = _unique(f"{node.name}_output{f'_{i}' if len(node.outputs) > 1 else ''}", values)
    for i, value in enumerate(names):
        value.name = f"\0{i}"  # a name that is given below may still be another value's
    for value, name in names.items():
        value.name = name


def _initializer_name(node: ir.Node, index: int, path: str, parameters: Collection[str]) -> str:
    value = node.inputs[index]
    assert value is not None
    if node.op_type in _WEIGHTED and index == 2 and (owner := _parameter(node.inputs[1], parameters)):
        return re.sub(r"\.weight$", "", owner) + ".bias"
    parameter = _parameter(value, parameters)
    return parameter or f"{node.name}_{_operand(node, index)}"


def _parameter(value: ir.Value | None, parameters: Collection[str]) -> str:
    """The parameter that a constant was made of: it bears its name, or that and a suffix."""
    name = _name(value) if value is not None else ""
    return next((found for found in _prefixes(name) if found in parameters), "")


def _prefixes(name: str) -> Iterator[str]:
    yield name
    for i in reversed([i for i, letter in enumerate(name) if letter == "_"]):
        yield name[:i]


def _module_path(node: ir.Node, parameters: Collection[str]) -> str:
    """That of the layer whose weights the node has, or else of the module that called the operator: folded BatchNorm vanishes."""
    if node.op_type in _WEIGHTED:
        owner = _parameter(node.inputs[1], parameters)
        if owner:
            return owner.rpartition(".")[0]
    scopes = ast.literal_eval(node.metadata_props.get(_SCOPES, "[]"))
    if len(scopes) > 1:
        return re.sub(r"@\d+", "", scopes[-2])
    readers = [_module_path(use.node, parameters).split(".") for output in node.outputs for use in output.uses()]
    shared = itertools.takewhile(lambda parts: len(set(parts)) == 1, zip(*readers, strict=False))
    return ".".join(parts[0] for parts in shared)  # the optimiser made it and noted no module


def _operand(node: ir.Node, index: int) -> str:
    formal = onnx.defs.get_schema(node.op_type, domain=node.domain).inputs
    return str(formal[index].name) if index < len(formal) - 1 or len(formal) == len(node.inputs) else f"{formal[-1].name}{index}"


def _name(value: ir.Value) -> str:
    return value.name or ""


def _unique(name: str, taken: set[str]) -> str:
    found, i = name, 0
    while found in taken:
        i += 1
        found = f"{name}_{i}"
    taken.add(found)
    return found
