"""`paceline fit` and `paceline predict`: from a table to a model, from a model to milliseconds."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from paceline.cli_options import Json, shown

if TYPE_CHECKING:
    from paceline.latency_models.fitting import Fit
    from paceline.latency_models.predicting import Predicted

Bundles = Annotated[Path, typer.Argument(metavar="TABLE", help="A .paceline file, made by `paceline table build` or `import`.")]


def fit(
    table: Bundles,
    out: Annotated[Path | None, typer.Option("-o", "--out", help="Where the table goes then. Default: TABLE.")] = None,
    confidence: Annotated[float, typer.Option(min=0.5, max=0.99, help="Of the intervals.")] = 0.9,
    seed: Annotated[int, typer.Option(min=0, help="Of what is drawn: folds, initial weights.")] = 0,
    as_json: Json = False,
) -> None:
    """Fit a latency model on the rows of a table, and say how wrong it is on networks that it hasn't seen."""
    from paceline.latency_models.bundle.bundle import Bundle
    from paceline.latency_models.fitting import fit as fit_bundle

    bundle = Bundle.load(table)
    with shown(as_json)("networks left out in turn") as progress:
        found = fit_bundle(bundle, seed, confidence, progress)
    bundle.with_model(found.model).save(out or table)
    if as_json:
        print(json.dumps(_fit_json(found)))
    else:
        _print_fit(found, Console())
        Console().print(f"the model is in {escape(str(out or table))}; next: paceline predict MODEL --table …", soft_wrap=True)


def predict(
    models: Annotated[list[str], typer.Argument(help=".tflite files, timm:NAME, zoo:NAME, …")],
    table: Annotated[Path | None, typer.Option(help="A .paceline file. Default: the one built for the device.")] = None,
    device: Annotated[str, typer.Option(help="The device's id, for its default table.")] = "local",
    delegate: Annotated[str, typer.Option(help="xnnpack, builtin, gpu, …, for the default table.")] = "xnnpack",
    limit_ms: Annotated[float | None, typer.Option(min=0, help="Also say how likely the latency is to keep this limit.")] = None,
    strict: Annotated[bool, typer.Option("--strict", help="Refuse a network with operators that were never measured.")] = False,
    ops: Annotated[bool, typer.Option("--ops", help="What each operator contributes, and where its figure comes from.")] = False,
    as_json: Json = False,
) -> None:
    """Predict the milliseconds of networks on a device, with intervals, without measuring them."""
    from paceline.latency_models.predicting import default_table, load_networks, predict_networks

    found = predict_networks(load_networks(models), table or default_table(device, delegate), limit_ms, strict)
    if as_json:
        print(json.dumps([{**asdict(p), "contributions": [asdict(c) for c in p.contributions]} for p in found]))
        return
    console = Console()
    console.print(_predictions(found, limit_ms))
    for p in found:
        for warning in p.warnings:
            console.print(
                f"[yellow]{escape(p.network)} holds what was not run when it was measured:[/] {escape(warning)}", soft_wrap=True
            )
    for p in found if ops else ():
        console.print(_contributions(p))


def _fit_json(found: Fit) -> dict[str, Any]:
    return {
        "operators": found.operators,
        "networks": found.networks,
        "accuracies": [asdict(a) for a in found.accuracies],
        "covered": found.covered,
        "noise": found.noise,
        "flagged": [asdict(f) for f in found.flagged],
    }


def _print_fit(found: Fit, console: Console) -> None:
    console.print(f"{found.operators} operators, {found.networks} whole networks")
    for flag in found.flagged:
        console.print(f"[yellow]left out:[/] {escape(flag.subject)}: {escape(flag.reason)}", soft_wrap=True)
    if not found.accuracies:
        console.print("too few whole networks to leave some out and say how wrong the model is")
        return
    table = Table("latency model", "error", "≤ 5 %", "≤ 10 %", "rank corr.", title="On networks left out in turn")
    for a in found.accuracies:
        table.add_row(escape(a.name), f"{a.mape:.2%}", f"{a.within_5:.1%}", f"{a.within_10:.1%}", f"{a.spearman:.4f}")
    console.print(table)
    noise = "" if found.noise is None else f"; batches of one network differ by {found.noise:.1%}"
    console.print(f"intervals cover {found.covered:.1%} of them{noise}")


def _predictions(found: list[Predicted], limit_ms: float | None) -> Table:
    where = escape(found[0].device) + (", a simulated device" if found[0].simulated else "")
    table = Table("network", "ms", "interval", "measured rows", title=where)
    if limit_ms is not None:
        table.add_column(f"P(≤ {limit_ms:g} ms)")
    for p in found:
        chance = () if p.chance is None else (f"{p.chance:.0%}",)
        table.add_row(escape(p.network), f"{p.ms:.4g}", f"{p.low_ms:.4g} – {p.high_ms:.4g}", f"{p.row_share:.0%}", *chance)
    return table


def _contributions(p: Predicted) -> Table:
    table = Table("operator", "ms", "share", "from", title=escape(p.network))
    for c in p.contributions:
        table.add_row(escape(c.operator), f"{c.ms:.4f}", f"{c.ms / p.ms:.1%}", c.source)
    table.add_row("whole network", f"{p.base_ms:.4f}", f"{p.base_ms / p.ms:.1%}", "")
    return table
