"""The command line. A user's mistake is one clear message and an exit code (see `paceline.errors`), never a traceback."""

from __future__ import annotations

import errno
import json
import os
import sys
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from paceline import __version__
from paceline.cli_agent import agent, farm
from paceline.cli_bench import bench
from paceline.cli_devices import devices
from paceline.cli_export import export
from paceline.cli_leaderboard import leaderboard
from paceline.cli_options import DEFAULT_STORE, Json, StorePlace, shown
from paceline.cli_predict import fit, predict
from paceline.cli_table import table
from paceline.errors import PacelineError

app = typer.Typer(
    help="Networks that keep a latency limit on phones: measured, searched, merged, exported, proven on the device.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)
app.command()(export)
app.command()(bench)
app.command()(agent)
app.command()(fit)
app.command()(predict)
app.command()(leaderboard)
app.add_typer(devices, name="devices")
app.add_typer(farm, name="farm")
app.add_typer(table, name="table")


def main() -> None:
    """The entry point of the `paceline` command."""
    try:
        app()
    except PacelineError as e:
        _fail(str(e), e.exit_code)
    except KeyboardInterrupt:
        _fail("stopped; run the same command again to continue", 130)
    except OSError as e:
        if e.errno != errno.ENOSPC:
            raise
        _fail(
            f"no space left on the disk{f' for {e.filename}' if e.filename else ''}; free some and run the same command again", 9
        )


def _fail(message: str, code: int) -> None:
    Console(stderr=True).print(f"[bold red]error:[/] {escape(message)}", soft_wrap=True)
    sys.exit(code)


def _version(wanted: bool) -> None:
    if wanted:
        print(__version__)
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")] = False,
) -> None:
    pass


@app.command()
def run(
    config: Annotated[
        Path | None, typer.Argument(help="A TOML file; without it the defaults: scikit-learn's digits, this machine's CPU.")
    ] = None,
    out: Annotated[
        Path | None, typer.Option(help="The folder of the run. Default: runs/ and a name made of the settings.")
    ] = None,
    store: StorePlace = DEFAULT_STORE,
    seed: Annotated[int | None, typer.Option(min=0, help="The root of all chance.")] = None,
    limit_ms: Annotated[float | None, typer.Option(help="The latency limit. Default: a quantile of the space.")] = None,
    as_json: Json = False,
) -> None:
    """The whole loop: measure this device, search under the latency limit, merge, export, measure again, report."""

    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # before torch: threads that spin cost minutes where another program runs
    from paceline.pipeline.config import load_config
    from paceline.pipeline.report import write_report
    from paceline.pipeline.run import Run
    from paceline.pipeline.summary import report_of, summary_of
    from paceline.store import Store

    settings = load_config(config, seed=seed, limit_ms=limit_ms)
    folder = out or Path("runs") / f"{settings.data.kind}-{settings.key()}"
    console = Console(stderr=True, quiet=as_json)
    with Store(store) as opened:
        job = Run(settings, folder, opened, shown(as_json), lambda line: console.print(escape(line), soft_wrap=True))
        summary = job.finished()
        if summary is None:
            outcome = job.execute()
            summary = summary_of(outcome)
            write_report(report_of(outcome), folder / "report.html")
            job.finish(summary)
        else:
            console.print(f"this run had finished already; remove {escape(str(folder))} to run it again", soft_wrap=True)
    if as_json:
        print(json.dumps(summary))
        return
    _print_summary(summary)
    Console().print(f"report: {escape(str(folder / 'report.html'))}", soft_wrap=True)


@app.command()
def inspect(model: Annotated[Path, typer.Argument(help="A .tflite file, made by anything.")], as_json: Json = False) -> None:
    """What is in a model: operators, MACs, parameters, quantisation, memory, where it comes from."""
    from paceline.cli_inspect import print_inspection
    from paceline.exporters.inspect import inspect as inspect_file

    found = inspect_file(model)
    if as_json:
        print(json.dumps(found.to_json()))
    else:
        print_inspection(found, Console())


def _print_summary(summary: dict[str, Any]) -> None:
    predictors = Table(
        "latency model", "error", "within 5 %", "within 10 %", "rank corr.", title="On networks that no model has seen"
    )
    for p in summary["predictor"]:
        rank = "" if p["spearman"] is None else f"{p['spearman']:.3f}"
        predictors.add_row(p["name"], f"{p['mape']:.1%}", f"{p['within_5']:.0%}", f"{p['within_10']:.0%}", rank)
    device = summary["device"]
    where = escape(device["name"]) + (", a simulated device" if device["simulated"] else "")
    result = Table("", "", show_header=False, title=f"The exported network on {where}")
    for name, text in (
        ("measured", f"{summary['measured_ms']:.4g} ms"),
        ("limit", f"{summary['limit_ms']:.4g} ms ({summary['limit_origin']})"),
        (
            "predicted",
            f"{summary['predicted_ms']:.4g} ms ({summary['predicted_low_ms']:.4g} – {summary['predicted_high_ms']:.4g})",
        ),
        ("accuracy", f"{summary['accuracy']:.2%}"),
        ("MACs, params", f"{summary['macs'] / 1e6:.2f} M, {summary['params'] / 1e3:.1f} k"),
        ("largest difference to torch", f"{summary['parity_max_abs_error']:.2g}"),
        ("branches merged", str(summary["merged_branches"])),
        ("table rows", str(summary["table_rows"])),
        ("took", f"{sum(summary['seconds'].values()):.0f} s"),
    ):
        result.add_row(name, text)
    console = Console()
    console.print(predictors)
    console.print(result)
    console.print(escape(summary["verdict"]), soft_wrap=True)
