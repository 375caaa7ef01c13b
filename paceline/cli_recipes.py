"""`paceline run`, `paceline search` and `paceline recipes`: the whole loop, with any recipe."""

from __future__ import annotations

import json
import os
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.markup import escape
from rich.padding import Padding
from rich.table import Table

from paceline.cli_options import DEFAULT_STORE, DevicesFile, Json, StorePlace, shown
from paceline.errors import ConfigError

if TYPE_CHECKING:
    from paceline.pipeline.config import Config
    from paceline.pipeline.recipes import Recipe

Seed = Annotated[int | None, typer.Option(min=0, help="The root of all chance.")]
LimitMs = Annotated[float | None, typer.Option(help="The latency limit. Default: a quantile of the space.")]
Out = Annotated[Path | None, typer.Option(help="The folder of the run. Default: runs/ and a name made of the settings.")]


def run(
    config: Annotated[
        Path | None, typer.Argument(help="A TOML file; without it the defaults: scikit-learn's digits, this machine's CPU.")
    ] = None,
    out: Out = None,
    store: StorePlace = DEFAULT_STORE,
    seed: Seed = None,
    limit_ms: LimitMs = None,
    as_json: Json = False,
) -> None:
    """The whole loop: measure this device, search under the latency limit, merge, export, measure again, report."""
    _quiet_threads()
    from paceline.pipeline.config import load_config
    from paceline.pipeline.recipes.mobile import MOBILE

    settings = load_config(config, MOBILE.settings, seed=seed, limit_ms=limit_ms)
    folder = out or Path("runs") / f"{settings.data.kind}-{settings.key()}"
    summary = _execute(MOBILE, settings, folder, store, resume=False, as_json=as_json)
    if as_json:
        print(json.dumps(summary))
    else:
        _print_summary(summary, folder)


def search(
    recipe: Annotated[str, typer.Argument(help="A name that `paceline recipes` lists, or path/to/file.py:name.")],
    config: Annotated[
        Path | None, typer.Option(help="A TOML file. Default: the recipe's reduced space on scikit-learn's digits.")
    ] = None,
    device: Annotated[
        list[str] | None,
        typer.Option(
            help="The id of the device that the network is made for; given again, of others on which it must keep a limit, too. "
            "Default: those of the config, or this machine."
        ),
    ] = None,
    devices: DevicesFile = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Only continue: an error where there is nothing to continue from.")
    ] = False,
    out: Out = None,
    store: StorePlace = DEFAULT_STORE,
    seed: Seed = None,
    limit_ms: LimitMs = None,
    as_json: Json = False,
) -> None:
    """Search with a published recipe: its front, and the best of it exported and measured.

    A search that was killed goes on where it stopped when the same command is given again, with or without --resume.
    """
    _quiet_threads()
    from paceline.pipeline.config import load_config
    from paceline.pipeline.recipes import find_recipe

    found = find_recipe(recipe)
    file = None if devices is None else str(devices.absolute())
    main = {"id": device[0] if device else None, "file": file}
    also = [{"id": other, "file": file} for other in (device or [])[1:]] or None
    settings = load_config(config, found.settings, seed=seed, limit_ms=limit_ms, device=main, also=also)
    folder = out or Path("runs") / f"{found.name}-{settings.data.kind}-{settings.key()}"
    summary = _execute(found, settings, folder, store, resume=resume, as_json=as_json)
    if as_json:
        print(json.dumps(summary))
    else:
        print_front(summary)
        _print_summary(summary, folder)


def recipes(as_json: Json = False) -> None:
    """The published systems that `paceline search` knows, and what of them is a reconstruction."""
    from paceline.pipeline.recipes import RECIPES

    if as_json:
        print(json.dumps([_recipe_json(known) for known in RECIPES.values()]))
        return
    console = Console()
    for known in RECIPES.values():
        console.print(f"[bold]{known.name}[/] ({known.status}): {escape(known.title)}")
        paper = f"{known.paper.title}, {known.paper.venue}, arXiv {known.paper.arxiv}"
        lines = [paper, f"space {known.full.space.name}, reduced {known.reduced.space.name}"]
        lines += [f"reconstructed: {sentence}" for sentence in known.reconstructed]
        lines += [f"not in the paper: {sentence}" for sentence in known.additions]
        for line in lines:
            console.print(Padding(escape(line), (0, 0, 0, 2)))


