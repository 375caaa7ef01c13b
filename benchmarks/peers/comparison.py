"""Other converters beside ours, for export_zoo.py: each in its own environment, one after the other, never in parallel.

Seconds are those of the conversion call until the file is written, in a process that has imported everything, the median of
three. litert-torch gets the module (its state dict, loaded into timm's network of that name) with channel-last input; onnx2tf
gets our .onnx, so a conversion from torch takes the seconds of the .onnx as well. The files are then measured together on
XNNPACK, one thread, their batches interleaved.
"""

from __future__ import annotations

import json
import subprocess
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn

from paceline.devices.device import Device
from paceline.errors import PacelineError
from paceline.exporters import parity, tflite
from paceline.exporters.inspect import transposes_inside
from paceline.measurement import Artifact, Bench

_HERE = Path(__file__).parent
_TIMEOUT_S = 900.0
_SLOWER = 1.02

Row = dict[str, Any]


def convert_all(
    module: nn.Module, x: Tensor, name: str, row: Row, folder: Path, litert: str | None, onnx2tf: str | None, repeats: int
) -> tuple[dict[str, Row], dict[str, Path]]:
    """What each peer made of the network, and the files of those that succeeded."""
    found: dict[str, Row] = {}
    files: dict[str, Path] = {}
    if litert:
        state, out = folder / f"{name}.pth", folder / f"{name}.litert-torch.tflite"
        torch.save(module.state_dict(), state)
        shape = "x".join(map(str, x.shape))
        found["litert-torch"] = _convert([litert, "convert_litert.py", name, str(state), shape], out, repeats)
        state.unlink()
    if onnx2tf:
        out = folder / f"{name}.onnx2tf.tflite"
        if "reason" in row["onnx"]:
            found["onnx2tf"] = {"reason": "no .onnx to start from"}
        else:
            found["onnx2tf"] = _convert([onnx2tf, "convert_onnx2tf.py", str(folder / f"{name}.onnx")], out, repeats)
    for peer, result in found.items():
        if "reason" not in result:
            path = folder / f"{name}.{peer}.tflite"
            result |= _judged(module, x, path)
            files[peer] = path
    return found, files


def _convert(command: list[str], out: Path, repeats: int) -> Row:
    """Runs a converter script of this folder; its first word is the interpreter."""
    python, script, *arguments = command
    report, log = out.with_suffix(".json"), out.with_suffix(".log")
    report.unlink(missing_ok=True)
    whole = [python, str(_HERE / script), *arguments, str(out.resolve()), str(report.resolve()), str(repeats)]
    try:
        with log.open("wb") as file:
            subprocess.run(whole, stdout=file, stderr=file, timeout=_TIMEOUT_S, check=True)
    except (OSError, subprocess.SubprocessError) as e:
        return {"reason": f"{_last_line(log)} ({e.__class__.__name__}{_how(e)})"}
    seconds = json.loads(report.read_text())["seconds"]
    report.unlink()
    return {"seconds": float(np.median(seconds)), "bytes": out.stat().st_size}


def _how(error: Exception) -> str:
    if isinstance(error, subprocess.CalledProcessError):
        return f", exit code {error.returncode}"
    return f" after {_TIMEOUT_S:g} s" if isinstance(error, subprocess.TimeoutExpired) else f": {error}"


def _last_line(log: Path) -> str:
    """The end of what a converter printed: with Python's tracebacks, the error."""
    lines = [line for line in log.read_text(errors="replace").replace("\r", "\n").splitlines() if line.strip()]
    return lines[-1].strip()[:200] if lines else "it printed nothing"


def _judged(module: nn.Module, x: Tensor, path: Path) -> Row:
    """Operators and differences of a peer's file. A peer is not held to our tolerance: what it does is printed."""
    row: Row = {}
    try:
        graph = tflite.read(path).graph
        row |= {"operators": len(graph.ops), "transposes_inside": transposes_inside(graph)}
    except PacelineError as e:
        row["unread"] = str(e)
    try:
        row["max_rel_error"] = parity.check(module, [x], Artifact(path, path.stem), tolerance=float("inf")).max_rel_error
    except PacelineError as e:
        row["wrong"] = str(e)
    return row


def latencies(files: dict[str, Path], device: Device, bench: Bench) -> Row:
    """Milliseconds of each file, measured together; where ours is slower than a peer's, both operator profiles by kind."""
    artifacts = {name: Artifact(path, path.stem) for name, path in files.items()}
    measured = dict(zip(artifacts, device.measure(list(artifacts.values()), bench), strict=True))
    found: Row = {}
    for name, m in measured.items():
        left = ", ".join(m.delegation.left or ()) if m.delegation else ""
        found[name] = {"reason": m.failure.reason} if m.failure else {"ms": m.ms, "spread": m.spread, "left": left}
    slower = [name for name in found if _ratio(found, name) > _SLOWER]
    profiles = {name: _profile(artifacts[name], device, bench) for name in ("own", *slower)} if slower else {}
    return {"latency": found, "profiles": profiles}


