"""Channel shuffles are absorbed by the weights of operators before or behind them.

Pixel shuffle contains one, because DEPTH_TO_SPACE orders channels differently from torch.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import numpy as np

from paceline.exporters.draft import Draft
from paceline.exporters.passes.rewriting import BINARY, EACH_ELEMENT, ints
from paceline.graph import Array, Op

_EACH_CHANNEL = EACH_ELEMENT | {"MAX_POOL_2D", "AVERAGE_POOL_2D", "RESIZE_BILINEAR", "RESIZE_NEAREST_NEIGHBOR"}
"""Operators that compute every channel by itself and in the same way."""


def _order(op: Op, channels: int) -> Array:
    """Which channel a shuffle brings to each place."""
    groups = op.attr("groups")
    assert isinstance(groups, int)
    return np.arange(channels).reshape(groups, channels // groups).T.reshape(-1)


def absorb_shuffles(draft: Draft) -> None:
    """Reorders weights instead of channels: those in front, where nothing but the shuffle reads them, else those behind."""
    if not any(op.kind == "CHANNEL_SHUFFLE" for op in draft.ops):
        return
    search = _Search(draft)
    for op in list(draft.ops):
        if op.kind != "CHANNEL_SHUFFLE":
            continue
        channels = draft.shapes[op.outputs[0]][-1]
        order = _order(op, channels)
        search.rewritten.clear()
        if np.array_equal(order, np.arange(channels)) or search.before(op.inputs[0], order):
            search.rewritten[op.outputs[0]] = replace(search.producers[op.outputs[0]], kind="RESHAPE", attrs=())
        else:
            search.rewritten.clear()
            if not search.behind(op.outputs[0], order):
                continue
            search.rewritten[op.outputs[0]] = replace(op, kind="RESHAPE", attrs=())
        search.producers.update(search.rewritten)
    draft.ops = [search.producers[op.outputs[0]] for op in draft.ops]


class _Search:
    """Looks for weights that can take over a shuffle; what has to be rewritten for it is collected in `rewritten`."""

    def __init__(self, draft: Draft) -> None:
        self.draft = draft
        self.reads: Counter[str] = draft.reads()
        self.producers = {op.outputs[0]: op for op in draft.ops}
        self.first = {t: op.outputs[0] for op in draft.ops for t in op.outputs}
        self.readers = {t: op.outputs[0] for op in draft.ops for t in op.inputs}
        self.rewritten: dict[str, Op] = {}

    def _reordered(self, constant: str, order: Array) -> str:
        """A constant operand of an elementwise operator with its channels in `order`."""
        values = self.draft.constants[constant]
        return constant if values.ndim == 0 or values.shape[-1] == 1 else self.draft.revised(constant, values[..., order])

    def before(self, name: str, order: Array) -> bool:
        """Whether the channels of `name` can be computed in `order`."""
        if name not in self.first or self.reads[name] > 1:
            return False
        op = self.producers[self.first[name]]
        inputs, constants = list(op.inputs), self.draft.constants
        if len(op.outputs) > 1:
            return False
        if op.kind in ("CONV_2D", "FULLY_CONNECTED"):
            if not all(t in constants for t in inputs[1:]) or self._grouped(op):
                return False
            inputs[1:] = [self.draft.revised(t, constants[t][order]) for t in inputs[1:]]
        elif op.kind == "DEPTHWISE_CONV_2D":
            if constants[inputs[1]].shape[3] != self.draft.shapes[inputs[0]][3] or not self.before(inputs[0], order):
                return False
            inputs[1:] = [self.draft.revised(t, constants[t][..., order]) for t in inputs[1:]]
        elif op.kind == "CHANNEL_SHUFFLE":
            if not np.array_equal(_order(op, len(order))[order], np.arange(len(order))):
                return False
            op = replace(op, kind="RESHAPE", attrs=())
        elif op.kind in _EACH_CHANNEL or self._pads_space(op):
            if not self.before(inputs[0], order):
                return False
        elif op.kind == "PRELU" or op.kind in BINARY:
            for i, t in enumerate(inputs):
                if t in constants:
                    inputs[i] = self._reordered(t, order)
                elif self.draft.shapes[t] and self.draft.shapes[t][-1] != 1 and not self.before(t, order):
                    return False
        else:
            return False
        self.rewritten[op.outputs[0]] = replace(op, inputs=tuple(inputs))
        return True

    def behind(self, name: str, order: Array) -> bool:
        """Whether the one reader of `name` can take its channels unshuffled, for `order` is what it expects."""
        if self.reads[name] != 1 or name not in self.readers:
            return False
        op = self.producers[self.readers[name]]
        inputs, constants = list(op.inputs), self.draft.constants
        back = np.argsort(order)
        if inputs[0] != name and op.kind not in BINARY:
            return False
        if op.kind == "CONV_2D":
            if inputs[1] not in constants or self._grouped(op):
                return False
            inputs[1] = self.draft.revised(inputs[1], constants[inputs[1]][..., back])
        elif op.kind == "DEPTHWISE_CONV_2D":
            if constants[inputs[1]].shape[3] != self.draft.shapes[inputs[0]][3] or not self.behind(op.outputs[0], order):
                return False
            inputs[1:] = [self.draft.revised(t, constants[t][..., back]) for t in inputs[1:]]
        elif op.kind in _EACH_CHANNEL or self._pads_space(op) or self._averages_space(op):
            if not self.behind(op.outputs[0], order):
                return False
        elif op.kind == "PRELU" or op.kind in BINARY:
            others = [t for t in inputs if t != name]
            if len(others) != 1 or others[0] not in constants or self.draft.shapes[op.outputs[0]] != self.draft.shapes[name]:
                return False
            if not self.behind(op.outputs[0], order):
                return False
            inputs = [self._reordered(t, back) if t in constants else t for t in inputs]
        else:
            return False
        self.rewritten[op.outputs[0]] = replace(op, inputs=tuple(inputs))
        return True

    def _grouped(self, op: Op) -> bool:
        return op.kind == "CONV_2D" and self.draft.shapes[op.inputs[1]][3] != self.draft.shapes[op.inputs[0]][3]

    def _pads_space(self, op: Op) -> bool:
        return op.kind in ("PAD", "PADV2") and not any(ints(op, "paddings")[-2:])

    def _averages_space(self, op: Op) -> bool:
        rank = len(self.draft.shapes[op.inputs[0]])
        return op.kind in ("MEAN", "SUM", "REDUCE_MAX") and bool(op.attr("keep_dims")) and rank - 1 not in ints(op, "axes")
