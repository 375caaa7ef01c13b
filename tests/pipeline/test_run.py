"""The whole loop, as a user runs it: small, but with every stage and a real device."""

import json
import math
import os
import signal
import sqlite3
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

SMALL = """
seed = 3
[data]
size = 16
[space]
name = "fairnas_small"
[supernet]
epochs = 1
batch = 128
[search]
population = 6
generations = 2
[retrain]
epochs = 2
[predictor]
fit_networks = 12
test_networks = 5
"""
NEEDED = {
    *(
        "limit_ms",
        "predicted_ms",
        "predicted_low_ms",
        "predicted_high_ms",
        "measured_ms",
        "noise_floor",
        "accuracy",
        "macs",
        "params",
    ),
    *("parity_max_abs_error", "merged_branches", "table_rows", "predictor", "seconds", "seed", "device", "runtime"),
}


def paceline(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Runs the command as a user would."""
    return subprocess.run([sys.executable, "-m", "paceline", *arguments], cwd=folder, capture_output=True, text=True, timeout=300)


def rows(folder: Path) -> dict[str, float]:
    """When each measurement in the store was made."""
    with sqlite3.connect(folder / "store.sqlite") as db:
        return dict(db.execute("SELECT artifact, measured_at FROM measurements"))


COMMAND = ("run", "run.toml", "--out", "out", "--store", "store.sqlite", "--json")


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    folder = tmp_path_factory.mktemp("run")
    (folder / "run.toml").write_text(SMALL)
    done = paceline(folder, *COMMAND)
    assert done.returncode == 0, done.stderr
    summary: dict[str, Any] = json.loads(done.stdout)
    return folder, summary


def test_the_summary_says_everything(finished: tuple[Path, dict[str, Any]]) -> None:
    folder, summary = finished
    assert summary.keys() >= NEEDED
    assert json.loads((folder / "out" / "summary.json").read_text()) == summary
    assert summary["measured_ms"] <= summary["limit_ms"]
    assert summary["predicted_low_ms"] <= summary["predicted_ms"] <= summary["predicted_high_ms"] <= summary["limit_ms"]
    assert summary["parity_max_abs_error"] < 1e-4
    assert {"noise floor", "table", "mlp", "trees", "linear", "macs only"} == {p["name"] for p in summary["predictor"]}
    assert all(0 <= p["within_5"] <= p["within_10"] <= 1 and p["n"] == 5 for p in summary["predictor"])
    assert summary["seed"] == 3
    assert summary["table_rows"] > 30
    assert all(s >= 0 for s in summary["seconds"].values())


def test_the_files_are_there_and_stand_alone(finished: tuple[Path, dict[str, Any]]) -> None:
    import onnxruntime
    from ai_edge_litert.interpreter import Interpreter

    folder, summary = finished
    html = (folder / "out" / "report.html").read_text()
    assert "<script" not in html
    assert 'src="http' not in html
    assert f"{summary['measured_ms']:.3g}" in html
    lite = Interpreter(model_path=str(folder / "out" / "model.tflite"))
    lite.allocate_tensors()
    assert lite.get_input_details()[0]["shape"].tolist() == [1, 16, 16, 1] == summary["input"]["shape"]
    assert onnxruntime.InferenceSession(folder / "out" / "model.onnx").get_inputs()[0].shape == [1, 1, 16, 16]
    assert not [p for p in folder.rglob("*") if ".part" in p.name]


def test_the_same_command_again_repeats_nothing(finished: tuple[Path, dict[str, Any]]) -> None:
    folder, summary = finished
    before = rows(folder)
    again = json.loads(paceline(folder, *COMMAND).stdout)
    assert again == summary
    assert rows(folder) == before


def test_killed_and_run_again_it_ends_where_an_undisturbed_run_does(
    finished: tuple[Path, dict[str, Any]], tmp_path: Path
) -> None:
    """The same measurements (new ones would differ), but no results: killed twice, then finished."""
    folder, summary = finished
    (tmp_path / "run.toml").write_text(SMALL)
    with sqlite3.connect(folder / "store.sqlite") as source, sqlite3.connect(tmp_path / "store.sqlite") as copy:
        source.backup(copy)
        copy.execute("DELETE FROM results")
    before = rows(tmp_path)
    for step in ("checkpoints/supernet.pt", "checkpoints/retrain*.pt"):
        process = subprocess.Popen([sys.executable, "-m", "paceline", *COMMAND], cwd=tmp_path, stdout=subprocess.DEVNULL)
        deadline = time.monotonic() + 200
        while not list((tmp_path / "out").glob(step)) and process.poll() is None and time.monotonic() < deadline:
            time.sleep(0.02)
        os.kill(process.pid, signal.SIGKILL)
        assert process.wait() == -signal.SIGKILL
    resumed = json.loads(paceline(tmp_path, *COMMAND).stdout)
    assert {k: v for k, v in resumed.items() if k != "seconds"} == {k: v for k, v in summary.items() if k != "seconds"}
    assert rows(tmp_path) == before


def test_a_limit_that_no_network_keeps(finished: tuple[Path, dict[str, Any]]) -> None:
    folder, _ = finished
    done = paceline(folder, "run", "run.toml", "--store", "store.sqlite", "--limit-ms", "0.0001")
    assert done.returncode == 5
    assert "keeps 0.0001 ms on local (xnnpack): the fastest possible is predicted at 0.0" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_simulated_phone_runs_the_whole_loop_and_says_so(tmp_path: Path) -> None:
    (tmp_path / "devices.toml").write_text('[[device]]\nid = "wide"\nkind = "simulated"\nprofile = "simulated-wide"\nseed = 1\n')
    (tmp_path / "run.toml").write_text(SMALL + '[device]\nid = "wide"\nfile = "devices.toml"\ndelegate = "gpu"\n')
    done = paceline(tmp_path, "run", "run.toml", "--out", "out", "--json")
    assert done.returncode == 0, done.stderr
    summary = json.loads(done.stdout)
    assert (summary["device"]["name"], summary["device"]["simulated"]) == ("wide", True)
    assert "gpu" in summary["runtime"]
    table = next(p for p in summary["predictor"] if p["name"] == "table")
    assert table["mape"] < 0.05
    assert "simulated device" in (tmp_path / "out" / "report.html").read_text()
    (tmp_path / "run.toml").write_text('[device]\nid = "tall"\nfile = "devices.toml"\n')
    assert "no device has the id 'tall'; there are: local, wide" in paceline(tmp_path, "run", "run.toml").stderr


@pytest.mark.parametrize(
    ("text", "code", "reason"),
    [
        ("[search]\npopluation = 3", 2, "did you mean 'population'"),
        ('[device]\ndelegate = "gpu"', 7, "delegate 'gpu' isn't available"),
        ('[data]\nkind = "npz"\npath = "none.npz"', 3, "none.npz"),
    ],
)
def test_mistakes_are_a_message_and_an_exit_code(tmp_path: Path, text: str, code: int, reason: str) -> None:
    (tmp_path / "run.toml").write_text(text)
    done = paceline(tmp_path, "run", "run.toml")
    assert done.returncode == code
    assert reason in done.stderr
    assert "Traceback" not in done.stderr


def test_a_broken_image_is_named(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    for name in ("cat", "dog"):
        (tmp_path / "pets" / name).mkdir(parents=True)
        for i in range(12):
            Image.fromarray(rng.integers(0, 255, (40, 40, 3), np.uint8)).save(tmp_path / "pets" / name / f"{i}.png")
    (tmp_path / "pets" / "dog" / "7.png").write_bytes(b"\x89PNG\r\n\x1a\n broken")
    (tmp_path / "run.toml").write_text('[data]\nkind = "folder"\npath = "pets"')
    done = paceline(tmp_path, "run", "run.toml")
    assert done.returncode == 3
    assert "dog/7.png" in done.stderr.replace("\n", "")
    assert "Traceback" not in done.stderr


def test_a_full_disk_is_a_message_and_the_run_goes_on_with_more_room(
    finished: tuple[Path, dict[str, Any]], tmp_path: Path
) -> None:
    if (
        os.geteuid() != 0
        or subprocess.run(["mount", "-t", "tmpfs", "-o", "size=6m", "tmpfs", str(tmp_path)], capture_output=True).returncode
    ):
        pytest.skip("can't mount a small file system here")
    folder, summary = finished
    command = ("run", str(folder / "run.toml"), "--out", str(tmp_path / "out"), "--store", str(folder / "store.sqlite"), "--json")
    try:
        with sqlite3.connect(folder / "store.sqlite") as db:
            db.execute("DELETE FROM results")
        done = paceline(folder, *command)
        assert done.returncode == 9, done.stderr
        assert "No space left" in done.stderr or "no space left" in done.stderr
        assert "Traceback" not in done.stderr
        assert not [p for p in tmp_path.rglob("*") if ".part" in p.name]
        subprocess.run(["mount", "-o", "remount,size=200m", str(tmp_path)], check=True)
        more = json.loads(paceline(folder, *command).stdout)
        assert more["model_sha256"] == summary["model_sha256"]
        assert math.isclose(more["accuracy"], summary["accuracy"])
    finally:
        subprocess.run(["umount", "-l", str(tmp_path)], check=True)
