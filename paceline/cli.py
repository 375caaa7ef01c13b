"""The command line. A user's mistake is one clear message and an exit code (see `paceline.errors`), never a traceback."""

from __future__ import annotations

import errno
import json
import sys
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.markup import escape

from paceline import __version__
from paceline.cli_agent import agent, farm
from paceline.cli_bench import bench
from paceline.cli_devices import devices
from paceline.cli_export import export
from paceline.cli_leaderboard import leaderboard
from paceline.cli_merge import merge
from paceline.cli_options import Json
from paceline.cli_predict import fit, predict
from paceline.cli_rank import rank
from paceline.cli_recipes import recipes, run, search
from paceline.cli_spaces import spaces
from paceline.cli_table import table
from paceline.errors import PacelineError

app = typer.Typer(
    help="Networks that keep a latency limit on phones: measured, searched, merged, exported, proven on the device.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)
app.command()(run)
app.command()(search)
app.command()(rank)
app.command()(recipes)
app.command()(spaces)
app.command()(export)
app.command()(merge)
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
def inspect(
    model: Annotated[str, typer.Argument(help="A .tflite file, made by anything; or timm:NAME, zoo:NAME, … as exported.")],
    as_json: Json = False,
) -> None:
    """What is in a model: operators, MACs, parameters, quantisation, memory, where it comes from."""
    from paceline.cli_inspect import print_inspection
    from paceline.exporters.inspect import inspect as inspect_model

    found = inspect_model(_model(model))
    if as_json:
        print(json.dumps(found.to_json()))
    else:
        print_inspection(found, Console())


def _model(name: str) -> Path | bytes:
    """The file `name`, or what exporting this network in fp32 writes."""
    path = Path(name)
    if path.suffix.lower() == ".tflite" or path.is_file():
        return path
    from paceline.exporters import tflite
    from paceline.exporters.graphs import graph_from

    return tflite.write(graph_from(name))
