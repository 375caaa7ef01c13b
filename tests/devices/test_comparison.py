"""A/B comparisons: what is called a difference, and how often wrongly."""

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from paceline.devices.comparison import compare, interval
from paceline.devices.composed import ComposedDevice
from paceline.devices.gate import Gate
from paceline.devices.state import DeviceState
from paceline.errors import DeviceError
from paceline.measurement import Artifact, Failure, Measurement

from parts import QUICK, Body, Link, Script


@pytest.fixture
def pair(tmp_path: Path) -> tuple[Artifact, Artifact]:
    for name in "ab":
        (tmp_path / f"{name}.tflite").write_text(name)
    return Artifact(tmp_path / "a.tflite", "a"), Artifact(tmp_path / "b.tflite", "b")


@dataclass
class Spy(Script):
    order: list[str] = field(default_factory=list)

    def batch(self, artifact):  # type: ignore[no-untyped-def]
        self.order.append(artifact.subject)
        return super().batch(artifact)

    def close(self) -> None:
        self.order.append("new process")


def test_the_order_is_drawn_and_every_process_is_new(pair: tuple[Artifact, Artifact], tmp_path: Path) -> None:
    runner = Spy({"a": [1.0], "b": [1.1]})
    device = ComposedDevice("x", "script", Link(), Body(), runner, Gate(), state=DeviceState("x", tmp_path))
    found = compare(device, *pair, QUICK, np.random.default_rng(1), processes=6)
    assert (found.ratio, found.low, found.high) == pytest.approx((1.1, 1.1, 1.1))
    assert found.verdict == "slower"
    runs = " ".join(runner.order).split("new process")
    assert {run.strip() for run in runs if run.strip()} == {"a b a b a b", "b a b a b a"}
    assert sum(bool(run.strip()) for run in runs) == 6
    assert compare(device, *reversed(pair), QUICK, np.random.default_rng(1), processes=3).verdict == "faster"


def test_what_cannot_be_measured_cannot_be_compared(pair: tuple[Artifact, Artifact], tmp_path: Path) -> None:
    runner = Script({"a": [1.0], "b": [Failure("refused by the runtime")]})
    device = ComposedDevice("x", "script", Link(), Body(), runner, Gate(), state=DeviceState("x", tmp_path))
    with pytest.raises(DeviceError, match="b can't be measured: refused by the runtime"):
        compare(device, *pair, QUICK, np.random.default_rng(0))
    with pytest.raises(DeviceError, match="3 processes or more, not 2"):
        compare(device, *pair, QUICK, np.random.default_rng(0), processes=2)


def _measured(rng: np.random.Generator, ms: float, processes: int) -> list[Measurement]:
    """Every process has a level of its own (0.5 %), every batch its noise (1 %)."""
    levels = ms * np.exp(rng.normal(0, 0.005, processes))
    batches = levels[:, None] * np.exp(rng.normal(0, 0.01, (processes, 5)))
    return [Measurement("m", "", "", "", tuple((float(v),) for v in process)) for process in batches]


def test_false_alarms_are_rare_and_three_percent_are_found() -> None:
    rng = np.random.default_rng(7)
    alarms = [interval(_measured(rng, 1, 8), _measured(rng, 1, 8), 0.99, 0.01).verdict for _ in range(1000)]
    found = [interval(_measured(rng, 1, 8), _measured(rng, 1.03, 8), 0.99, 0.01).verdict for _ in range(1000)]
    assert sum(v != "no difference" for v in alarms) <= 10
    assert found.count("slower") >= 950


@settings(max_examples=50)
@given(st.lists(st.floats(0.01, 100), min_size=3, max_size=9), st.floats(0.1, 10))
def test_swapping_the_two_inverts_the_interval(figures: list[float], factor: float) -> None:
    a = [Measurement("a", "", "", "", ((ms,),)) for ms in figures]
    b = [Measurement("b", "", "", "", ((ms * factor * (1 + 0.01 * i),),)) for i, ms in enumerate(figures)]
    there, back = interval(a, b, 0.99, 0.01), interval(b, a, 0.99, 0.01)
    assert (there.ratio * back.ratio, there.low * back.high) == pytest.approx((1, 1))
    assert there.low <= there.ratio <= there.high
