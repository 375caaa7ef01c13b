"""Makes an ONNX graph as small as it can be without changing what it computes: onnxscript's optimiser, and what that leaves."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_ir as ir
from onnx_ir.passes import common
from onnxscript import optimizer

PASSES = ("onnxscript optimizer", "fold_channel_affine", "global_average_pool", "share_initializers")
"""What `simplify` applies, in order: for an export's provenance."""

_NO_LIMIT = 2**31  # elements: all that is constant is folded and shared, weights among it


def simplify(model: ir.Model) -> None:
    """Folds constants, BatchNorm and per-channel scales; drops what is unused, shares equal initializers. In place."""
    optimizer.optimize_ir(model, input_size_limit=_NO_LIMIT, output_size_limit=_NO_LIMIT)
    while sum(_folded(model.graph, node) for node in list(model.graph)):  # every node, again after each success
        pass
    for node in list(model.graph):
        _pool(model.graph, node)
    # Equal initializers are shared before equal nodes are looked for: only then are these recognised.
    for make in (common.RemoveUnusedNodesPass, _share_initializers, common.CommonSubexpressionEliminationPass):
        make()(model)
    common.RemoveUnusedNodesPass()(model)


def _share_initializers() -> Any:
    return common.DeduplicateInitializersPass(size_limit=_NO_LIMIT)


Array = npt.NDArray[Any]


@dataclass(frozen=True)
class _Affine:
    """x * scale + shift for each channel (axis 1) of the 4-D tensor `x`; both in float64, of shape (C,)."""

    x: ir.Value
    scale: Array
    shift: Array


def _folded(graph: ir.Graph, node: ir.Node) -> bool:
    """Folds a per-channel scale and shift (BatchNorm, multiplication or addition of constants) into the convolutions around it.

    Either into all that its input comes from (also through a concatenation of channels), or into all that read its output:
    these must not pad where there is a shift, for zeros are padded after it.
    """
    affine = _affine(node)
    if affine is None or node.outputs[0].is_graph_output():
        return False
    readers = [use.node for use in node.outputs[0].uses()]
    sources = _sources(affine.x)
    if sources:
        start = 0
        for conv in sources:
            stop = start + _shape(conv.outputs[0])[1]
            _scale_output(graph, conv, affine.scale[start:stop], affine.shift[start:stop])
            start = stop
    elif readers and all(_reads(conv, node.outputs[0], bool(affine.shift.any())) for conv in readers):
        for conv in readers:
            _scale_input(graph, conv, affine.scale, affine.shift)
    else:
        return False
    node.outputs[0].replace_all_uses_with(affine.x)
    graph.remove(node, safe=True)
    return True


def _affine(node: ir.Node) -> _Affine | None:
    if node.op_type == "BatchNormalization":
        x, *rest = (_present(v) for v in node.inputs[:5])
        parameters = [_constant(v) for v in rest]
        if any(p is None for p in parameters) or len(_shape(x)) != 4:
            return None
        gamma, beta, mean, var = (p.astype(np.float64) for p in parameters if p is not None)
        scale = gamma / np.sqrt(var + node.attributes.get_float("epsilon", 1e-5))
        return _Affine(x, scale, beta - mean * scale)
    if node.op_type not in ("Mul", "Add"):
        return None
    operands = [_present(v) for v in node.inputs]
    for x, other in (operands, operands[::-1]):
        values = _per_channel(other, _shape(x))
        if values is not None and _shape(x) == _shape(node.outputs[0]):
            neutral = np.zeros_like(values) if node.op_type == "Mul" else np.ones_like(values)
            return _Affine(x, *((values, neutral) if node.op_type == "Mul" else (neutral, values)))
    return None


def _per_channel(value: ir.Value, shape: tuple[int, ...]) -> Array | None:
    """The constant `value` as one number a channel of a tensor of `shape`, or None where it is something else."""
    constant = _constant(value)
    if constant is None or len(shape) != 4 or constant.ndim > 4:
        return None
    whole = constant.reshape((1,) * (4 - constant.ndim) + constant.shape)
    if whole.shape not in ((1, 1, 1, 1), (1, shape[1], 1, 1)):
        return None
    return np.broadcast_to(whole.reshape(-1), (shape[1],)).astype(np.float64)


