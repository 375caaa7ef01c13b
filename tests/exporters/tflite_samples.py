"""Small graphs that the tests of `.tflite` files share."""

from __future__ import annotations

from typing import Any

import numpy as np

from paceline.exporters.tflite import Model, Signature
from paceline.graph import Graph, Op, Quantization, TensorSpec, attrs

CONV = attrs(stride=(1, 1), dilation=(1, 1), padding="SAME", activation="RELU6")


def facts(graph: Graph) -> dict[str, Any]:
    """All that a Graph says, comparable with ==."""
    return {
        "ops": [(op, op.version) for op in graph.ops],
        "tensors": dict(graph.tensors),
        "inputs": graph.inputs,
        "outputs": graph.outputs,
        "weights": {name: (w.dtype, w.shape, w.tobytes()) for name, w in graph.weights.items()},
        "quantization": dict(graph.quantization),
        "variables": graph.variables,
        "dynamic": dict(graph.dynamic),
        "name": graph.name,
    }


def float_conv(channels: int = 4) -> Graph:
    """A convolution and a TANH."""
    tensors = {
        "x": TensorSpec((1, 6, 6, 2)),
        "w": TensorSpec((channels, 3, 3, 2)),
        "b": TensorSpec((channels,)),
        "y": TensorSpec((1, 6, 6, channels)),
        "z": TensorSpec((1, 6, 6, channels)),
    }
    rng = np.random.default_rng(0)
    weights = {name: rng.standard_normal(tensors[name].shape).astype(np.float32) for name in ("w", "b")}
    ops = (Op("CONV_2D", ("x", "w", "b"), ("y",), CONV), Op("TANH", ("y",), ("z",)))
    return Graph(ops, tensors, ("x",), ("z",), weights)


def half_weights() -> Graph:
    """Two convolutions whose float16 filter one DEQUANTIZE expands, behind a PAD."""
    image = TensorSpec((1, 6, 6, 2))
    tensors = {
        **{"x": image, "p": TensorSpec((1, 8, 8, 2)), "y": image, "z": image, "b": TensorSpec((2,))},
        **{"half": TensorSpec((2, 3, 3, 2), "float16"), "w": TensorSpec((2, 3, 3, 2))},
    }
    valid = attrs(stride=(1, 1), dilation=(1, 1), padding="VALID", activation="NONE")
    ops = (
        Op("DEQUANTIZE", ("half",), ("w",)),
        Op("PAD", ("x",), ("p",), attrs(paddings=(0, 0, 1, 1, 1, 1, 0, 0))),
        Op("CONV_2D", ("p", "w", "b"), ("y",), valid),
        Op("CONV_2D", ("y", "w", "b"), ("z",), CONV),
    )
    rng = np.random.default_rng(0)
    weights = {"half": rng.standard_normal((2, 3, 3, 2)).astype(np.float16), "b": np.ones(2, np.float32)}
    return Graph(ops, tensors, ("x",), ("z",), weights)


def int8_conv(per_channel: bool = True) -> Graph:
    """QUANTIZE, a convolution in int8, DEQUANTIZE; the batch may be changed."""
    scales = (0.01, 0.02, 0.03) if per_channel else (0.02,)
    tensors = {
        **{"x": TensorSpec((1, 6, 6, 2)), "xq": TensorSpec((1, 6, 6, 2), "int8"), "w": TensorSpec((3, 3, 3, 2), "int8")},
        **{"b": TensorSpec((3,), "int32"), "yq": TensorSpec((1, 6, 6, 3), "int8"), "y": TensorSpec((1, 6, 6, 3))},
    }
    quantization = {
        "xq": Quantization((0.05,), (3,)),
        "w": Quantization(_float32(scales), (0,) * len(scales), 0),
        "b": Quantization(_float32(tuple(0.05 * s for s in scales)), (0,) * len(scales)),
        "yq": Quantization((0.0625,), (-5,)),
    }
    quantization["xq"] = Quantization(_float32((0.05,)), (3,))
    rng = np.random.default_rng(0)
    weights = {
        "w": rng.integers(-127, 128, (3, 3, 3, 2)).astype(np.int8),
        "b": rng.integers(-99, 99, 3).astype(np.int32),
    }
    ops = (Op("QUANTIZE", ("x",), ("xq",)), Op("CONV_2D", ("xq", "w", "b"), ("yq",), CONV), Op("DEQUANTIZE", ("yq",), ("y",)))
    dynamic = {name: (-1, *tensors[name].shape[1:]) for name in ("x", "xq", "yq", "y")}
    return Graph(ops, tensors, ("x",), ("y",), weights, quantization, dynamic=dynamic)


def _float32(values: tuple[float, ...]) -> tuple[float, ...]:
    return tuple(float(np.float32(v)) for v in values)


def with_state() -> Graph:
    """A recurrent operator: a variable tensor, and an absent operand."""
    names = {"x": (1, 4), "feature": (3, 4), "time": (3, 2), "state": (1, 6), "y": (1, 3)}
    weights = {name: np.ones(names[name], np.float32) for name in ("feature", "time")}
    op = Op("SVDF", ("x", "feature", "time", "", "state"), ("y",), attrs(rank=1, activation="NONE"))
    tensors = {name: TensorSpec(shape) for name, shape in names.items()}
    return Graph((op,), tensors, ("x",), ("y",), weights, variables=frozenset({"state"}))


def several() -> Model:
    """WHILE over two graphs, two signatures, metadata and an attached file."""
    one, many = TensorSpec((1,), "int32"), TensorSpec((1, 2, 2, 3))
    limit = {"limit": np.array([5], np.int32)}
    main = Graph(
        (Op("WHILE", ("i", "x"), ("n", "y"), attrs(cond_subgraph_index=1, body_subgraph_index=2)),),
        {"i": one, "x": many, "n": one, "y": many},
        ("i", "x"),
        ("n", "y"),
        {},
    )
    condition = Graph(
        (Op("LESS", ("i", "limit"), ("go",)),),
        {"i": one, "x": many, "limit": one, "go": TensorSpec((1,), "bool")},
        ("i", "x"),
        ("go",),
        limit,
        name="condition",
    )
    add = attrs(activation="NONE")
    body = Graph(
        (Op("ADD", ("i", "one"), ("n",), add), Op("ADD", ("x", "x"), ("y",), add)),
        {"i": one, "x": many, "one": one, "n": one, "y": many},
        ("i", "x"),
        ("n", "y"),
        {"one": np.array([1], np.int32)},
        name="body",
    )
    signatures = (
        Signature("serving_default", {"count": "i", "image": "x"}, {"count": "n", "image": "y"}),
        Signature("body", {"a": "i", "b": "x"}, {"c": "y"}, 2),
    )
    return Model((main, condition, body), signatures, {"notes": b"\x00\xff"}, "ours", {"labels.txt": b"cat\ndog\n"})
