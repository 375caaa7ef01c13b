"""`paceline table build`: a latency table, measured under a budget."""

from __future__ import annotations

import json
import threading
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table as Grid

from paceline.cli_options import DEFAULT_STORE, DevicesFile, Json, StorePlace, shown
from paceline.errors import ConfigError, PacelineError, TransientDeviceError
from paceline.measurement import Progress

if TYPE_CHECKING:
    from paceline.latency_models.collection.tables import Built


def build(
    models: Annotated[
        list[str] | None,
        typer.Argument(help="What the table is for: .tflite files, timm:NAME, zoo:NAME, … Default: blocks of mobile networks."),
    ] = None,
    device: Annotated[str, typer.Option(help='An id, "model=Pixel 8", "any 3 of soc=…", "all". A table for each.')] = "local",
    delegate: Annotated[str, typer.Option(help="xnnpack, builtin, gpu, … Default: the first that the device has.")] = "",
    threads: Annotated[int, typer.Option(min=1, help="Threads of the runtime.")] = 1,
    precision: Annotated[str, typer.Option(help="Of computing, where the delegate has a choice: fp32 or fp16.")] = "fp32",
    minutes: Annotated[
        float | None, typer.Option(help="Stop after so many minutes of the device. Default: 15, if nothing else says when.")
    ] = None,
    rows: Annotated[int | None, typer.Option(help="Stop at so many rows, operators and networks.")] = None,
    target_error: Annotated[
        str | None, typer.Option(metavar="5%", help="Stop when whole networks are predicted that well, held out.")
    ] = None,
    out: Annotated[
        Path | None, typer.Option("--out", "-o", help="The .paceline file. Default: runs/tables/DEVICE-DELEGATE.paceline.")
    ] = None,
    since: Annotated[
        Path | None,
        typer.Option(metavar="EARLIER", help="An older table of this device: only what moved since is measured again."),
    ] = None,
    fusion: Annotated[
        bool | None,
        typer.Option("--fusion/--no-fusion", help="First find what the runtime runs as one. Default: where it isn't the CPU."),
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="Draws what is generated.")] = 0,
    devices: DevicesFile = None,
    store: StorePlace = DEFAULT_STORE,
    as_json: Json = False,
) -> None:
    """Measure what predicts whole networks best, the most useful first; run it again to continue."""
    from paceline.devices.bench import BenchOptions
    from paceline.devices.farm.local import LocalFarm
    from paceline.devices.hosted import candidates, chosen, entries_of
    from paceline.latency_models.bundle.bundle import Bundle
    from paceline.latency_models.collection.building import Budget
    from paceline.latency_models.collection.tables import build_table, purpose_of
    from paceline.latency_models.predicting import default_table
    from paceline.store import Store

    error = None if target_error is None else _fraction(target_error)
    budget = Budget(15.0 if minutes is None and rows is None and error is None else minutes, rows, error)
    options = BenchOptions(delegate or None, threads, {"precision": precision})
    folder = (Path("runs") if "://" in store else Path(store).parent) / "models"
    with Store(store) as kept, LocalFarm.of(candidates(entries_of(devices), device)) as farm:
        names = [member.id for member in chosen(farm, device)]
        if out is not None and len(names) > 1:
            raise ConfigError(f"--out is one file, but {len(names)} devices are meant: {', '.join(names)}. Leave it out")
        earlier = None if since is None else Bundle.load(since)
        purpose = purpose_of(models or (), folder, seed)
        arguments = options, kept, folder, purpose, budget, seed, earlier, fusion
        with shown(as_json)("build the table") as progress:
            if len(names) == 1:
                found, troubles = [(names[0], build_table(farm.on(names[0]), *arguments, progress))], list[PacelineError]()
            else:
                found, troubles = _on_each(names, lambda name, watch: build_table(farm.on(name), *arguments, watch), progress)
    saved = [(out or default_table(name, built.bench.delegate), built) for name, built in found]
    for place, built in saved:
        built.bundle.save(place)
    _tell(saved, as_json)
    for trouble in troubles:
        Console(stderr=True).print(f"[bold red]error:[/] {escape(str(trouble))}", soft_wrap=True)
    if troubles:
        raise typer.Exit(troubles[0].exit_code)


