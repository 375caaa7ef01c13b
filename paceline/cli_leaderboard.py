"""`paceline leaderboard`: latency models on public data."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from paceline.cli_options import Json, shown

if TYPE_CHECKING:
    from paceline.latency_models.leaderboard.result import Result


def leaderboard(
    protocols: Annotated[
        list[str] | None,
        typer.Argument(metavar="[PROTOCOL]…", help="nb201, fbnet, blocks, phones, host (measures). Default: all but host."),
    ] = None,
    data: Annotated[
        Path, typer.Option(envvar="PACELINE_DATA", help="The folder that holds the public data, one folder for each data set.")
    ] = Path("data"),
    seeds: Annotated[int, typer.Option(min=1, help="Runs of each model, each with other chance.")] = 20,
    devices: Annotated[list[str] | None, typer.Option("--device", help="Only this one, as the data name it; repeatable.")] = None,
    as_json: Json = False,
) -> None:
    """How well each latency model predicts public measurements, beside MACs alone, a fitted table and the noise floor."""
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    from paceline.latency_models.leaderboard import leaderboard as board

    results, reasons = board.run(data, protocols or (), seeds, devices or (), shown(as_json))
    if as_json:
        print(json.dumps(board.as_json(results)))
        return
    console = Console()
    for group in dict.fromkeys((r.protocol, r.test, r.device) for r in results):
        console.print(_table([r for r in results if (r.protocol, r.test, r.device) == group]))
    for name, reason in reasons.items():
        console.print(f"{name}: left out: {escape(reason)}", soft_wrap=True)


def _table(results: list[Result]) -> Table:
    """Of one device under one protocol; narrow enough for 80 columns."""
    first = results[0]
    title = f"{first.protocol}, test {first.test}, {escape(first.device)}: mean ± sd of {first.seeds} seeds"
    table = Table(title=title, box=SIMPLE_HEAD, pad_edge=False)
    for heading in ("k", "model", "Spearman", "error", "≤ 5 %", "≤ 10 %", "covered", "floor"):
        table.add_column(heading, no_wrap=heading != "model", justify="left" if heading == "model" else "right")
    for r in results:
        name = f"[bold]{escape(r.model)}[/]" if r.is_default else escape(r.model)
        table.add_row(
            *(str(r.k), name),
            *(f"{r.spearman:.3f}±{r.sd['spearman']:.3f}", f"{r.mape:.2%}±{r.sd['mape']:.2%}"),
            *(f"{r.within_5:.1%}", f"{r.within_10:.1%}"),
            *("" if share is None else f"{share:.1%}" for share in (r.covered, r.noise_floor)),
        )
    return table
