"""Are the milliseconds true? `paceline bench` beside LiteRT's own Python benchmark tool, and from run to run.

    python benchmarks/truth.py MODEL.tflite… [--repetitions 20] [--load 0]

Both measure the same files on the same CPU, one thread, XNNPACK, taking turns, every time in a new process; compared are the 5 %
quantiles (the tool prints no p10, and rounds to 0.01 ms), turn by turn. From run to run: the coefficient of variation of
`p10_ms`. On a shared host, networks with megabytes of weights feel the neighbours' use of the memory, small ones don't.
--load starts that many processes that keep the machine busy: such figures are good for nothing but a look at the noise.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.table import Table

from paceline.devices.device import Device
from paceline.devices.kinds.local import open_local
from paceline.measurement import Artifact, Bench, Measurement
from paceline.progress import progress

_ROUNDING_MS = 0.01
_FINE = 0.01


def peer_p5(path: Path, bench: Bench, runs: int, folder: Path) -> float:
    """The tool's p5 in milliseconds, pinned like ours."""
    result = folder / "peer.json"
    command = [sys.executable, "-m", "ai_edge_litert.tools.benchmark_litert_model", f"--model={path}"]
    command += [
        f"--num_threads={bench.threads}",
        f"--num_runs={runs}",
        f"--warmup_runs={max(5, runs // 10)}",
        f"--result_json={result}",
    ]
    pinned = ["taskset", "-c", ",".join(map(str, bench.affinity))]
    subprocess.run(pinned + command, check=True, capture_output=True, env=os.environ | {"OMP_NUM_THREADS": "1"})
    return float(json.loads(result.read_text())["latency"]["p5_ms"])


def own_p5(m: Measurement) -> float:
    return float(np.median([np.percentile(batch, 5) for batch in m.samples_ms]))


def measured(device: Device, artifact: Artifact, bench: Bench) -> Measurement:
    """In a new process."""
    device.close()
    (m,) = device.measure([artifact], bench)
    if m.failure is not None:
        raise SystemExit(f"{artifact.path} can't be measured: {m.failure.reason}")
    return m


def busy() -> None:
    while True:
        np.linalg.norm(np.random.default_rng(0).standard_normal((256, 256)) @ np.ones((256, 256)))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="+", type=Path)
    parser.add_argument("--repetitions", type=int, default=20)
    parser.add_argument("--load", type=int, default=0, metavar="PROCESSES")
    options = parser.parse_args()
    disturbers = [multiprocessing.Process(target=busy, daemon=True) for _ in range(options.load)]
    for disturber in disturbers:
        disturber.start()
    table = Table("model", "p10 ms", "CV of p10", "spread", "p5 ours ms", "p5 tool ms", "ours / tool", "tool's rounding")
    ratios, variations = [], []
    with tempfile.TemporaryDirectory() as place, open_local() as device, progress("truth") as shown:
        bench = device.default_bench()
        for i, path in enumerate(options.models):
            artifact = Artifact(path, path.name)
            ours, own, theirs = [], [], []
            for turn in range(options.repetitions):
                runs = sum(map(len, ours[0].samples_ms)) if ours else 200
                if turn % 2:  # who goes first changes
                    theirs.append(peer_p5(path, bench, runs, Path(place)))
                ours.append(measured(device, artifact, bench))
                own.append(own_p5(ours[-1]))
                if not turn % 2:
                    theirs.append(peer_p5(path, bench, runs, Path(place)))
                shown(i * options.repetitions + turn + 1, len(options.models) * options.repetitions, path.name)
            figures = [m.ms for m in ours]
            variations.append(float(np.std(figures, ddof=1) / np.mean(figures)))
            ratio = float(np.median(np.array(own) / np.array(theirs)))
            rounding = _ROUNDING_MS / 2 / float(np.median(theirs))
            if rounding <= _FINE:
                ratios.append(ratio)
            table.add_row(
                path.stem,
                f"{np.median(figures):.4f}",
                f"{variations[-1]:.2%}",
                f"{np.median([m.spread for m in ours]):.2%}",
                f"{np.median(own):.4f}",
                f"{np.median(theirs):.2f}",
                f"{ratio:.3f}",
                f"± {rounding:.1%}",
            )
    for disturber in disturbers:
        disturber.terminate()
    Console(width=None if sys.stdout.isatty() else 150).print(table)
    if ratios:
        told = f"median {np.median(ratios):.3f}, from {min(ratios):.3f} to {max(ratios):.3f}"
        print(f"ours / tool, median over turns, where its rounding is at most {_FINE:.0%} ({len(ratios)} models): {told}")
    print(f"CV of p10 over {options.repetitions} repetitions: median {np.median(variations):.2%}, most {max(variations):.2%}")
    print(f"load average {os.getloadavg()[0]:.2f}, {options.load} disturbing processes")


if __name__ == "__main__":
    main()
