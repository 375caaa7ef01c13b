"""`paceline rank`: whether a recipe's supernet orders networks as training each of them alone does."""

from __future__ import annotations

import json
import os
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from paceline.cli_options import DEFAULT_STORE, Json, StorePlace, shown

if TYPE_CHECKING:
    from paceline.pipeline.config import Config
    from paceline.pipeline.ranking import Estimate, Ranking


def rank(
    recipe: Annotated[str, typer.Argument(help="A name that `paceline recipes` lists, or path/to/file.py:name.")],
    config: Annotated[
        Path | None, typer.Option(help="A TOML file. Default: the recipe's reduced space on scikit-learn's digits.")
    ] = None,
    n: Annotated[int, typer.Option("--n", min=4, help="How many architectures.")] = 24,
    seeds: Annotated[int, typer.Option(min=1, help="How often each is trained alone.")] = 2,
    epochs: Annotated[int | None, typer.Option(min=1, help="Of training alone. Default: [retrain] epochs of the config.")] = None,
    spread: Annotated[
        bool, typer.Option("--spread", help="Spread them evenly over the range of MACs; default: uniformly random.")
    ] = False,
    out: Annotated[
        Path | None, typer.Option(help="The folder of the ranking. Default: runs/ and a name made of the settings.")
    ] = None,
    store: StorePlace = DEFAULT_STORE,
    seed: Annotated[int | None, typer.Option(min=0, help="The root of all chance.")] = None,
    as_json: Json = False,
) -> None:
    """Train networks alone and compare their order with the supernet's: Kendall's tau, beside MACs and chance.

    Killed at any time, the same command goes on where it stopped. No device is needed.
    """
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # before torch: threads that spin cost minutes where another program runs
    from paceline.files import write_atomically
    from paceline.pipeline.config import load_config
    from paceline.pipeline.rank_recipe import rank_recipe
    from paceline.pipeline.ranking_plot import write_ranking
    from paceline.pipeline.recipes import find_recipe
    from paceline.store import Store

    found = find_recipe(recipe)
    settings = load_config(config, found.settings, seed=seed, retrain=None if epochs is None else {"epochs": epochs})
    folder = out or Path("runs") / f"rank-{found.name}-{settings.data.kind}-{settings.key()}"
    with Store(store) as opened:
        ranking = rank_recipe(*(found, settings, folder, opened), count=n, repeats=seeds, spread=spread, show=shown(as_json))
    budget = _budget(settings, ranking, spread)
    result = {"recipe": found.name, "budget": budget, **_json(ranking)}
    write_atomically(folder / "ranking.json", json.dumps(result, indent=2) + "\n")
    write_ranking(ranking, f"How well the supernet of {found.name} ranks", budget, folder / "ranking.html")
    if as_json:
        print(json.dumps(result))
    else:
        _tell(ranking, found.name, budget, folder)


def _budget(config: Config, ranking: Ranking, spread: bool) -> str:
    """What the figures rest on, in one line."""
    seeds = len(ranking.networks[0].alone)
    sampled = "spread over the MACs" if spread else "uniformly random"
    return (
        f"{config.space.name} on {config.data.kind}, {len(ranking.networks)} architectures, {sampled}; supernet "
        f"{config.supernet.epochs} epochs, each alone {seeds} x {config.retrain.epochs} epochs"
    )


def _json(ranking: Ranking) -> dict[str, Any]:
    return {
        "n": len(ranking.networks),
        "seeds": len(ranking.networks[0].alone),
        **{name: _estimate(getattr(ranking, name)) for name in ("supernet", "macs", "advantage", "ceiling")},
        "chance_sd": ranking.chance,
        "spread": ranking.spread,
        "seed_noise": None if ranking.ceiling is None else ranking.seed_noise,
        "networks": [
            {"architecture": dict(n.arch.picks), "macs": n.macs, "supernet": n.supernet, "alone": list(n.alone)}
            for n in ranking.networks
        ],
    }


def _estimate(estimate: Estimate | None) -> dict[str, float] | None:
    """None where there is none, or no order to compare."""
    return None if estimate is None or estimate.value != estimate.value else asdict(estimate)


def _tell(ranking: Ranking, name: str, budget: str, folder: Path) -> None:
    table = Table("", "Kendall's tau", title=f"Order of the networks trained alone, against {name}")
    table.add_row("supernet", str(ranking.supernet))
    table.add_row("MACs", str(ranking.macs))
    table.add_row("supernet minus MACs", str(ranking.advantage))
    table.add_row("a random order", f"0.00 ± {ranking.chance:.2f}")
    table.add_row("half of the seeds against the other", "– (one seed)" if ranking.ceiling is None else str(ranking.ceiling))
    console = Console()
    console.print(table)
    noise = "" if ranking.ceiling is None else f", {ranking.seed_noise:.2%} between seeds"
    console.print(f"{escape(budget)}; standard deviation {ranking.spread:.2%} between architectures{noise}", soft_wrap=True)
    console.print(_sentence(ranking), soft_wrap=True)
    console.print(f"plot: {escape(str(folder / 'ranking.html'))}", soft_wrap=True)


def _sentence(ranking: Ranking) -> str:
    found, against = ranking.supernet, ranking.advantage
    if found.value != found.value:
        return "The supernet gives every architecture the same accuracy: it ranks nothing."
    if not found.low > 0:
        return "The supernet's order can't be told from chance at this budget."
    if against.low > 0:
        return "The supernet ranks better than chance and better than the number of MACs."
    if against.high < 0:
        return "The supernet ranks better than chance, but worse than the number of MACs."
    return "The supernet ranks better than chance; against the number of MACs this budget can't tell."
