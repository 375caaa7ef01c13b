"""The options of an ablation, intervals of what it found, and its table."""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from rich.console import Console
from rich.table import Table
from scipy import stats

from paceline.files import write_atomically
from paceline.pipeline.ranking import taus

Floats = npt.NDArray[np.float64]
LEVEL = 0.95
RESAMPLES = 2000


@dataclass(frozen=True)
class Options:
    """`data` is empty for digits; `results` keeps what is known, so that a second call goes on."""

    seeds: int
    budget: str
    data: str
    json: Path | None
    results: Path
    processes: int


def parser(doc: str | None, budgets: Mapping[str, object], seeds: int) -> argparse.ArgumentParser:
    """The command line that all ablations have. `seeds` is the default number of them."""
    made = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    made.add_argument("--seeds", type=int, default=seeds, help="how often all is repeated (default %(default)s)")
    made.add_argument("--budget", choices=budgets, default="default")
    made.add_argument("--data", default="", help="folder that holds cifar10_jpeg.npz (default: noisy digits)")
    made.add_argument("--json", type=Path, help="also write every figure there")
    made.add_argument("--results", type=Path, default=Path("paper-results"), help="folder that keeps what is known")
    made.add_argument("--processes", type=int, default=2)
    return made


def options_of(arguments: argparse.Namespace) -> Options:
    """Those that all ablations have."""
    return Options(**{f.name: getattr(arguments, f.name) for f in fields(Options)})


@dataclass(frozen=True)
class Estimate:
    """A figure with its 95 % interval; NaN where there is none."""

    value: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.value:.3f} [{self.low:.3f}, {self.high:.3f}]"


def mean(values: Sequence[float] | Floats) -> Estimate:
    """Over seeds: Student's interval, honest for few of them."""
    x = np.asarray(values, np.float64)
    half = float(stats.t.ppf((1 + LEVEL) / 2, len(x) - 1) * x.std(ddof=1) / np.sqrt(len(x))) if len(x) > 1 else float("nan")
    return Estimate(float(x.mean()), float(x.mean()) - half, float(x.mean()) + half)


@dataclass(frozen=True, eq=False)
class Rankings:
    """Kendall's tau-b of several supernets' figures `found`, shape (seeds, archs), against `truth`, the same shape or (archs,).

    Intervals are bootstrapped over architectures and seeds at once, with equal draws for rankings of equal shape, so that
    differences are paired. A supernet that tells nothing apart has tau 0.
    """

    found: Floats
    truth: Floats

    def tau(self) -> Estimate:
        """The mean of the seeds' taus."""
        return _interval(*self._means)

    def minus(self, other: Rankings) -> Estimate:
        (mine, my_drawn), (its, its_drawn) = self._means, other._means
        return _interval(mine - its, my_drawn - its_drawn)

    @cached_property
    def _means(self) -> tuple[float, Floats]:
        """Over seeds: of everything once, and of each draw."""
        rng = np.random.default_rng(0)
        seeds, archs = self.found.shape
        times = np.vstack([np.ones(archs), rng.multinomial(archs, np.full(archs, 1 / archs), size=RESAMPLES)])
        truth = np.broadcast_to(self.truth, self.found.shape)
        each = np.nan_to_num([taus(a, b, times) for a, b in zip(self.found, truth, strict=True)])
        drawn = np.take_along_axis(each[:, 1:], rng.integers(seeds, size=(seeds, RESAMPLES)), axis=0)
        return float(each[:, 0].mean()), drawn.mean(axis=0)


def _interval(value: float, drawn: Floats) -> Estimate:
    low, high = np.quantile(drawn, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return Estimate(value, float(low), float(high))


def verdict(what: str, difference: Estimate, claimed: int) -> str:
    """One honest sentence on a difference whose claimed sign is +1 or -1."""
    if not (difference.low > 0 or difference.high < 0):
        judged = "inside the noise at this budget, neither for nor against the claim"
    elif difference.value * claimed > 0:
        judged = "the claimed sign, beyond the noise"
    else:
        judged = "AGAINST the claimed sign, beyond the noise"
    return f"{what}: {difference}, {judged}."


Cell = Estimate | float | int | str


@dataclass(frozen=True)
class Report:
    """What came out. `rows` are what is compared and have one cell for each of `columns`; `facts` say n, budget and the like."""

    title: str
    columns: tuple[str, ...]
    rows: Mapping[str, Sequence[Cell]]
    sentences: Sequence[str]
    facts: Mapping[str, Any]

    def show(self, options: Options) -> None:
        """Prints the table (what is compared, side by side), facts and sentences; writes them to the file that `options` name."""
        table = Table("", *self.rows, title=self.title, title_justify="left")
        for i, figure in enumerate(self.columns):
            table.add_row(figure, *(_text(cells[i]) for cells in self.rows.values()))
        Console(width=max(80, 30 + 25 * len(self.rows))).print(table)
        facts = {"budget": options.budget, "seeds": options.seeds, **self.facts}
        print("; ".join(f"{name}: {value}" for name, value in facts.items()) + ".")
        print(
            "Intervals are 95 %: Student's over seeds of a mean, bootstrapped over networks and seeds of tau and its differences."
        )
        for sentence in self.sentences:
            print(f"- {sentence}")
        if options.json is not None:
            rows = {name: dict(zip(self.columns, map(_plain, cells), strict=True)) for name, cells in self.rows.items()}
            content = {"title": self.title, "rows": rows, "sentences": list(self.sentences), "facts": facts}
            write_atomically(options.json, json.dumps(content, indent=2) + "\n")


def _text(cell: Cell) -> str:
    return f"{cell:.3g}" if isinstance(cell, float) else str(cell)


def _plain(cell: Cell) -> Any:
    return asdict(cell) if isinstance(cell, Estimate) else cell
