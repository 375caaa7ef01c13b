"""The command line. A user's mistake is one clear message and an exit code (see `paceline.errors`), never a traceback."""

from __future__ import annotations

import errno
import json
import os
import sys
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from paceline import __version__
from paceline.cli_export import export
from paceline.errors import PacelineError
from paceline.measurement import Progress, silent
from paceline.progress import progress

app = typer.Typer(
    help="Networks that keep a latency limit on phones: measured, searched, merged, exported, proven on the device.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)
app.command()(export)
_DEFAULT_STORE = "runs/store.sqlite"
Json = Annotated[bool, typer.Option("--json", help="Print one JSON object instead of tables; progress is off.")]
StorePlace = Annotated[str, typer.Option("--store", help="Where measurements are kept: a file, or an SQLAlchemy URL.")]
Delegate = Annotated[str, typer.Option(help="xnnpack, or builtin for the runtime's own kernels.")]
Threads = Annotated[int, typer.Option(min=1, help="Threads of the runtime.")]


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
    store: StorePlace = _DEFAULT_STORE,
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
        job = Run(settings, folder, opened, _show(as_json), lambda line: console.print(escape(line), soft_wrap=True))
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
def devices(as_json: Json = False) -> None:
    """The devices that can be measured here, and how they feel."""
    from paceline.devices.local import DELEGATES, LocalDevice

    device = LocalDevice()
    health = device.health()
    if as_json:
        found = {"name": device.info.name, "fingerprint": device.info.fingerprint, "facts": dict(device.info.facts)}
        print(
            json.dumps(
                [{**found, "delegates": DELEGATES, "ready": health.ready, "condition": health.facts, "advice": health.advice}]
            )
        )
        return
    table = Table("device", "what it is", "delegates", "condition")
    what = "\n".join(f"{name} {value}" for name, value in device.info.facts.items())
    condition = "\n".join(
        ["ready" if health.ready else "busy", *(f"{name} {value}" for name, value in health.facts.items()), *health.advice]
    )
    table.add_row(f"{device.info.name}\n{device.info.fingerprint}", escape(what), "\n".join(DELEGATES), escape(condition))
    Console().print(table)


@app.command()
def bench(
    model: Annotated[Path, typer.Argument(help="A .tflite file.")],
    delegate: Delegate = "xnnpack",
    threads: Threads = 1,
    as_json: Json = False,
) -> None:
    """Measure a model on this machine, whole and operator by operator."""
    from paceline.devices.local import LocalDevice
    from paceline.errors import DeviceError
    from paceline.measurement import Artifact

    if not model.is_file():
        raise DeviceError(f"no file {model}; give a .tflite model")
    with LocalDevice() as device:
        settings = device.default_bench(delegate, threads)
        measurement = device.measure([Artifact(model, model.name)], settings)[0]
        if measurement.failure is not None:
            raise DeviceError(f"{model} can't be measured: {measurement.failure.reason}")
        profile = device.profile(Artifact(model, model.name), settings)
    if as_json:
        operators = [{"name": op.name, "ms": op.ms, "delegated": op.delegated} for op in profile]
        print(
            json.dumps(
                {"ms": measurement.ms, "spread": measurement.spread, "batch_ms": measurement.batch_ms, "operators": operators}
            )
        )
        return
    table = Table("#", "operator", "ms", "share", "delegated")
    total = sum(op.ms for op in profile) or 1.0
    for i, op in enumerate(profile):
        table.add_row(str(i), escape(op.name), f"{op.ms:.4f}", f"{op.ms / total:.1%}", "yes" if op.delegated else "no")
    Console().print(table)
    settled = f"batches differ by {measurement.spread:.1%}"
    Console().print(f"{escape(model.name)}: {measurement.ms:.4g} ms, {settled} ({delegate}, {threads} threads)", soft_wrap=True)


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


@app.command()
def table(store: StorePlace = _DEFAULT_STORE, as_json: Json = False) -> None:
    """The rows of the latency tables in the store: every operator measured so far, by device and settings."""
    from paceline.errors import StoreError
    from paceline.store import Store

    if "://" not in store and not Path(store).exists():
        raise StoreError(f"no store at {store}; `paceline run` makes one, or name another with --store")
    with Store(store) as opened:
        rows = opened.rows()
    if as_json:
        print(json.dumps(rows))
        return
    shown = Table("operator", "ms", "spread", "device", "delegate")
    for row in rows:
        figure = f"{row['ms']:.5f}" if row["ms"] is not None else escape(f"failed: {row['failure']}")
        spread = f"{row['spread']:.1%}" if row["spread"] is not None else ""
        shown.add_row(escape(row["subject"]), figure, spread, row["device"], json.loads(row["bench"])["delegate"])
    Console().print(shown)


def _show(off: bool) -> Any:
    def show(title: str) -> AbstractContextManager[Progress]:
        return nullcontext(silent) if off else progress(title)

    return show


def _print_summary(summary: dict[str, Any]) -> None:
    predictors = Table(
        "latency model", "error", "within 5 %", "within 10 %", "rank corr.", title="On networks that no model has seen"
    )
    for p in summary["predictor"]:
        rank = "" if p["spearman"] is None else f"{p['spearman']:.3f}"
        predictors.add_row(p["name"], f"{p['mape']:.1%}", f"{p['within_5']:.0%}", f"{p['within_10']:.0%}", rank)
    result = Table("", "", show_header=False, title="The exported network")
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
