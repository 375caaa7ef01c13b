"""RepNAS: the branches of blocks that become one convolution are chosen in the training itself (Zhang et al. 2021).

Every branch has a gate. A step computes those whose scores, with noise, are the best of the whole network, and the scores learn
with the weights. Then the branches are fixed and training goes on. Because what is deployed is one convolution a layer, which
kernel that has is Paceline's search: under the latency of the merged network.
"""

from __future__ import annotations

from paceline.pipeline.config import Config, Data, Retrain, Search, SpaceChoice, Supernet
from paceline.pipeline.recipes.goals import ACCURATE, FAST
from paceline.pipeline.recipes.recipe import Paper, Recipe, recipe
from paceline.pipeline.supernet import BranchSearch, Uniform

_EPOCHS = 150


def _branches(epochs: int) -> BranchSearch:
    """A tenth of the training at random, then scores learn until a third of it. In few epochs they must learn faster."""
    if epochs >= _EPOCHS:
        return BranchSearch(random_epochs=round(0.1 * epochs), fixed_after=round(epochs / 3))
    return BranchSearch(random_epochs=round(0.1 * epochs), fixed_after=max(1, round(epochs / 2)), lr=0.02)


@recipe
def repnas() -> Recipe:
    return Recipe(
        name="repnas",
        title="Branches chosen by gates in one training, merged into one convolution",
        paper=Paper("RepNAS: Searching for Efficient Re-parameterizing Blocks", "arXiv 2021", "2109.03508"),
        status="reconstruction",
        full=Config(
            data=Data(size=224),
            space=SpaceChoice(name="repnas"),
            supernet=Supernet(epochs=_EPOCHS, batch=256, lr=0.1, weight_decay=1e-4),
            search=Search(population=2, generations=1),
            retrain=Retrain(epochs=120, batch=256, lr=0.1, weight_decay=1e-4),
        ),
        reduced=Config(
            space=SpaceChoice(name="repnas_small"),
            supernet=Supernet(epochs=12, lr=0.1),
            search=Search(population=24, generations=10),
        ),
        policy=Uniform(),
        goals=(ACCURATE, FAST),
        branches=_branches,
        reconstructed=(
            "The text of the paper could not be read: all is from its official code.",
            "Each layer keeps its best branch; the code runs a convolution without gate where none is kept.",
            "The 1x1-kxk branch of a layer with stride 2 is what it is elsewhere; the code has a second kxk branch there.",
            "The border of the 1x1-kxk and 1x1-average branches counts in the batch statistics of training.",
            "In short trainings scores learn at a rate of 0.02 until half of the epochs.",
        ),
        additions=(
            "Kernels of 3, 5 and 7 in the reduced space, searched for accuracy and latency of the merged network.",
            "The chosen network is trained again from new weights; the paper deploys the one that was searched.",
        ),
    )
