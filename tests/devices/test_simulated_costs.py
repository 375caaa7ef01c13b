"""What models cost on simulated phones: files read, rooflines, fusion, partitions, clusters, and the profiles."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import hypothesis.strategies as st
import pytest
import torch
from hypothesis import given, settings
from torch import Tensor, nn

from paceline.devices.simulated.costs import plan
from paceline.devices.simulated.model_file import UnreadableModelError, read_model
from paceline.devices.simulated.profile import Profile, load_profile, shipped_profiles
from paceline.errors import ConfigError
from paceline.exporters import tflite
from paceline.exporters.cut import cut
from paceline.exporters.operator_models import operator_graph
from paceline.exporters.torch_graph import graph_of
from paceline.graph import Graph, Op, OpSpec, TensorSpec, attrs
from paceline.measurement import Bench

from samples import conv

MID, WIDE = load_profile("simulated-mid"), load_profile("simulated-wide")
BENCH = Bench(runtime="simulated")
PLAIN = attrs(stride=(1, 1), dilation=(1, 1), padding="SAME", activation="NONE")


class Network(nn.Module):
    """Padding, strides, depthwise and pointwise convolutions, squeeze-and-excite, hard-swish, a residual, a classifier."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 16, 3, 2, 1)
        self.expand, self.depthwise, self.project = (
            nn.Conv2d(16, 64, 1),
            nn.Conv2d(64, 64, 5, 1, 2, groups=64),
            nn.Conv2d(64, 16, 1),
        )
        self.reduce, self.excite = nn.Conv2d(64, 16, 1), nn.Conv2d(16, 64, 1)
        self.classify = nn.Linear(16, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = nn.functional.hardswish(self.stem(x))
        y = nn.functional.relu6(self.depthwise(nn.functional.relu6(self.expand(x))))
        y = y * nn.functional.hardsigmoid(self.excite(nn.functional.relu(self.reduce(y.mean((2, 3), keepdim=True)))))
        classes: Tensor = self.classify((x + self.project(y)).mean((2, 3)))
        return classes


@pytest.fixture(scope="module")
def network() -> Graph:
    return graph_of(Network().eval(), torch.zeros(1, 3, 64, 64))


def chain(kinds: Sequence[str], size: int = 28, channels: int = 32) -> bytes:
    """Unary operators and 1x1 convolutions in a row."""
    t, w = TensorSpec((1, size, size, channels)), TensorSpec((channels, 1, 1, channels))
    weights = operator_graph(conv(size, channels, channels, 1)).weights["weight_1"]
    tensors = {"t0": t, "w": w} | {f"t{i + 1}": t for i in range(len(kinds))}
    ops = [
        Op(kind, (f"t{i}", "w") if kind == "CONV_2D" else (f"t{i}",), (f"t{i + 1}",), PLAIN if kind == "CONV_2D" else ())
        for i, kind in enumerate(kinds)
    ]
    return tflite.write(Graph(tuple(ops), tensors, ("t0",), (f"t{len(kinds)}",), {"w": weights}))


def pool(size: int, window: int) -> OpSpec:
    t = TensorSpec((1, size, size, 32))
    return OpSpec("MAX_POOL_2D", (t,), (t,), attrs(activation="NONE", filter=(window, window), padding="SAME", stride=(1, 1)))


def ms(data: bytes | OpSpec, profile: Profile = MID, **bench: object) -> float:
    """The true milliseconds, those of every invoke apart."""
    content = tflite.write(operator_graph(data)) if isinstance(data, OpSpec) else data
    return plan(read_model(content), profile, replace(BENCH, **bench)).ms - profile.invoke_us / 1e3  # type: ignore[arg-type]


def test_the_reader_sees_what_the_exporters_reader_sees(network: Graph) -> None:
    data = tflite.write(network)
    known = tflite.read(data).graph
    found = read_model(data)
    assert [op.spec.kind for op in found.operators] == [op.kind for op in known.ops]
    assert sum(op.spec.macs for op in found.operators) == known.macs() > 1e6
    for op, other in zip(found.operators, known.ops, strict=True):
        assert op.spec.outputs == tuple(known.tensors[t] for t in other.outputs)
        assert op.spec.attr("activation", "NONE") == other.attr("activation", "NONE")


def test_weights_that_are_expanded_once_are_no_operator() -> None:
    half = replace(conv(8, 4, 4, 1), inputs=(TensorSpec((1, 8, 8, 4)), TensorSpec((4, 1, 1, 4), "float16"), TensorSpec((4,))))
    (operator,) = read_model(tflite.write(operator_graph(half))).operators
    assert operator.spec.inputs[1] == TensorSpec((4, 1, 1, 4), "float16")
    assert operator.spec.constants == (1, 2)
    assert len(operator.reads) == 1


@settings(max_examples=300, deadline=None)
@given(st.data())
def test_whatever_the_bytes_are_reading_ends_with_a_model_or_a_reason(data: st.DataObject) -> None:
    content = bytearray(_SMALL)
    for _ in range(data.draw(st.integers(1, 4))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    with contextlib.suppress(UnreadableModelError):
        found = read_model(bytes(content[: data.draw(st.integers(0, len(content)))]))
        assert len(found.operators) < len(content)


_SMALL = chain(["CONV_2D", "TANH"], 4, 4)


def test_a_custom_operator_is_refused_by_name() -> None:
    t = TensorSpec((1, 4))
    custom = Graph((Op("CUSTOM", ("x",), ("y",), attrs(custom_code="Juggle")),), {"x": t, "y": t}, ("x",), ("y",), {})
    with pytest.raises(UnreadableModelError, match="Juggle"):
        read_model(tflite.write(custom))


def test_the_profiles_order_operators_differently() -> None:
    dense, depthwise = conv(28, 96, 96, 1), conv(28, 96, 96, 5, depthwise=True)
    assert ms(depthwise, MID) < ms(dense, MID)
    assert ms(depthwise, WIDE) > 5 * ms(dense, WIDE)


@pytest.mark.parametrize("profile", [MID, WIDE], ids=lambda p: p.name)
@pytest.mark.parametrize("delegate", ["xnnpack", "builtin"])
def test_on_the_cpu_a_network_is_the_sum_of_its_operators(network: Graph, profile: Profile, delegate: str) -> None:
    whole = ms(tflite.write(network), profile, delegate=delegate)
    total = sum(ms(tflite.write(part), profile, delegate=delegate) for _, part in cut(network))
    fused = ms(tflite.write(network), replace(profile, delegates=_unfused(profile)), delegate=delegate)
    assert fused == pytest.approx(total, rel=1e-9)
    assert whole <= fused


def _unfused(profile: Profile) -> dict[str, object]:
    """Only paddings, which belong to their convolution in the cut as well."""
    return {name: replace(d, fuses=tuple({"PAD"} & set(d.fuses))) for name, d in profile.delegates.items()}


def test_a_roofline_has_two_sides() -> None:
    assert ms(conv(56, 64, 128, 3)) == pytest.approx(2 * ms(conv(56, 64, 64, 3)), rel=0.01)
    few = OpSpec("ADD", (TensorSpec((1, 56, 56, 64)),) * 2, (TensorSpec((1, 56, 56, 64)),), attrs(activation="NONE"))
    slow = replace(MID, clusters=tuple(replace(c, gb_s=c.gb_s / 10) for c in MID.clusters))
    assert ms(few, slow) > 5 * ms(few)
    assert ms(conv(56, 64, 64, 3), slow) == ms(conv(56, 64, 64, 3))
    assert ms(few, slow, precision="fp16") == pytest.approx(ms(few, slow) / 2, rel=0.02)
    small, large = (pool(28, window) for window in (3, 7))
    assert ms(large) == pytest.approx(ms(small) * 49 / 9, rel=0.1)


def test_channels_that_leave_lanes_idle_cost_as_much_as_full_ones() -> None:
    assert ms(conv(28, 64, 33, 3), WIDE) == pytest.approx(ms(conv(28, 64, 64, 3), WIDE), rel=0.01)
    assert ms(conv(28, 64, 33, 3), MID) < 0.7 * ms(conv(28, 64, 64, 3), MID)


def test_clusters_and_threads() -> None:
    big, little = (ms(conv(56, 64, 64, 3), affinity=cpus) for cpus in ((7,), (0,)))
    assert little == pytest.approx(big * 44 / 7, rel=0.01)
    assert ms(conv(56, 64, 64, 3)) == big
    two = ms(conv(56, 64, 64, 3), threads=2, affinity=(0, 1))
    assert little / 2 < two < little / 1.7
    assert ms(conv(56, 64, 64, 3), threads=2, affinity=(0, 7)) == two
    assert ms(conv(4, 8, 8, 1), threads=4) > ms(conv(4, 8, 8, 1), threads=1)


def test_types_and_precisions() -> None:
    floats = conv(56, 64, 64, 3)
    whole = [TensorSpec(t.shape, "int8") for t in floats.inputs[:2]] + [TensorSpec((64,), "int32")]
    quantised = replace(floats, inputs=tuple(whole), outputs=(TensorSpec(floats.outputs[0].shape, "int8"),))
    assert ms(floats) / ms(quantised) == pytest.approx(3.4, rel=0.01)
    assert ms(floats) / ms(floats, precision="fp16") == pytest.approx(1.9, rel=0.01)
    assert plan(read_model(chain(["CONV_2D"])), MID, replace(BENCH, delegate="nnapi")).delegation.state == "none"
    taken = plan(read_model(tflite.write(operator_graph(quantised))), MID, replace(BENCH, delegate="nnapi"))
    assert taken.delegation.state == "full"


def test_activations_are_fused_where_the_delegate_can() -> None:
    both = plan(read_model(chain(["CONV_2D", "RELU6"])), MID, BENCH)
    assert [(part.name, part.delegated) for part in both.parts] == [("CONV_2D+RELU6", True)]
    assert both.ms == plan(read_model(chain(["CONV_2D"])), MID, BENCH).ms
    twice = tflite.read(chain(["CONV_2D", "RELU6"])).graph
    read_twice = replace(twice, outputs=("t1", "t2"))
    assert len(plan(read_model(tflite.write(read_twice)), MID, BENCH).parts) == 2
    assert ms(chain(["CONV_2D", "HARD_SWISH"])) > ms(chain(["CONV_2D"]))
    assert ms(chain(["CONV_2D", "HARD_SWISH"]), WIDE) == ms(chain(["CONV_2D"]), WIDE)
    assert ms(chain(["CONV_2D", "RELU6"]), delegate="builtin") > ms(chain(["CONV_2D"]), delegate="builtin")


def test_what_the_gpu_leaves_splits_the_graph_and_pays_twice() -> None:
    gpu = replace(BENCH, delegate="gpu")
    whole = plan(read_model(chain(["CONV_2D", "CONV_2D"])), MID, gpu)
    split = plan(read_model(chain(["CONV_2D", "GELU", "CONV_2D"])), MID, gpu)
    assert (whole.delegation.state, whole.delegation.partitions, whole.delegation.delegated) == ("full", 1, 2)
    assert (split.delegation.state, split.delegation.partitions, split.delegation.left) == ("partial", 2, ("GELU",))
    tensor_ms = 28 * 28 * 32 * 4 / (MID.delegates["gpu"].hand_over_gb_s * 1e6)
    extra = 2 * MID.delegates["gpu"].hand_over_us / 1e3 + 2 * tensor_ms
    assert split.ms - whole.ms == pytest.approx(extra + ms(chain(["GELU"]), delegate="builtin"))
    assert [part.delegated for part in split.parts] == [True, False, True]
    high = OpSpec("ADD", (TensorSpec((1, 2, 2, 2, 2)),) * 2, (TensorSpec((1, 2, 2, 2, 2)),), attrs(activation="NONE"))
    assert plan(read_model(tflite.write(operator_graph(high))), MID, gpu).delegation.state == "none"
    alone = sum(ms(chain(["CONV_2D"]), delegate="gpu") for _ in range(2))
    assert alone > ms(chain(["CONV_2D", "CONV_2D"]), delegate="gpu") + MID.delegates["gpu"].hand_over_us / 1e3


def test_profiles_are_shipped_invented_and_checked(tmp_path: Path) -> None:
    assert shipped_profiles() == ("simulated-mid", "simulated-wide")
    for name in shipped_profiles():
        profile = load_profile(name)
        assert profile.name == name
        assert "invented" in profile.note
        assert profile.cpus[0] == 0
    with pytest.raises(ConfigError, match="'simulated-md'; shipped: simulated-mid, simulated-wide"):
        load_profile("simulated-md")
    with pytest.raises(ConfigError, match="No such file"):
        load_profile(tmp_path / "none.toml")
    text = (Path(__file__).parents[2] / "devices/simulated/profiles/simulated-mid.toml").read_text()
    for old, new, reason in (
        ("disk_mb", "disc_mb", "disc_mb: Unexpected"),
        ("gmacs = 7.0", 'gmacs = "many"', "clusters.0.gmacs"),
        ("pointwise = 0.75, ", "", "pointwise"),
        ("[delegates.builtin]", "[delegates.other]", "builtin"),
        ("name =", "name", "no TOML"),
    ):
        (tmp_path / "wrong.toml").write_text(text.replace(old, new, 1))
        with pytest.raises(ConfigError, match=reason):
            load_profile(tmp_path / "wrong.toml")
    (tmp_path / "mine.toml").write_text(text.replace("gmacs = 44.0", "gmacs = 45.0"))
    assert load_profile(str(tmp_path / "mine.toml")).digest != MID.digest
