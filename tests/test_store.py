"""The store: nothing lost, nothing twice, clear errors."""

import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from paceline.errors import StoreError
from paceline.files import write_atomically
from paceline.measurement import Bench, DeviceInfo, Failure, Measurement, TransientFailure
from paceline.store import Store

BENCH = Bench()
FOUND = Measurement(
    "RELU 1x1 -> 1x1",
    "a" * 64,
    "device",
    BENCH.key,
    ((1.25, 1.5), (1.0, 2.0, 0.1 + 0.2)),
    (1.0, 0.5),
    (0.5, 0.1 + 0.7),
    None,
    {"load": "0.1"},
)


def test_a_measurement_comes_back_bit_for_bit(tmp_path: Path) -> None:
    with Store(tmp_path / "deep" / "store.sqlite") as store:
        store.add([FOUND])
    with Store(tmp_path / "deep" / "store.sqlite") as store:
        assert store.find(["a" * 64, "b" * 64], "device", BENCH) == {"a" * 64: FOUND}
        assert store.find(["a" * 64], "another", BENCH) == {}
        assert store.find(["a" * 64], "device", replace(BENCH, threads=2)) == {}
        (row,) = store.rows()
        assert (row["subject"], row["ms"]) == (FOUND.subject, FOUND.ms)


def test_permanent_failures_are_kept_and_transient_ones_measured_again(tmp_path: Path) -> None:
    with Store(tmp_path / "s.sqlite") as store:
        none = replace(FOUND, samples_ms=(), cpu_share=(), reference_ms=())
        refused = replace(none, failure=Failure("no such operator"))
        store.add([refused, replace(none, artifact="b" * 64, failure=TransientFailure("lost"))])
        found = store.find(["a" * 64, "b" * 64], "device", BENCH)
        assert found.keys() == {"a" * 64}
        assert found["a" * 64].failure == Failure("no such operator")
        store.add([replace(FOUND, artifact="b" * 64)])
        assert store.find(["b" * 64], "device", BENCH)["b" * 64].failure is None


def test_more_artifacts_than_a_query_takes(tmp_path: Path) -> None:
    names = [f"{i:064d}" for i in range(1203)]
    with Store(tmp_path / "s.sqlite") as store:
        store.add([replace(FOUND, artifact=name) for name in names])
        assert store.find(names, "device", BENCH).keys() == set(names)


def test_results_are_there_at_once_and_in_another_process(tmp_path: Path) -> None:
    place = tmp_path / "s.sqlite"
    with Store(place) as store:
        results = store.results("run", "search")
        results["x"] = {"accuracy": 0.1 + 0.2}
        results["x"] = {"accuracy": 0.3}
        results["y"] = [1, None, "two"]
        del results["y"]
        code = f"from paceline.store import Store; print(dict(Store({str(place)!r}).results('run', 'search')))"
        out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
        assert out.stdout.strip() == "{'x': {'accuracy': 0.3}}"
        assert len(store.results("run", "other")) == 0


def test_devices_are_remembered_once(tmp_path: Path) -> None:
    with Store(tmp_path / "s.sqlite") as store:
        store.add_device(DeviceInfo("a", "local", {"cores": "2"}))
        store.add_device(DeviceInfo("b", "local", {"cores": "2"}))


@pytest.mark.parametrize(
    ("place", "reason"),
    [("/proc/nowhere/s.sqlite", "can't create the folder"), ("nosuchdb://x", "dialects"), ("{tmp}/garbage", "not a database")],
)
def test_a_store_that_cannot_be_opened(place: str, reason: str, tmp_path: Path) -> None:
    (tmp_path / "garbage").write_bytes(b"garbage" * 1000)
    with pytest.raises(StoreError, match=reason):
        Store(place.format(tmp=tmp_path))


def test_a_store_of_another_version(tmp_path: Path) -> None:
    with Store(tmp_path / "s.sqlite") as store, store._engine.begin() as db:
        db.exec_driver_sql("UPDATE about SET schema = 99")
    with pytest.raises(StoreError, match="schema 99"):
        Store(tmp_path / "s.sqlite")


def test_a_full_disk_is_one_clear_error(tmp_path: Path) -> None:
    """A file system of 256 KiB, where the machine lets us make one."""
    if (
        os.geteuid() != 0
        or subprocess.run(["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", str(tmp_path)], capture_output=True).returncode
    ):
        pytest.skip("can't mount a small file system here")
    try:
        with Store(tmp_path / "s.sqlite") as store:
            results = store.results("run", "step")
            with pytest.raises(StoreError, match="full"):
                results.update((str(i), os.urandom(500).hex()) for i in range(2000))
        with pytest.raises(StoreError, match="No space left"):
            write_atomically(tmp_path / "model.tflite", b"x" * 1_000_000)
        assert not [p.name for p in tmp_path.iterdir() if "model" in p.name]
    finally:
        subprocess.run(["umount", "-l", str(tmp_path)], check=True)
