"""LiteRT's CPU delegates in the Python worker."""

import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from paceline.devices.measuring_worker.engine import delegation
from paceline.devices.runners.python_worker import PythonWorkerRunner
from paceline.devices.runners.runner import Batch
from paceline.devices.transports.local import LocalTransport
from paceline.errors import DeviceError
from paceline.measurement import Artifact, Bench, Delegation, Failure, TransientFailure

QUICK = Bench(min_invokes=10, batch_ms=1.0, warmup_ms=0.5, timeout_s=30.0)


@pytest.fixture(scope="module")
def litert() -> Iterator[PythonWorkerRunner]:
    runner = PythonWorkerRunner(LocalTransport(), "litert", sys.executable, profile_runs=20)
    yield runner
    runner.close()


def test_litert_runs_models_the_same_way_on_both_delegates(litert: PythonWorkerRunner, models: Sequence[Artifact]) -> None:
    assert set(litert.facts()) == {"litert", "architecture"}
    found = []
    for delegate in ("xnnpack", "builtin"):
        session = litert.session(replace(QUICK, delegate=delegate))
        assert isinstance(session.batch(models[-1]), Batch)
        (output,) = session.outputs(models[-1])  # type: ignore[misc]
        found.append((output, session.delegation(models[-1])))
        session.close()
    (fast, all_taken), (plain, none_taken) = found
    assert (all_taken, none_taken) == (Delegation("xnnpack", 1, 1, ()), Delegation("builtin", 0, 0, ("CONV_2D",)))
    np.testing.assert_allclose(fast, plain, atol=1e-5 * np.ptp(plain))
    assert np.ptp(plain) > 0


def test_litert_says_what_is_no_model(litert: PythonWorkerRunner, tmp_path: Path) -> None:
    (tmp_path / "text.tflite").write_text("hello")
    session = litert.session(QUICK)
    found = session.batch(Artifact(tmp_path / "text.tflite", "text"))
    assert isinstance(found, Failure)
    assert not isinstance(found, TransientFailure)
    with pytest.raises(DeviceError, match=r"no operator profile of .*text\.tflite"):
        litert.profile(Artifact(tmp_path / "text.tflite", "text"), QUICK)
    session.close()


def test_litert_has_no_options(litert: PythonWorkerRunner, models: Sequence[Artifact]) -> None:
    session = litert.session(replace(QUICK, options=(("turbo", "1"),)))
    with pytest.raises(DeviceError, match="no option 'turbo'"):
        session.batch(models[0])
    session.close()


def test_the_profile_says_who_ran_what(litert: PythonWorkerRunner, models: Sequence[Artifact]) -> None:
    (delegated,) = litert.profile(models[-1], QUICK)
    (own,) = litert.profile(models[-1], replace(QUICK, delegate="builtin"))
    assert (delegated.delegated, own.delegated) == (True, False)
    assert own.name == "CONV_2D"
    assert own.ms > 0


def test_delegation_is_read_from_the_nodes() -> None:
    def node(name: str, ins: list[int], outs: list[int]) -> Mapping[str, object]:
        return {"op_name": name, "inputs": ins, "outputs": outs}

    whole = [node("PAD", [0], [1]), node("CONV_2D", [1, 2], [3]), node("DELEGATE", [0, 2], [3])]
    assert delegation(whole) == {"partitions": 1, "delegated": 2, "left": []}
    cut = [node("CONV_2D", [0], [1]), node("CUSTOM", [1], [2]), node("CONV_2D", [2], [3])]
    cut += [node("DELEGATE", [0], [1]), node("DELEGATE", [2], [3])]
    assert delegation(cut) == {"partitions": 2, "delegated": 2, "left": ["CUSTOM"]}
    assert delegation([node("CONV_2D", [0], [1])]) == {"partitions": 0, "delegated": 0, "left": ["CONV_2D"]}
