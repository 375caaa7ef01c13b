"""`paceline merge`: which exact merges pay on a device, and the network with these made."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from paceline.cli_options import DEFAULT_STORE, DevicesFile, Json, StorePlace, shown
from paceline.errors import ConfigError

if TYPE_CHECKING:
    from paceline.pipeline.merge_plan import Decision, MergePlan

_SHOWN = 4
"""Alternatives of a decision in the table; --json has all."""


def merge(
    source: Annotated[
        str, typer.Argument(metavar="MODEL", help="timm:NAME[:weights], zoo:NAME[:weights], path/to/file.py:factory, …")
    ],
    device: Annotated[str, typer.Option(help='An id, "model=Pixel 8", "any 3 of soc=…", "all". A plan for each.')] = "local",
    delegate: Annotated[str, typer.Option(help="xnnpack, builtin, gpu, … Default: the first that the device has.")] = "",
    threads: Annotated[int, typer.Option(min=1, help="Threads of the runtime.")] = 1,
    precision: Annotated[str, typer.Option(help="Of computing, where the delegate has a choice: fp32 or fp16.")] = "fp32",
    table: Annotated[Path | None, typer.Option(help="A .paceline table of the device. Default: operators are measured.")] = None,
    plan: Annotated[bool, typer.Option("--plan", help="Decide by prediction: no network is measured, no file written.")] = False,
    out: Annotated[
        Path | None, typer.Option("--out", "-o", help="The .tflite or .onnx file to write; of several devices FILE-DEVICE.")
    ] = None,
    candidates: Annotated[int, typer.Option(min=1, help="So many of the fastest predicted networks are measured.")] = 3,
    shapes: Annotated[
        list[str] | None, typer.Option("--input", help="An input's shape (NHWC), 1x224x224x3; once for each.")
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="Of random weights and example inputs.")] = 0,
    devices: DevicesFile = None,
    store: StorePlace = DEFAULT_STORE,
    as_json: Json = False,
) -> None:
    """Find which exact merges pay on a device, by prediction and then by measuring; write the fastest network."""
    import torch

    from paceline.devices.bench import BenchOptions
    from paceline.devices.farm.local import LocalFarm
    from paceline.devices.hosted import candidates as possible
    from paceline.devices.hosted import chosen, entries_of
    from paceline.exporters import export
    from paceline.exporters.sources import load_source, shape_of
    from paceline.latency_models.bundle.bundle import Bundle
    from paceline.latency_models.collection.farm_device import FarmDevice
    from paceline.pipeline.merge_device import planner_for
    from paceline.store import Store

    if out is not None and (plan or out.suffix not in (".tflite", ".onnx")):
        raise ConfigError(f"--out {out}: " + ("--plan writes no file" if plan else "give a file that ends in .tflite or .onnx"))
    torch.manual_seed(seed)
    torch.set_num_threads(1)  # thousands of small kernels: threads would wait for each other longer than they compute
    network = load_source(source, [shape_of(text) for text in shapes or ()], seed)
    options = BenchOptions(delegate or None, threads, {"precision": precision})
    folder = (Path("runs") if "://" in store else Path(store).parent) / "models"
    known = None if table is None else Bundle.load(table)
    plans: list[tuple[MergePlan, Path | None]] = []
    with Store(store) as kept, LocalFarm.of(possible(entries_of(devices), device)) as farm:
        names = [member.id for member in chosen(farm, device)]
        for name in names:
            planner = planner_for(FarmDevice(farm.on(name)), options, kept, folder, seed, known, candidates)
            found = planner.plan(network.module, network.example, shown(as_json), measure=not plan)
            written = None if out is None else out if len(names) == 1 else out.with_stem(f"{out.stem}-{name}")
            if written is not None:
                source_text = f"{network.text}, merged for {name}"
                export(network.module, network.example, written, merge=found.choices(), source=source_text)
            plans.append((found, written))
    if as_json:
        told = [{"model": network.text, **found.to_json(), "file": None if file is None else str(file)} for found, file in plans]
        print(json.dumps(told[0] if len(told) == 1 else told))
        return
    for found, file in plans:
        _print(found, file, Console())
    for warning in network.warnings:
        Console().print(f"[yellow]warning:[/] {escape(warning)}", soft_wrap=True)


def _print(plan: MergePlan, file: Path | None, console: Console) -> None:
    if not plan.decisions:
        console.print("there is nothing to decide: no two layers of this network can be merged or left, exactly", soft_wrap=True)
    else:
        console.print(_decisions(plan))
    console.print(_whole(plan))
    if plan.noise is not None:
        console.print(
            f"forms within {plan.noise:.1%} count as equal; then the one with the fewest operators wins", soft_wrap=True
        )
    if file is not None:
        console.print(f"written: {escape(str(file))}", soft_wrap=True)


def _decisions(plan: MergePlan) -> Table:
    title = escape(plan.device) + (", a simulated device" if plan.simulated else "")
    table = Table("", "merged", "operators", "predicted ms", "measured ms", title=f"Decisions for {title}")
    for decision in plan.decisions:
        made = set(decision.made)
        for i, a in enumerate(decision.alternatives):
            if i >= _SHOWN and set(a.made) not in (made, set(decision.unasked)):
                continue
            predicted = f"{a.predicted_ms:.4f}" + ("" if a.source == "measured" else " ?")
            measured = "" if a.measured_ms is None else f"{a.measured_ms:.4f}"
            mark = "[green]✓[/]" if set(a.made) == made else ""
            table.add_row(mark, _names(a.made, decision), str(a.operators), predicted, measured)
        table.add_section()
    return table


def _names(made: tuple[str, ...], decision: Decision) -> str:
    every = [merge.name for merge in decision.merges if merge.name in made]
    return escape("; ".join(every) or f"nothing of {decision.segment}")


def _whole(plan: MergePlan) -> Table:
    table = Table("", "whole network", "merges", "operators", "predicted ms", "measured ms")
    for form in plan.forms:
        measured = form.failure or ("" if form.measured_ms is None else f"{form.measured_ms:.4f}")
        mark = "[green]✓[/]" if form.made == plan.made else ""
        table.add_row(
            mark, ", ".join(form.roles), str(len(form.made)), str(form.operators), f"{form.predicted_ms:.4f}", escape(measured)
        )
    return table
