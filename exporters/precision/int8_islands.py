"""Float operators left between DEQUANTIZE and QUANTIZE in an int8 graph: computed on int8 where TFLite has such a kernel."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from paceline.exporters.precision.activation_ranges import CLIPS, KEEPS_SCALE
from paceline.exporters.tflite import Model
from paceline.graph import Array, Graph, Op, Quantization, TensorSpec

_OWN_SCALE = frozenset({"LEAKY_RELU", "PRELU", "ELU", "ABS"})
"""Kinds that the quantizer does not know, whose int8 kernels take different scales for operand and result."""
_ONE_SCALE = KEEPS_SCALE | {"MINIMUM"}
"""Kinds whose int8 kernels take one scale for all operands and the result."""


def joined(model: Model) -> Model:
    """The model with fewer operators in its one graph: computed on int8 where a kernel exists, no QUANTIZE that undoes a
    DEQUANTIZE, and no clipping activation where int8 saturates just there."""
    islands = _Islands(model.graph)
    graph = _without_clips(_needed(islands.graph()))
    signatures = tuple(
        replace(s, outputs={name: islands.stands_for.get(t, t) for name, t in s.outputs.items()}) for s in model.signatures
    )
    return replace(model, graphs=(graph,), signatures=signatures)


class _Islands:
    def __init__(self, graph: Graph) -> None:
        self._before = graph
        self._tensors, self._weights = dict(graph.tensors), dict(graph.weights)
        self._quantization = dict(graph.quantization)
        self._ops: list[Op] = []
        self._source: dict[str, str] = {}
        """Float tensors that are dequantised int8 tensors."""
        self.stands_for: dict[str, str] = {}
        """What became of tensors that are gone."""
        self._target = {op.inputs[0]: op.outputs[0] for op in graph.ops if op.kind == "QUANTIZE" and self._is_int8(op.outputs[0])}
        for op in graph.ops:
            self._add(replace(op, inputs=tuple(self.stands_for.get(t, t) for t in op.inputs)))

    def graph(self) -> Graph:
        outputs = tuple(self.stands_for.get(t, t) for t in self._before.outputs)
        return replace(
            self._before,
            ops=tuple(self._ops),
            tensors=self._tensors,
            weights=self._weights,
            quantization=self._quantization,
            outputs=outputs,
        )

    def _add(self, op: Op) -> None:
        if op.kind == "QUANTIZE" and op.inputs[0] in self._source:
            self._requantise(op, self._source[op.inputs[0]])
        elif op.kind in _OWN_SCALE | _ONE_SCALE and self._runs_on_int8(op):
            self._on_int8(op)
        else:
            if op.kind == "DEQUANTIZE" and self._is_int8(op.inputs[0]) and op.inputs[0] not in self._weights:
                self._source[op.outputs[0]] = op.inputs[0]
            self._ops.append(op)

    def _requantise(self, op: Op, source: str) -> None:
        (result,) = op.outputs
        same = self._quantization[source] == self._quantization[result]
        if same and not (source in self._before.inputs and result in self._before.outputs):
            self.stands_for[result] = source
        else:
            self._ops.append(replace(op, inputs=(source,)))

    def _runs_on_int8(self, op: Op) -> bool:
        floats = [t for t in op.inputs if t and self._tensors[t].dtype == "float32"]
        sources = [self._source.get(t, "") for t in floats if t not in self._weights]
        return (
            len(op.outputs) == 1
            and self._tensors[op.outputs[0]].dtype == "float32"
            and all(sources)
            and len({self._quantization[t] for t in sources}) == 1
            and (len(sources) == len(floats) or op.kind == "PRELU")
            and (op.kind in _ONE_SCALE or op.outputs[0] in self._target)
        )

    def _on_int8(self, op: Op) -> None:
        (result,) = op.outputs
        inputs = [self._source.get(t, t) for t in op.inputs]
        if op.kind == "PRELU":
            inputs[1] = self._quantised_constant(inputs[1])
        spec = self._tensors[result]
        dequantised = self._new(f"{result}_dequant", spec)
        self._tensors[result] = replace(spec, dtype="int8")
        self._quantization[result] = self._quantization[self._target[result] if op.kind in _OWN_SCALE else inputs[0]]
        self._ops += [
            replace(op, inputs=tuple(inputs), version=0),
            Op("DEQUANTIZE", (result,), (dequantised,), source=op.source),
        ]
        self._source[dequantised], self.stands_for[result] = result, dequantised

    def _quantised_constant(self, name: str) -> str:
        """A symmetric int8 copy of a float constant, one scale for all."""
        values: Array = self._weights[name]
        scale = float(np.abs(np.asarray(values, np.float32)).max() or 1.0) / 127
        copy = self._new(f"{name}_quantized", replace(self._tensors[name], dtype="int8"))
        self._weights[copy] = np.round(np.asarray(values, np.float32) / scale).astype(np.int8)
        self._quantization[copy] = Quantization((scale,), (0,))
        return copy

    def _new(self, name: str, spec: TensorSpec) -> str:
        while name in self._tensors:
            name += "_"
        self._tensors[name] = spec
        return name

    def _is_int8(self, tensor: str) -> bool:
        return self._tensors[tensor].dtype == "int8"


def _without_clips(graph: Graph) -> Graph:
    """Without activations that clip int8 tensors to what these can hold anyway; their operand takes their result's name."""
    reads = graph.consumers()
    renamed: dict[str, str] = {}
    ops = []
    for op in graph.ops:
        if op.kind in CLIPS and reads[op.inputs[0]] == 1 and op.inputs[0] not in graph.inputs and _clips_nothing(graph, op):
            renamed[op.inputs[0]] = op.outputs[0]
        else:
            ops.append(op)

    def last(tensor: str) -> str:
        while tensor in renamed:
            tensor = renamed[tensor]
        return tensor

    return _needed(replace(graph, ops=tuple(replace(op, outputs=tuple(map(last, op.outputs))) for op in ops)))


def _clips_nothing(graph: Graph, op: Op) -> bool:
    held = graph.quantization.get(op.inputs[0])
    if held is None or graph.tensors[op.inputs[0]].dtype != "int8" or held != graph.quantization.get(op.outputs[0]):
        return False
    (scale,), (zero_point,), (low, high) = held.scale, held.zero_point, CLIPS[op.kind]
    return scale * (-128 - zero_point) >= low - scale / 2 and scale * (127 - zero_point) <= high + scale / 2


def _needed(graph: Graph) -> Graph:
    """Without operators and tensors that nothing needs."""
    needed = set(graph.outputs)
    ops: list[Op] = []
    for op in reversed(graph.ops):
        if needed.intersection(op.outputs):
            ops.append(op)
            needed.update(op.inputs)
    needed.update(graph.inputs, *(op.outputs for op in ops))

    return replace(
        graph,
        ops=tuple(reversed(ops)),
        tensors={name: spec for name, spec in graph.tensors.items() if name in needed},
        weights={name: values for name, values in graph.weights.items() if name in needed},
        quantization={name: meaning for name, meaning in graph.quantization.items() if name in needed},
    )