def _on_each(
    names: Sequence[str], build_one: Callable[[str, Progress], Built], progress: Progress
) -> tuple[list[tuple[str, Built]], list[PacelineError]]:
    """All at the same time. A device that fails doesn't cost the tables of the others; whoever stops this stops them all."""
    ended = threading.Event()
    found: list[tuple[str, Built]] = []
    troubles: list[PacelineError] = []

    def watch(done: int, total: int, note: str = "") -> None:
        if ended.is_set():
            raise TransientDeviceError("stopped; run the same command again to continue")

    with ThreadPoolExecutor(len(names)) as pool:
        futures = [pool.submit(build_one, name, watch) for name in names]
        try:
            for name, future in zip(names, futures, strict=True):
                try:
                    found.append((name, future.result()))
                except PacelineError as e:
                    troubles.append(e)
                progress(len(found) + len(troubles), len(names), "devices")
        finally:
            ended.set()
    return found, troubles


def _fraction(text: str) -> float:
    """5% or 0.05. Raises ConfigError."""
    try:
        found = float(text.removesuffix("%")) / (100 if text.endswith("%") else 1)
    except ValueError:
        found = 0.0
    if not 0 < found < 1:
        raise ConfigError(f"--target-error {text!r} is no error; write it like 5% or 0.05")
    return found


def _tell(found: list[tuple[Path, Built]], as_json: bool) -> None:
    rows = [_summary(path, built) for path, built in found]
    if as_json:
        print(json.dumps(rows[0] if len(rows) == 1 else rows))
        return
    console = Console()
    for row in rows:
        grid = Grid("", "", show_header=False, title=escape(row["device"]) + (", simulated" if row["simulated"] else ""))
        for name, text in (
            ("operators", str(row["operators"])),
            ("whole networks", str(row["networks"])),
            ("time of the device", f"{row['device_minutes']:.1f} min"),
            ("error, held out", "not told with so few networks" if row["error"] is None else f"{row['error']:.1%}"),
            ("stopped", row["stopped"]),
            ("not measurable", str(len(row["failures"]))),
            ("flagged", str(len(row["flagged"]))),
        ):
            grid.add_row(name, escape(text))
        console.print(grid)
        if row["expired"] is not None:
            console.print(f"earlier table: {escape(row['expired']['why'])}; {row['expired']['held']} rows hold", soft_wrap=True)
        reasons = Counter(f["reason"] for f in row["failures"])
        for reason, n in reasons.most_common(5):
            console.print(f"[yellow]not measurable:[/] {n} times: {escape(reason)}", soft_wrap=True)
        for flag in row["flagged"]:
            console.print(
                f"[yellow]{flag['doubt']}:[/] {escape(flag['subject'])}: {flag['ms']:.4g} ms, {escape(flag['reason'])}",
                soft_wrap=True,
            )
        console.print(f"the table is {escape(row['out'])}; next: paceline fit {escape(row['out'])}", soft_wrap=True)


def _summary(path: Path, built: Built) -> dict[str, Any]:
    table = built.table
    return {
        "device": built.info.name,
        "simulated": built.info.simulated,
        "delegate": built.bench.delegate,
        "out": str(path),
        "rows": len(table.rows),
        "operators": sum(len(row.operators) == 1 for row in table.rows),
        "networks": sum(len(row.operators) > 1 for row in table.rows),
        "device_minutes": table.spent_s / 60,
        "error": table.error,
        "stopped": table.stopped,
        "failures": [{"subject": subject, "reason": reason} for subject, reason in table.failures],
        "expired": _expired(built),
        "flagged": [{"subject": f.subject, "ms": f.ms, "doubt": f.doubt, "reason": f.reason} for f in built.checked.flagged],
    }


def _expired(built: Built) -> dict[str, Any] | None:
    expiry = built.expiry
    if expiry is None:
        return None
    moved = [{"group": m.group, "ratio": m.ratio, "error": m.error, "probed": list(m.probed)} for m in expiry.moved]
    return {
        "why": expiry.why,
        "changes": {name: list(values) for name, values in expiry.changes.items()},
        "pace": expiry.pace,
        "moved": moved,
        "stale": [row.subject for row in expiry.stale],
        "held": len(expiry.held),
    }
