"""Float operators between DEQUANTIZE and QUANTIZE, alone and in chains: on int8 where there is a kernel."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from paceline.exporters import tflite
from paceline.exporters.precision.int8_islands import joined
from paceline.exporters.run_tflite import run
from paceline.exporters.tflite import Model, model_of
from paceline.graph import AttrValue, Graph, Op, Quantization, TensorSpec, attrs

IMAGE, WIDE = TensorSpec((1, 2, 2, 4)), TensorSpec((1, 4, 4, 1))
COARSE, FINE = Quantization((0.1,), (3,)), Quantization((0.05,), (-128,))


def island(*kinds: str, after: Quantization = COARSE, **attributes: AttrValue) -> Model:
    """int8 x, DEQUANTIZE, `kinds`, QUANTIZE to `after`, and ABS, which keeps its own scale."""
    ops, last, shape = [Op("DEQUANTIZE", ("x",), ("t",))], "t", IMAGE
    tensors = {"x": replace(IMAGE, dtype="int8"), "t": IMAGE}
    for i, kind in enumerate(kinds):
        shape = WIDE if kind == "DEPTH_TO_SPACE" else shape
        ops.append(Op(kind, (last,), (f"f{i}",), attrs(**attributes) if kind == "DEPTH_TO_SPACE" else ()))
        last = f"f{i}"
        tensors[last] = shape
    ops += [Op("QUANTIZE", (last,), ("q",)), Op("ABS", ("q",), ("y",))]
    tensors |= {"q": replace(shape, dtype="int8"), "y": replace(shape, dtype="int8")}
    return model_of(Graph(tuple(ops), tensors, ("x",), ("y",), {}, {"x": COARSE, "q": after, "y": FINE}))


def kinds(model: Model) -> list[str]:
    return [op.kind for op in model.graph.ops]


def computed(model: Model) -> np.ndarray:
    values = np.random.default_rng(0).integers(-128, 128, IMAGE.shape).astype(np.int8)
    return run(tflite.write(model), [values], "builtin")[0]


@pytest.mark.parametrize(
    ("before", "expected"),
    [
        (island("DEPTH_TO_SPACE", block_size=2), ["DEPTH_TO_SPACE", "ABS"]),
        (island("DEPTH_TO_SPACE", after=FINE, block_size=2), ["DEPTH_TO_SPACE", "QUANTIZE", "ABS"]),
        (island("RELU6", "DEPTH_TO_SPACE", block_size=2), ["RELU6", "DEPTH_TO_SPACE", "ABS"]),
        (island(), ["ABS"]),
        (island(after=FINE), ["QUANTIZE", "ABS"]),
        (island("EXP"), ["DEQUANTIZE", "EXP", "QUANTIZE", "ABS"]),
        (island("RELU6", "EXP"), ["RELU6", "DEQUANTIZE", "EXP", "QUANTIZE", "ABS"]),
    ],
    ids=lambda value: "-".join(value) if isinstance(value, list) else "",
)
def test_islands_join_and_compute_the_same(before: Model, expected: list[str]) -> None:
    after = joined(before)
    assert kinds(after) == expected
    assert after.signatures == before.signatures
    assert set(after.graph.tensors) == {"x", *(t for op in after.graph.ops for t in op.outputs)}
    assert np.abs(computed(after).astype(int) - computed(before).astype(int)).max() <= 1  # a step of rounding


def test_outputs_and_signatures_follow() -> None:
    before = island("DEPTH_TO_SPACE", block_size=2)
    graph = replace(before.graph, ops=before.graph.ops[:-1], outputs=("q",))
    after = joined(model_of(graph))
    assert kinds(after) == ["DEPTH_TO_SPACE"]
    assert after.graph.outputs == tuple(after.signatures[0].outputs.values()) == ("f0",)
    np.testing.assert_array_equal(computed(after), computed(model_of(graph)))


def test_a_clip_that_int8_makes_itself_is_removed() -> None:
    held = Quantization((6 / 255,), (-128,))
    spec = replace(IMAGE, dtype="int8")
    ops = (Op("ABS", ("x",), ("a",)), Op("RELU6", ("a",), ("r",)), Op("ABS", ("r",), ("y",)))
    graph = Graph(ops, dict.fromkeys("xary", spec), ("x",), ("y",), {}, {"x": COARSE, "a": held, "r": held, "y": FINE})
    after = joined(model_of(graph))
    assert [(op.kind, op.outputs) for op in after.graph.ops] == [("ABS", ("r",)), ("ABS", ("y",))]
    np.testing.assert_array_equal(computed(after), computed(model_of(graph)))
    for other in ({"a": COARSE, "r": COARSE}, {"r": FINE}):  # int8 holds more, or the scale changes
        kept = replace(graph, quantization={**graph.quantization, **other})
        assert kinds(joined(model_of(kept))) == ["ABS", "RELU6", "ABS"]
    seen = replace(graph, outputs=("y", "a"))
    assert kinds(joined(model_of(seen))) == ["ABS", "RELU6", "ABS"]
