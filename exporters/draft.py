"""A Graph while it is being built: lowerings append operators, passes rewrite them, `graph()` freezes the result."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import numpy as np

from paceline.graph import Array, AttrValue, Graph, Op, TensorSpec, attrs

Shape = tuple[int, ...]


class Draft:
    """Operators in order, the shape of every computed tensor, and constants in any float precision until they are cast once.

    Three operators exist only here: EXPAND (repeats along dimensions of size 1), CHANNEL_SHUFFLE (attr groups: channels seen as
    (groups, C / groups) are transposed), and TRANSPOSE_CONV with `crop=(top, left)` of a larger result. `legalise` replaces them.
    """

    def __init__(self) -> None:
        self.ops: list[Op] = []
        self.shapes: dict[str, Shape] = {}
        self.constants: dict[str, Array] = {}
        self.inputs: tuple[str, ...] = ()
        self.outputs: tuple[str, ...] = ()
        self.source = ""
        self.label = ""
        self._bases: dict[str, str] = {}
        self._taken: Counter[str] = Counter()

    def at(self, source: str, label: str) -> None:
        """What is emitted from now on comes from the module path `source`; its tensors are named after `label`."""
        self.source, self.label = source, label

    def tensor(self, name: str, shape: Shape) -> str:
        """A new computed tensor, named as asked or with a number behind."""
        self._taken[name] += 1
        unique = name if self._taken[name] == 1 else f"{name}:{self._taken[name] - 1}"
        self.shapes[unique] = shape
        return unique

    def constant(self, base: str, values: Array) -> str:
        """A new constant; where several share `base` and their values, the finished graph holds one."""
        self._taken[f"={base}"] += 1
        name = f"={base}={self._taken[f'={base}']}"
        self.constants[name], self.shapes[name], self._bases[name] = values, values.shape, base
        return name

    def revised(self, name: str, values: Array) -> str:
        """A constant that takes the place of the constant `name`; other readers of that keep theirs."""
        return self.constant(self._bases[name], values)

    def emit(self, kind: str, inputs: Sequence[str], shape: Shape, **attributes: AttrValue) -> str:
        """Appends an operator with one result of `shape` and returns the name of that."""
        return self.emit_many(kind, inputs, [shape], **attributes)[0]

    def emit_many(self, kind: str, inputs: Sequence[str], shapes: Sequence[Shape], **attributes: AttrValue) -> tuple[str, ...]:
        outputs = tuple(self.tensor(self.label, shape) for shape in shapes)
        self.ops.append(Op(kind, tuple(inputs), outputs, attrs(**attributes), self.source))
        return outputs

    def reads(self) -> Counter[str]:
        """How often each tensor is read, the graph's outputs included."""
        return Counter([t for op in self.ops for t in op.inputs] + list(self.outputs))

    def producers(self) -> dict[str, Op]:
        return {t: op for op in self.ops for t in op.outputs}

    def graph(self) -> Graph:
        """The finished graph: constants in float32 (indices in int32) under readable names, equal ones of one origin once."""
        names: dict[str, str] = {}
        weights: dict[str, Array] = {}
        read = (t for op in self.ops for t in op.inputs)
        for tensor in dict.fromkeys(t for t in (*read, *self.outputs) if t in self.constants):
            values = self.constants[tensor]
            values = np.asarray(values, values.dtype if values.dtype == np.int32 else np.float32, order="C")
            number, name = 0, self._bases[tensor]
            while name in self.shapes or (name in weights and not np.array_equal(weights[name], values)):
                number += 1
                name = f"{self._bases[tensor]}:{number}"
            names[tensor] = name
            weights[name] = values
        ops = tuple(Op(op.kind, tuple(names.get(t, t) for t in op.inputs), op.outputs, op.attrs, op.source) for op in self.ops)
        computed = dict.fromkeys([*self.inputs, *(t for op in ops for t in op.outputs)])
        tensors = {t: TensorSpec(self.shapes[t]) for t in computed}
        tensors |= {t: TensorSpec(w.shape, w.dtype.name) for t, w in weights.items()}
        return Graph(ops, tensors, self.inputs, tuple(names.get(t, t) for t in self.outputs), weights)