def _sources(value: ir.Value) -> list[ir.Node]:
    """The convolutions whose outputs, one after the other, are the channels of `value`; none where it is used elsewhere too."""
    producer = value.producer()
    if producer is None or len(value.uses()) != 1 or value.is_graph_output():
        return []
    if _is_constant_conv(producer):
        return [producer]
    if producer.op_type != "Concat" or producer.attributes.get_int("axis") not in (1, -3):
        return []
    parts = [_sources(_present(v)) for v in producer.inputs]
    return [conv for part in parts for conv in part] if all(parts) else []


def _reads(conv: ir.Node, value: ir.Value, shifted: bool) -> bool:
    """Does a convolution with constant weights take `value`, unpadded where it is `shifted`?"""
    if not _is_constant_conv(conv) or conv.inputs[0] is not value:
        return False
    return not shifted or (
        not any(conv.attributes.get_ints("pads", ())) and conv.attributes.get_string("auto_pad", "NOTSET") == "NOTSET"
    )


def _is_constant_conv(node: ir.Node) -> bool:
    return node.op_type == "Conv" and all(v is None or _constant(v) is not None for v in node.inputs[1:])


def _scale_output(graph: ir.Graph, conv: ir.Node, scale: Array, shift: Array) -> None:
    weights, bias = _parameters(conv)
    _set_parameters(graph, conv, weights * scale.reshape(-1, 1, 1, 1), bias * scale + shift)


def _scale_input(graph: ir.Graph, conv: ir.Node, scale: Array, shift: Array) -> None:
    """Weights are (out, in / groups, height, width): output channel o reads the inputs of its group."""
    weights, bias = _parameters(conv)
    group = conv.attributes.get_int("group", 1)
    of_output = np.repeat(np.arange(group), len(weights) // group)
    scale, shift = (values.reshape(group, -1)[of_output] for values in (scale, shift))
    _set_parameters(graph, conv, weights * scale[:, :, None, None], bias + (weights.sum((2, 3)) * shift).sum(1))


def _parameters(conv: ir.Node) -> tuple[Array, Array]:
    weights = _constant(_present(conv.inputs[1]))
    assert weights is not None
    bias = _constant(conv.inputs[2]) if len(conv.inputs) > 2 else None
    return weights.astype(np.float64), np.zeros(len(weights)) if bias is None else bias.astype(np.float64)


def _set_parameters(graph: ir.Graph, conv: ir.Node, weights: Array, bias: Array) -> None:
    """New initializers: the old ones may be shared with another node."""
    name = _present(conv.inputs[1]).name or ""
    conv.resize_inputs(3)
    for index, (suffix, values) in enumerate((("", weights), ("_bias", bias)), start=1):
        if index == 1 or bias.any() or conv.inputs[index] is not None:
            conv.replace_input_with(index, _initializer(graph, name + suffix, values.astype(np.float32)))
    if conv.inputs[2] is None:
        conv.resize_inputs(2)


def _initializer(graph: ir.Graph, name: str, values: Array) -> ir.Value:
    free = next(n for n in (f"{name}_{i}" for i in range(len(graph.initializers) + 1)) if n not in graph.initializers)
    tensor = ir.tensor(np.ascontiguousarray(values), name=free)
    value = ir.Value(name=free, shape=ir.Shape(values.shape), type=ir.TensorType(tensor.dtype), const_value=tensor)
    graph.register_initializer(value)
    return value


def _pool(graph: ir.Graph, node: ir.Node) -> None:
    """A mean over height and width is a global average pool, which runtimes have in their convolutions' layout."""
    if node.op_type != "ReduceMean" or len(node.inputs) != 2 or node.attributes.get_int("keepdims", 1) != 1:
        return
    x, axes = _present(node.inputs[0]), _constant(_present(node.inputs[1]))
    if axes is None or len(_shape(x)) != 4 or sorted(int(a) % 4 for a in axes) != [2, 3]:
        return
    pool = ir.node("GlobalAveragePool", [x], version=node.version, metadata_props=dict(node.metadata_props))
    ir.convenience.replace_nodes_and_values(graph, node, [node], [pool], node.outputs, pool.outputs)


def _constant(value: ir.Value | None) -> Array | None:
    if value is None or not value.is_initializer() or value.const_value is None:
        return None
    return value.const_value.numpy()


def _present(value: ir.Value | None) -> ir.Value:
    assert value is not None
    return value


def _shape(value: ir.Value) -> tuple[int, ...]:
    """Static: networks are traced for one shape."""
    return value.shape.numpy() if value.shape is not None else ()
