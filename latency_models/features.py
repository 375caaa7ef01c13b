"""Operators as numbers, for the regressors."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from paceline.graph import OpSpec
from paceline.latency_models.model import Floats

LINEAR = ("count", "mmacs", "weight_mb", "moved_mb")


def linear_features(spec: OpSpec) -> list[float]:
    """What latency can be proportional to: one per operator, millions of MACs, megabytes of weights, megabytes of activations."""
    weights = sum(spec.inputs[i].bytes for i in spec.constants) / 1e6
    moved = sum(t.bytes for t in (*spec.inputs, *spec.outputs)) / 1e6 - weights
    return [1.0, spec.macs / 1e6, weights, moved]


def shape_features(spec: OpSpec) -> list[float]:
    """Logarithms of what an operator's speed depends on: MACs, bytes, height and width, channels in and out, kernel, stride."""
    image, result = spec.inputs[0].shape, spec.outputs[0].shape
    if spec.kind == "TRANSPOSE_CONV":
        image = spec.inputs[1].shape
    stride = spec.attr("stride", (1, 1))
    kernel = spec.inputs[1].shape[1:3] if "CONV" in spec.kind and 1 in spec.constants else spec.attr("filter", (1, 1))
    assert isinstance(stride, tuple)
    assert isinstance(kernel, tuple)
    sizes = [_size(image), _size(result), image[-1] if image else 1, result[-1] if result else 1, *kernel, *stride]
    logs = np.log1p([*linear_features(spec)[1:], *(float(n) for n in sizes)])
    remainders = [
        result[-1] % 16 / 16 if result else 0.0,
        image[-1] % 16 / 16 if image else 0.0,
    ]  # kernels work in vectors of channels
    return [*logs.tolist(), *remainders, float(spec.attr("activation", "NONE") != "NONE"), float(spec.attr("pad") is not None)]


def group_of(spec: OpSpec) -> str:
    """Operators that a runtime executes with the same kernel, as far as shapes tell: kind, window and stride."""
    window = spec.inputs[1].shape[1:3] if "CONV" in spec.kind and 1 in spec.constants else spec.attr("filter", ())
    stride = spec.attr("stride", ())
    assert isinstance(window, tuple)
    assert isinstance(stride, tuple)
    return " ".join([spec.kind, "x".join(map(str, window)), "x".join(map(str, stride))]).strip()


def linear_matrix(operators: Sequence[OpSpec], groups: Sequence[str]) -> Floats:
    """`linear_features` in one block per group (`group_of`), shape (operators, 4 * groups)."""
    linear = np.array([linear_features(spec) for spec in operators]).reshape(len(operators), len(LINEAR))
    one_hot = np.array([[float(group_of(spec) == group) for group in groups] for spec in operators])
    blocks = one_hot.reshape(len(operators), len(groups), 1) * linear[:, None, :]
    return np.asarray(blocks.reshape(len(operators), -1))


def shape_matrix(operators: Sequence[OpSpec], kinds: Sequence[str]) -> Floats:
    """`shape_features` with the kind as one-hot, one row per operator."""
    one_hot = np.array([[float(spec.kind == kind) for kind in kinds] for spec in operators]).reshape(len(operators), len(kinds))
    shapes = np.array([shape_features(spec) for spec in operators]).reshape(len(operators), -1)
    return np.concatenate([shapes, one_hot], axis=1)


def _size(shape: tuple[int, ...]) -> int:
    return shape[1] * shape[2] if len(shape) == 4 else 1