def _ratio(latency: Row, peer: str) -> float:
    """Ours over theirs; NaN where one is missing."""
    return float(latency.get("own", {}).get("ms", np.nan) / latency.get(peer, {}).get("ms", np.nan))


def _profile(artifact: Artifact, device: Device, bench: Bench) -> dict[str, float]:
    try:
        operators = device.profile(artifact, bench)
    except PacelineError as e:
        return {str(e): float("nan")}
    total: Counter[str] = Counter()
    for operator in operators:
        total[operator.name] += operator.ms  # type: ignore[assignment]
    return dict(total)


def print_comparison(rows: list[Row], console: Console) -> None:
    peers = list(dict.fromkeys(peer for row in rows for peer in row.get("peers", {})))
    for peer in peers:
        compared = [row for row in rows if peer in row.get("peers", {})]
        console.print(_table(peer, compared))
        _print_ratios(peer, compared)
    for row in rows:
        _print_profiles(row, console)


def _table(peer: str, rows: list[Row]) -> Table:
    columns = ("network", "s", "ours s", "times ours", "operators", "TRANSPOSE", "MB", "error", "ms", "ours ms", "ours / theirs")
    table = Table(*columns, title=peer + (" (seconds with ONNX export; alone in brackets)" if peer == "onnx2tf" else ""))
    for row in rows:
        theirs, own, latency = row["peers"][peer], row["own"], row.get("latency", {})
        if "reason" in theirs:
            table.add_row(row["network"], "failed: " + theirs["reason"][:80])
            continue
        alone = f" ({theirs['seconds']:.2f})" if peer == "onnx2tf" else ""
        ms = [f"{latency[n]['ms']:.3f}" if "ms" in latency.get(n, {}) else "none" for n in (peer, "own")]
        own_seconds = f"{own.get('seconds', np.nan):.2f}"
        error = f"{theirs['max_rel_error']:.1e}" if "max_rel_error" in theirs else "does not run, or other outputs"
        table.add_row(
            row["network"], f"{_seconds(row, peer):.2f}{alone}", own_seconds, f"{_speedup(row, peer):.1f}",
            str(theirs.get("operators", "?")), str(theirs.get("transposes_inside", "?")), f"{theirs['bytes'] / 1e6:.1f}", error,
            *ms, f"{_ratio(latency, peer):.3f}",
        )  # fmt: skip
    return table


def _seconds(row: Row, peer: str) -> float:
    """From torch to the file: onnx2tf needs the .onnx first."""
    return float(row["peers"][peer]["seconds"] + (row["onnx"]["seconds"] if peer == "onnx2tf" else 0))


def _speedup(row: Row, peer: str) -> float:
    return _seconds(row, peer) / float(row["own"].get("seconds", np.nan))


def _print_ratios(peer: str, rows: list[Row]) -> None:
    converted = [row for row in rows if "reason" not in row["peers"][peer]]
    wrong = [row["network"] for row in converted if not row["peers"][peer].get("max_rel_error", np.inf) <= 1e-4]
    print(f"{peer}: converts {len(converted)} of {len(rows)}, off by more than 1e-4: {', '.join(wrong) or 'none'}")
    times = {row["network"]: _speedup(row, peer) for row in converted if "reason" not in row["own"]}
    ratios = {row["network"]: _ratio(row.get("latency", {}), peer) for row in converted}
    ratios = {name: ratio for name, ratio in ratios.items() if np.isfinite(ratio)}
    if times:
        least, median = min(times, key=times.__getitem__), np.median([*times.values()])
        print(f"  export: theirs takes {median:.1f} times as long at the median, least {times[least]:.1f} ({least})")
    if ratios:
        most, median = max(ratios, key=ratios.__getitem__), np.median([*ratios.values()])
        print(f"  latency: ours / theirs {median:.3f} at the median, most {ratios[most]:.3f} ({most})")


def _print_profiles(row: Row, console: Console) -> None:
    profiles: dict[str, dict[str, float]] = row.get("profiles", {})
    for peer in [name for name in profiles if name != "own"]:
        ours, theirs = profiles["own"], profiles[peer]
        kinds = sorted({*ours, *theirs}, key=lambda kind: theirs.get(kind, 0) - ours.get(kind, 0))
        title = f"{row['network']}: ours is {_ratio(row['latency'], peer):.3f} times {peer}'s; milliseconds by kind of operator"
        table = Table("operator", "ours", peer, "difference", title=title)
        for kind in kinds:
            a, b = ours.get(kind, 0.0), theirs.get(kind, 0.0)
            table.add_row(kind, f"{a:.3f}", f"{b:.3f}", f"{a - b:+.3f}")
        console.print(table)
