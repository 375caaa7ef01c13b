"""BS-NAS: layers of searchable width, and options that are turned off while the supernet trains (Shen et al. 2020).

A spring block is allocated for its largest width and takes a prefix of it. While the supernet trains, the worst operations and
widths are turned off, those that cost accuracy most against their neighbours. Evolution searches what is left under a budget.
"""

from __future__ import annotations

from paceline.pipeline.config import Config, Data, Retrain, Search, SpaceChoice, Supernet
from paceline.pipeline.recipes.goals import ACCURATE, FAST
from paceline.pipeline.recipes.recipe import Paper, Recipe, recipe
from paceline.pipeline.recipes.searchers import evolution
from paceline.pipeline.supernet import StrictFair
from paceline.pipeline.supernet.shrinking import Shrinking


def _shrinking(epochs: int) -> Shrinking:
    """A tenth of all options at a time, from 30 % to 70 % of the training, until half of them are left."""
    return Shrinking(warmup=max(1, round(0.3 * epochs)), every=max(1, round(0.1 * epochs)), share=0.1, target=0.5)


@recipe
def bsnas() -> Recipe:
    return Recipe(
        name="bsnas",
        title="Searchable widths, and a space that shrinks while it trains",
        paper=Paper(
            "BS-NAS: Broadening-and-Shrinking One-Shot NAS with Searchable Numbers of Channels", "preprint, 2020", "2003.09821"
        ),
        status="reconstruction",
        full=Config(
            data=Data(size=224),
            space=SpaceChoice(name="bsnas"),
            supernet=Supernet(epochs=120, batch=1024, lr=0.5, weight_decay=4e-5),
            search=Search(population=50, generations=20),
            retrain=Retrain(epochs=240, batch=1024, lr=0.5, weight_decay=4e-5),
        ),
        reduced=Config(
            data=Data(size=16),
            space=SpaceChoice(name="bsnas_small"),
            supernet=Supernet(epochs=10, lr=0.2),
            search=Search(population=24, generations=10),
        ),
        policy=StrictFair(),
        goals=(ACCURATE, FAST),
        searcher=evolution,
        shrinking=_shrinking,
        reconstructed=(
            "All but the idea: the abstract alone could be read, and there is no code.",
            "The space: 21 inverted residuals of six operations, one width a stage; a narrow width is a prefix of the largest.",
            "Strict fairness over operations and widths, and the schedule of single path one-shot (Guo et al. 2020).",
            "What is turned off: by a regression of accuracy on the options, the worst tenth of all options at a time.",
            "Regularised evolution.",
        ),
        additions=(
            "The budget of the evolution is a latency limit on the device.",
            "Options are judged under it: a network loses as much accuracy as its share above the limit.",
        ),
    )