def _recipe_json(known: Recipe) -> dict[str, Any]:
    return {
        "name": known.name,
        "title": known.title,
        "paper": {"title": known.paper.title, "venue": known.paper.venue, "arxiv": known.paper.arxiv},
        "status": known.status,
        "reconstructed": list(known.reconstructed),
        "additions": list(known.additions),
        "space": known.full.space.name,
        "reduced_space": known.reduced.space.name,
        "goals": {goal.figure: goal.direction for goal in known.goals},
    }


def _quiet_threads() -> None:
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # before torch: threads that spin cost minutes where another program runs


def _execute(recipe: Recipe, settings: Config, folder: Path, store: str, *, resume: bool, as_json: bool) -> dict[str, Any]:
    """The summary of the run, which is finished first where it is not."""
    from paceline.pipeline.report import write_report
    from paceline.pipeline.run import Run
    from paceline.pipeline.summary import report_of, summary_of
    from paceline.store import Store

    console = Console(stderr=True, quiet=as_json)
    with Store(store) as opened:
        job = Run(recipe, settings, folder, opened, shown(as_json), lambda line: console.print(escape(line), soft_wrap=True))
        with closing(job):
            summary = job.finished()
            if summary is not None:
                console.print(f"this run had finished already; remove {escape(str(folder))} to run it again", soft_wrap=True)
                return summary
            if resume and not job.begun():
                raise ConfigError(
                    f"--resume: {store} knows nothing of this search. Give the recipe, settings and --store of the one that was "
                    "stopped, or leave --resume out to begin anew."
                )
            outcome = job.execute()
        summary = summary_of(outcome)
        write_report(report_of(outcome), folder / "report.html")
        job.finish(summary)
        return summary


def print_front(summary: dict[str, Any]) -> None:
    """The front as a table, the most accurate network first."""
    others = [other["name"] for other in summary["also"]]
    columns = "architecture", "accuracy", "predicted ms", *(f"ms on {escape(name)}" for name in others), "MACs", "params"
    table = Table("", *columns, title="The front, accuracies of the supernet")
    for row in summary["front"]:
        picks = " ".join("+".join(options) for options in row["architecture"].values())
        predicted = f"{row['predicted_ms']:.4g} ({row['predicted_low_ms']:.4g} – {row['predicted_high_ms']:.4g})"
        sizes = (f"{row['macs'] / 1e6:.2f} M", f"{row['params'] / 1e3:.1f} k")
        also = (f"{ms:.4g}" for ms in row["also_ms"].values())
        table.add_row("chosen" if row["chosen"] else "", picks, f"{row['accuracy']:.2%}", predicted, *also, *sizes)
    Console().print(table)


def _print_summary(summary: dict[str, Any], folder: Path) -> None:
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
        *(
            (
                other["name"] + (", simulated" if other["simulated"] else ""),
                f"{other['measured_ms']:.4g} ms, limit {other['limit_ms']:.4g} ms, predicted {other['predicted_ms']:.4g} ms",
            )
            for other in summary["also"]
        ),
        ("accuracy", f"{summary['accuracy']:.2%}"),
        ("MACs, params", f"{summary['macs'] / 1e6:.2f} M, {summary['params'] / 1e3:.1f} k"),
        ("largest difference to torch", f"{summary['parity_max_abs_error']:.2g}"),
        ("branches merged", str(summary["merged_branches"])),
        ("table rows", str(summary["table_rows"])),
        ("took", f"{sum(summary['seconds'].values()):.0f} s"),
    ):
        result.add_row(escape(name), escape(text))
    console = Console()
    console.print(predictors)
    console.print(result)
    console.print(escape(summary["verdict"]), soft_wrap=True)
    console.print(f"report: {escape(str(folder / 'report.html'))}", soft_wrap=True)
