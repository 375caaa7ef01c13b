"""Which tensors share a range: where operators keep their operand's scale, where they join tensors, where int8 saturates."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from paceline.exporters import tflite
from paceline.exporters.precision.activation_ranges import CLIPS, Range, measured, shared
from paceline.graph import AttrValue, Graph, Op, TensorSpec, attrs

IMAGE = TensorSpec((1, 4, 4, 2))
_ATTRS: dict[str, dict[str, AttrValue]] = {
    "CONCATENATION": {"axis": 3, "activation": "NONE"},
    "ADD": {"activation": "NONE"},
    "DEPTH_TO_SPACE": {"block_size": 2},
}
ADD_A_H = Op("ADD", ("a", "h"), ("y",), attrs(activation="NONE"))
STEPS = st.lists(
    st.tuples(
        st.sampled_from(["RELU", "RELU6", "HARD_SWISH", "LOGISTIC", "TANH", "ADD", "CONCATENATION"]),
        st.integers(0, 5),
        st.integers(0, 5),
    ),
    min_size=1,
    max_size=8,
)


def graph(*ops: tuple[str, str], outputs: str = "", shapes: dict[str, tuple[int, ...]] | None = None) -> Graph:
    """From "KIND" and "result operand …"; `x` is the input, outputs default to the last result."""
    built = [Op(kind, tuple(text.split()[1:]), (text.split()[0],), attrs(**_ATTRS.get(kind, {}))) for kind, text in ops]
    channels = {"x": 2}
    tensors = {"x": IMAGE}
    for op in built:
        channels[op.outputs[0]] = sum(channels[t] for t in op.inputs) if op.kind == "CONCATENATION" else channels[op.inputs[0]]
        tensors[op.outputs[0]] = TensorSpec((1, 4, 4, channels[op.outputs[0]]))
    tensors |= {name: TensorSpec(shape) for name, shape in (shapes or {}).items()}
    return Graph(tuple(built), tensors, ("x",), tuple(outputs.split()) or (built[-1].outputs[0],), {})


def test_ranges_are_the_extremes_of_all_samples() -> None:
    samples = [(np.full(IMAGE.shape, value, np.float32),) for value in (-1, 5, 2)]
    found = measured(tflite.write(graph(("RELU", "a x"), ("ADD", "b a x"))), samples)
    assert found == {"x": (-1, 5), "a": (0, 5), "b": (-1, 10)}


def test_a_concatenation_that_is_the_only_reader_gives_its_range() -> None:
    written = graph(("HARD_SWISH", "a x"), ("TANH", "t x"), ("HARD_SWISH", "b t"), ("CONCATENATION", "c a b"))
    found = shared(written, {"x": (-9, 9), "a": (-0.4, 9), "t": (-1, 1), "b": (-0.3, 0.7), "c": (-0.4, 9)})
    assert found["a"] == found["b"] == found["c"] == (-0.4, 9)
    assert found["x"] == (-9, 9)


def test_a_narrow_tensor_with_other_readers_keeps_its_scale() -> None:
    ops = (("HARD_SWISH", "a x"), ("HARD_SWISH", "b a"), ("CONCATENATION", "c a b"), ("HARD_SWISH", "d a"), ("ADD", "e d d"))
    ranges: dict[str, Range] = {"x": (-9, 9), "a": (0, 1), "b": (0, 8), "c": (0, 8), "d": (0, 1), "e": (0, 2)}
    found = shared(graph(*ops, outputs="c e"), ranges)
    assert found["a"] == (0, 1)
    assert found["b"] == found["c"] == (0, 8)
    found = shared(graph(*ops, outputs="c e"), {**ranges, "a": (0, 5)})
    assert found["a"] == found["b"] == found["c"] == (0, 8)  # less than a bit is lost


def test_repeated_joins_do_not_add_up() -> None:
    ops = [("HARD_SWISH", "a x"), ("HARD_SWISH", "k a")]
    ranges: dict[str, Range] = {"x": (0, 1), "a": (0, 1), "k": (0, 1)}
    last = "a"
    for i, width in enumerate((1.9, 3.6, 7.0)):
        ops += [("HARD_SWISH", f"w{i} x"), ("HARD_SWISH", f"v{i} w{i}"), ("CONCATENATION", f"c{i} {last} w{i}")]
        ranges |= {f"w{i}": (0, width), f"v{i}": (0, width), f"c{i}": (0, width)}
        last = f"c{i}"
    found = shared(graph(*ops, outputs=f"{last} k v0 v1 v2"), ranges)
    assert found["a"][1] <= 2


def test_an_operand_that_only_a_clip_reads_gets_the_clip_s_range() -> None:
    shapes = {"a": (1, 4, 4, 4), "x": (1, 4, 4, 4), "d": (1, 8, 8, 1), "r": (1, 8, 8, 1)}
    ops = (("HARD_SWISH", "a x"), ("DEPTH_TO_SPACE", "d a"), ("RELU6", "r d"))
    ranges: dict[str, Range] = {"x": (-20, 20), "a": (-0.4, 20), "d": (-0.4, 20), "r": (0, 6)}
    found = shared(graph(*ops, shapes=shapes), ranges)
    assert found["a"] == found["d"] == found["r"] == (0, 6)
    found = shared(graph(*ops, outputs="r d", shapes=shapes), ranges)  # d is needed whole
    assert found["a"] == found["d"] == found["r"] == (-0.4, 20)


def test_small_operands_of_sums_get_a_range_in_proportion() -> None:
    sums = Graph(
        (Op("ADD", ("x", "zero"), ("a",), attrs(activation="NONE")), Op("HARD_SWISH", ("a",), ("h",)), ADD_A_H),
        dict.fromkeys(["x", "a", "h", "y"], IMAGE) | {"zero": TensorSpec((2,))},
        ("x",),
        ("y",),
        {"zero": np.zeros(2, np.float32)},
    )
    found = shared(sums, {"x": (-1, 1), "a": (-1, 1), "h": (-1e-5, 1e-5), "y": (-1, 1)})
    assert found["zero"] == (0, 2 / 256)
    assert found["h"] == (-1e-5, -1e-5 + 2 / 256)
    assert found["x"] == found["a"] == (-1, 1)


def test_prescribed_scales_stay() -> None:
    written = graph(("LOGISTIC", "s x"), ("TANH", "t x"), ("CONCATENATION", "c s t"))
    found = shared(written, {"x": (-3, 3), "s": (0.1, 0.9), "t": (-0.9, 0.9), "c": (-0.9, 0.9)})
    assert (found["s"], found["t"], found["c"]) == ((0, 255 / 256), (-1, 127 / 128), (-0.9, 0.9))


@given(STEPS, st.integers(0, 2**32 - 1))
def test_ranges_only_grow_but_for_clips_and_prescribed_scales(steps: list[tuple[str, int, int]], seed: int) -> None:
    names, ops = ["x"], []
    for i, (kind, a, b) in enumerate(steps):
        operands = [names[a % len(names)], names[b % len(names)]] if kind in ("ADD", "CONCATENATION") else [names[a % len(names)]]
        if kind == "ADD":
            operands[1] = operands[0]
        ops.append((kind, " ".join([f"t{i}", *operands])))
        names.append(f"t{i}")
    rng = np.random.default_rng(seed)
    written = graph(*ops, outputs=" ".join(names[1:]))
    ranges = measured(tflite.write(written), [(rng.normal(0, 4, IMAGE.shape).astype(np.float32),)])
    found = shared(written, ranges)
    assert found.keys() == ranges.keys()
    kinds = {text.split()[0]: kind for kind, text in ops}
    clipped = {text.split()[1] for kind, text in ops if kind in CLIPS}
    for name, (low, high) in found.items():
        if kinds.get(name) in ("LOGISTIC", "TANH") or name in clipped or kinds.get(name) in CLIPS:
            continue
        assert low <= ranges[name][0]
        assert high >= ranges[name][1]
        assert kinds.get(name) == "CONCATENATION" or max(high, 0) - min(low, 0) <= 2.0001 * (
            max(ranges[name][1], 0) - min(ranges[name][0], 0)
        )
