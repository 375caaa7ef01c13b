"""The measuring protocol on a scripted session: interleaving, repetition, what counts and what does not."""

from dataclasses import dataclass, field
from pathlib import Path

import pytest

from paceline.devices.rounds import measure_rounds
from paceline.devices.runners.runner import Batch
from paceline.measurement import Artifact, Bench, Failure, usual_reference

BENCH = Bench(batches=3, repeats=2, tolerance=0.05)


@dataclass
class Script:
    """Answers each artifact's batches from a list; the last entry repeats."""

    answers: dict[str, list[float | Failure]]
    calls: list[str] = field(default_factory=list)

    def batch(self, artifact: Artifact) -> Batch | Failure:
        at = self.calls.count(artifact.subject)
        self.calls.append(artifact.subject)
        script = self.answers[artifact.subject]
        answer = script[min(at, len(script) - 1)]
        return answer if isinstance(answer, Failure) else Batch((answer,) * 10, 1.0)


@pytest.fixture
def artifacts(tmp_path: Path) -> dict[str, Artifact]:
    for name in ("a", "b", "ref"):
        (tmp_path / name).write_text(name)
    return {name: Artifact(tmp_path / name, name) for name in ("a", "b", "ref")}


def test_batches_are_interleaved_and_the_reference_frames_every_round(artifacts: dict[str, Artifact]) -> None:
    script = Script({"a": [1.0], "b": [2.0], "ref": [1.0]})
    a, b = measure_rounds(script, [artifacts["a"], artifacts["b"]], BENCH, "dev", artifacts["ref"], {})
    assert script.calls == ["ref", "a", "b", "ref"] * 3
    assert (a.ms, b.ms, a.device, a.artifact) == (1.0, 2.0, "dev", artifacts["a"].sha256)
    assert not a.unstable(BENCH.tolerance)


def test_what_disagrees_is_measured_again_and_then_marked(artifacts: dict[str, Artifact]) -> None:
    script = Script({"a": [1.0, 2.0, 1.0, 2.0, 1.0, 2.0], "b": [2.0]})
    a, b = measure_rounds(script, [artifacts["a"], artifacts["b"]], BENCH, "dev", None, {})
    assert script.calls.count("a") == BENCH.batches + BENCH.repeats
    assert script.calls.count("b") == BENCH.batches
    assert a.unstable(BENCH.tolerance)
    assert not b.unstable(BENCH.tolerance)


def test_a_round_in_which_the_pace_changes_does_not_count(artifacts: dict[str, Artifact]) -> None:
    """In the second round the device falls to half its speed: that round is replaced."""
    script = Script({"a": [1.0, 1.7, 2.0, 2.0], "ref": [1.0, 1.0, 1.0, 2.0, 2.0]})
    (a,) = measure_rounds(script, [artifacts["a"]], BENCH, "dev", artifacts["ref"], {"load": "0"})
    assert a.batch_ms == (1.0, 2.0, 2.0)
    assert a.context == {"load": "0", "restless_rounds": "1", "reference": artifacts["ref"].sha256}


def test_the_figure_is_scaled_to_the_usual_pace(artifacts: dict[str, Artifact]) -> None:
    """A device that runs at half its speed from the second round on measures the same, drift is no instability."""
    script = Script({"a": [1.0, 2.0, 2.0], "ref": [1.0, 1.0, 2.0, 2.0, 2.0, 2.0]})
    (a,) = measure_rounds(script, [artifacts["a"]], BENCH, "dev", artifacts["ref"], {})
    assert a.reference_ms == (1.0, 2.0, 2.0)
    assert (a.ms, a.ms_at(1.0), a.ms_at(2.0), a.ms_at(None)) == (2.0, 1.0, 2.0, 2.0)
    assert a.spread == 0.0
    assert usual_reference([a]) == 2.0
    (alone,) = measure_rounds(script, [artifacts["a"]], BENCH, "dev", None, {})
    assert (alone.ms_at(1.0), usual_reference([alone])) == (2.0, None)


def test_the_pace_is_followed_through_a_round(artifacts: dict[str, Artifact]) -> None:
    script = Script({"a": [1.0], "b": [1.0], "ref": [1.00, 1.04]})
    a, b = measure_rounds(script, [artifacts["a"], artifacts["b"]], Bench(batches=1), "dev", artifacts["ref"], {})
    assert (a.reference_ms, b.reference_ms) == (pytest.approx((1.01,)), pytest.approx((1.03,)))


def test_restless_batches_are_better_than_none(artifacts: dict[str, Artifact]) -> None:
    script = Script({"a": [1.0], "ref": [1.0, 2.0, 1.0, 4.0, 1.0, 8.0, 1.0, 16.0, 1.0, 32.0]})
    (a,) = measure_rounds(script, [artifacts["a"]], BENCH, "dev", artifacts["ref"], {})
    assert len(a.samples_ms) == BENCH.batches
    assert a.unstable(BENCH.tolerance)


def test_three_batches_that_agree_are_enough(artifacts: dict[str, Artifact]) -> None:
    script = Script({"a": [1.0, 1.009, 1.0], "b": [1.0, 1.02, 1.0]})
    bench = Bench(batches=5, agreement=0.01)
    a, b = measure_rounds(script, [artifacts["a"], artifacts["b"]], bench, "dev", None, {})
    assert (len(a.samples_ms), len(b.samples_ms)) == (3, 5)


def test_a_failure_ends_that_artifact_only(artifacts: dict[str, Artifact]) -> None:
    script = Script({"a": [1.0, Failure("gone")], "b": [2.0]})
    a, b = measure_rounds(script, [artifacts["a"], artifacts["b"]], BENCH, "dev", None, {})
    assert (a.failure, a.samples_ms) == (Failure("gone"), ())
    assert a.ms != a.ms
    assert b.failure is None
    assert script.calls.count("a") == 2


def test_one_slow_invoke_does_not_move_the_figure() -> None:
    calm = Batch(tuple([1.0] * 9 + [50.0]), 0.7)
    assert calm.low == 1.0
