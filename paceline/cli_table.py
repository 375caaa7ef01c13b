"""`paceline table`: tables of latencies, as files: show, compare, merge, import, export."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from paceline.bundle_tables import (
    bundle_json,
    difference_json,
    print_bundle,
    print_contradictions,
    print_difference,
    print_failures,
    title_of,
)
from paceline.cli_options import DEFAULT_STORE, Json, StorePlace, existing
from paceline.cli_table_build import build
from paceline.errors import ConfigError

if TYPE_CHECKING:
    from paceline.latency_models.bundle.bundle import Bundle
    from paceline.latency_models.imports.imports import Source

table = typer.Typer(help="Tables of latencies: build, show, compare, merge, import, export.", invoke_without_command=True)
table.command()(build)
Limit = Annotated[int, typer.Option(min=1, help="How many rows are shown.")]
Out = Annotated[Path, typer.Option("-o", "--out", help="The .paceline file to write.")]


@table.callback()
def _without_command(context: typer.Context, store: StorePlace = DEFAULT_STORE, as_json: Json = False) -> None:
    """Tables of latencies: build, show, compare, merge, import, export. Without a command: the rows in the store."""
    if context.invoked_subcommand is None:
        _show_store(store, as_json)


@table.command()
def show(
    file: Annotated[Path | None, typer.Argument(metavar="[TABLE]", help="A .paceline file. Default: the store's rows.")] = None,
    limit: Limit = 20,
    store: StorePlace = DEFAULT_STORE,
    as_json: Json = False,
) -> None:
    """What is in a table: the device, how was measured, the slowest rows, what failed."""
    if file is None:
        _show_store(store, as_json)
        return
    bundle = _load(file)
    if as_json:
        print(json.dumps(bundle_json(bundle)))
    else:
        print_bundle(bundle, file.name, limit, Console())


@table.command()
def diff(
    before: Annotated[Path, typer.Argument(help="A .paceline file.")],
    after: Annotated[Path, typer.Argument(help="Another one.")],
    confidence: Annotated[float, typer.Option(min=0.5, max=0.999, help="Of the intervals, and of calling a row changed.")] = 0.95,
    everything: Annotated[bool, typer.Option("--all", help="Also the rows whose change isn't shown.")] = False,
    limit: Limit = 20,
    as_json: Json = False,
) -> None:
    """Which rows became slower or faster, with intervals from the raw samples."""
    from paceline.latency_models.bundle.diff import diff as difference

    old, new = _load(before), _load(after)
    found = difference(old, new, confidence)
    if as_json:
        print(json.dumps(difference_json(found, old, new)))
    else:
        print_difference(found, limit, everything, Console())


@table.command()
def merge(
    files: Annotated[list[Path], typer.Argument(metavar="TABLE…", help=".paceline files of one device and settings.")],
    out: Out,
    as_json: Json = False,
) -> None:
    """Several tables of one device as one; of the same row the newest counts."""
    from paceline.latency_models.bundle.merge import merge as merged

    found = merged([_load(file) for file in files])
    found.bundle.save(out)
    if as_json:
        contradictions = [vars(c) for c in found.contradictions]
        print(json.dumps({"out": str(out), "contradictions": contradictions} | bundle_json(found.bundle)))
        return
    print_contradictions(found.contradictions, Console())
    Console().print(f"{len(found.bundle.measured)} rows in {escape(str(out))}", soft_wrap=True)


@table.command("import")
def import_table(
    file: Annotated[Path, typer.Argument(help="A log or table of another tool; also .gz.")],
    out: Out,
    device: Annotated[str, typer.Option(help="What was measured: the device's name.")],
    format_name: Annotated[
        str | None,
        typer.Option("--format", help="benchmark_model, onnxruntime, block-table, aihub, aihub-table. Default: as it looks."),
    ] = None,
    runtime: Annotated[str, typer.Option(help="tflite, litert, onnxruntime, …")] = "tflite",
    runtime_version: Annotated[str, typer.Option(help="Its version, where it is known.")] = "",
    delegate: Annotated[str, typer.Option(help="builtin, xnnpack, gpu, npu, …")] = "builtin",
    threads: Annotated[int, typer.Option(min=1, help="Threads of the runtime.")] = 1,
    precision: Annotated[str, typer.Option(help="Of computing: fp32, fp16, w8a8, …")] = "fp32",
    unit: Annotated[str, typer.Option(help="Of the figures in a block-table: ms, us or s.")] = "ms",
    model: Annotated[Path | None, typer.Option(help="The .tflite file that a log is about: rows get their operators.")] = None,
    licence: Annotated[str, typer.Option(help="What may be done with the rows.")] = "",
    origin: Annotated[str, typer.Option(help="Where the rows come from. Default: the file's name.")] = "",
    as_json: Json = False,
) -> None:
    """Logs of benchmark_model, profiles of ONNX Runtime and AI Hub, tables of ProxylessNAS and OFA as a table."""
    from paceline.latency_models.bundle.rows import OUTLIER
    from paceline.latency_models.imports.formats import import_bundle
    from paceline.latency_models.imports.imports import Source
    from paceline.measurement import Bench, DeviceInfo

    facts = {"name": device} | ({runtime: runtime_version} if runtime_version else {})
    bench = Bench(runtime=runtime, delegate=delegate, threads=threads, precision=precision)
    source = Source(DeviceInfo(device, "imported", facts), bench, licence, origin, unit)
    bundle = import_bundle(file, _with_model(source, model), format_name)
    bundle.save(out)
    if as_json:
        print(json.dumps({"out": str(out)} | bundle_json(bundle)))
        return
    console = Console()
    print_failures(bundle, 20, console)
    for row in (r for r in bundle.measured if OUTLIER in r.flags):
        what = f"{escape(title_of(row.subject))}: {row.ms:.4g} ms is far from what the other rows let expect"
        console.print(f"[yellow]outlier[/]: {what}; no model will learn from it", soft_wrap=True)
    learnable = len(bundle.rows(kinds=("operator", "network", "block")))
    rows = f"{len(bundle.measured)} rows, {learnable} of them with their operators, in {escape(str(out))}"
    console.print(rows, soft_wrap=True)


@table.command()
def export(
    out: Annotated[Path, typer.Option("-o", "--out", help="A .csv, .jsonl or .parquet file, or a .paceline file.")],
    file: Annotated[Path | None, typer.Argument(metavar="[TABLE]", help="A .paceline file. Default: from the store.")] = None,
    samples: Annotated[bool, typer.Option("--samples", help="With every invoke.")] = False,
    device: Annotated[str, typer.Option(help="Of the store: the device's name or fingerprint.")] = "",
    delegate: Annotated[str, typer.Option(help="Of the store: the delegate.")] = "",
    model: Annotated[list[Path] | None, typer.Option(help="Of the store: .tflite files of networks measured there.")] = None,
    store: StorePlace = DEFAULT_STORE,
    as_json: Json = False,
) -> None:
    """The rows of a table as a flat file for other tools; or what the store has of a device as a table."""
    from paceline.latency_models.bundle.export import export_rows

    bundle = _load(file) if file is not None else _from_store(store, device, delegate, model or [])
    if out.suffix == ".paceline":
        bundle.save(out)
        rows = len(bundle.measured) + len(bundle.failed)
    else:
        rows = export_rows(bundle, out, samples)
    if as_json:
        print(json.dumps({"out": str(out), "rows": rows}))
    else:
        Console().print(f"{rows} rows in {escape(str(out))}", soft_wrap=True)


def _load(file: Path) -> Bundle:
    from paceline.latency_models.bundle.bundle import Bundle

    return Bundle.load(file)


def _from_store(place: str, device: str, delegate: str, models: list[Path]) -> Bundle:
    from paceline.latency_models.bundle.bundle import Bundle
    from paceline.latency_models.bundle.stored import networks_in, tables_in
    from paceline.store import Store

    with Store(existing(place)) as store:
        known = tables_in(store)
        found = [(d, b) for d, b in known if device in ("", d.name, d.fingerprint) and delegate in ("", b.delegate)]
        if len(found) != 1:
            there = "; ".join(f"{d.name} {d.fingerprint} {b.runtime} {b.delegate}, {b.threads} threads" for d, b in known)
            raise ConfigError(
                f"{len(found)} tables in the store {place} fit, and one is needed: choose with --device and --delegate "
                f"from {there or 'none, nothing was measured yet'}"
            )
        return Bundle.from_store(store, *found[0], networks_in(models), origin=f"the store {Path(place).name}")


def _with_model(source: Source, model: Path | None) -> Source:
    if model is None:
        return source
    if model.suffix.lower() != ".tflite":
        raise ConfigError(f"--model {model} is no .tflite file")
    from paceline.exporters.tflite import read
    from paceline.measurement import Artifact

    return replace(source, model=read(model).graph, artifact=Artifact(model, model.name).sha256)


def _show_store(store: str, as_json: bool) -> None:
    """Every operator measured so far, by device and settings."""
    from paceline.store import Store

    with Store(existing(store)) as opened:
        rows = opened.rows()
    if as_json:
        print(json.dumps(rows))
        return
    shown = Table("operator", "ms", "spread", "device", "delegate")
    shown.columns[0].overflow = "fold"
    for row in rows:
        figure = f"{row['ms']:.5f}" if row["ms"] is not None else escape(f"failed: {row['failure']}")
        spread = f"{row['spread']:.1%}" if row["spread"] is not None else ""
        shown.add_row(escape(title_of(row["subject"])), figure, spread, row["device"], json.loads(row["bench"])["delegate"])
    Console().print(shown)
