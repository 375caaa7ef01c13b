"""Kills a run at random moments, runs the same command again, and compares the end with an undisturbed run.

    python benchmarks/killed.py [--kills 10] [--seed 0]

First an undisturbed run. Then its results, checkpoints and files are dropped, but not its measurements, and the same command
runs again and is killed (SIGKILL, the whole process group) at random moments until all kills are used up; then it may
finish. Then all that again with an empty store, to see that no row of an interrupted run is measured twice.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from paceline.seeds import Seeds

CONFIG = "[supernet]\nepochs = 2\n[search]\npopulation = 12\ngenerations = 5\n[retrain]\nepochs = 6\n"
COMMAND = [sys.executable, "-m", "paceline", "run", "config.toml", "--out", "out", "--store", "store.sqlite", "--json"]
Rows = dict[str, tuple[int, float]]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=10)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    rng = Seeds(options.seed).rng("kills")
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        (folder / "config.toml").write_text(f"seed = {options.seed}\n" + CONFIG)
        start = time.monotonic()
        undisturbed = finish(folder)
        took = time.monotonic() - start
        print(f"undisturbed: {took:.0f} s, measured {undisturbed['measured_ms']:.4f} ms, accuracy {undisturbed['accuracy']:.4f}")
        forget_results(folder)
        kept = rows(folder)
        resumed = killed_often(folder, rng.uniform(2.0, took / 6, options.kills).tolist())
        different = sorted(key for key in undisturbed if key != "seconds" and undisturbed[key] != resumed.get(key))
        print(f"same measurements, {options.kills} kills: differs from the undisturbed run in {different or 'nothing'}")
        print(f"rows measured again: {again(kept, rows(folder))} of {len(kept)}")
        shutil.rmtree(folder / "out")
        for file in folder.glob("store.sqlite*"):
            file.unlink()
        fresh = killed_often(folder, rng.uniform(2.0, took / 6, options.kills).tolist())
        print(f"empty store, {options.kills} kills: finished, measured {fresh['measured_ms']:.4f} of {fresh['limit_ms']:.4f} ms")


def killed_often(folder: Path, moments: list[float]) -> dict[str, Any]:
    """Runs, kills after so many seconds, and again; then lets it finish. Prints what each restart found measured."""
    known = rows(folder)
    for i, moment in enumerate(moments):
        process = subprocess.Popen(
            COMMAND, cwd=folder, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True
        )
        try:
            process.wait(moment)
            ended = f"had ended with {process.returncode}"
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            ended = "killed"
        found = rows(folder)
        print(
            f"  kill {i + 1} after {moment:.1f} s: {ended}, {len(found)} rows, {again(known, found)} measured again", flush=True
        )
        known = found
    return finish(folder)


def finish(folder: Path) -> dict[str, Any]:
    done = subprocess.run(COMMAND, cwd=folder, check=True, stdout=subprocess.PIPE)
    summary: dict[str, Any] = json.loads(done.stdout)
    return summary


def rows(folder: Path) -> Rows:
    """Every measurement in the store: when it was made, and its figure."""
    if not (folder / "store.sqlite").exists():
        return {}
    with sqlite3.connect(folder / "store.sqlite") as db:
        try:
            return {artifact: (at, ms) for artifact, at, ms in db.execute("SELECT artifact, measured_at, ms FROM measurements")}
        except sqlite3.OperationalError:  # killed before the tables were made
            return {}


def again(before: Rows, after: Rows) -> int:
    """How many of the earlier rows are gone or were measured once more."""
    return sum(after.get(artifact) != row for artifact, row in before.items())


def forget_results(folder: Path) -> None:
    shutil.rmtree(folder / "out")
    with sqlite3.connect(folder / "store.sqlite") as db:
        db.execute("DELETE FROM results")


if __name__ == "__main__":
    main()
