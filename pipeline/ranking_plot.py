"""A ranking as one HTML file: the supernet's order and that of the MACs against the networks trained alone."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from paceline.files import write_atomically
from paceline.pipeline.plots import BOTTOM, LEFT, RIGHT, TOP, Axis, Chart, significant
from paceline.pipeline.ranking import LEVEL, Ranked, Ranking


def write_ranking(ranking: Ranking, title: str, budget: str, path: Path) -> None:
    """Writes the page, whole or not at all; `budget` says what the figures cost. Raises StoreError where the disk is full."""
    environment = Environment(
        loader=PackageLoader("paceline.pipeline", "."), autoescape=True, undefined=StrictUndefined, trim_blocks=True
    )
    html = environment.get_template("ranking.html.j2").render(
        r=ranking,
        title=title,
        budget=budget,
        level=f"{LEVEL:.0%}",
        by_supernet=scatter(ranking, "supernet", "accuracy in the supernet (%)", lambda n: 100 * n.supernet),
        by_macs=scatter(ranking, "macs", "million MACs", lambda n: n.macs / 1e6),
    )
    write_atomically(path, html)


def scatter(ranking: Ranking, name: str, label: str, of: Callable[[Ranked], float]) -> Markup:
    """Accuracy trained alone (mean, and the range of the seeds) over a figure that is known without training."""
    shown = ranking.networks
    chart = Chart(
        name,
        f"Accuracy trained alone over {label}",
        f"{len(shown)} architectures.",
        Axis.around(label, [of(n) for n in shown], LEFT, RIGHT),
        Axis.around("accuracy trained alone (%)", [100 * a for n in shown for a in n.alone], BOTTOM, TOP),
    )
    marks = [chart.line([(of(n), 100 * min(n.alone)), (of(n), 100 * max(n.alone))], "interval") for n in shown]
    marks += [chart.dot(of(n), 100 * n.truth, _tip(n), "mark", 3.5) for n in shown]
    return chart.draw(marks)


def _tip(n: Ranked) -> str:
    alone = ", ".join(f"{100 * a:.1f}" for a in n.alone)
    return f"{n.arch.key}: alone {alone} %, supernet {100 * n.supernet:.1f} %, {significant(n.macs / 1e6)} M MACs"
