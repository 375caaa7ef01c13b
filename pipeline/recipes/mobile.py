"""Paceline's own loop, what `paceline run` does: FairNAS's training on a space of MobileNet layers, accuracy against latency."""

from __future__ import annotations

from paceline.pipeline.config import Config, SpaceChoice
from paceline.pipeline.recipes.goals import ACCURATE, FAST
from paceline.pipeline.recipes.recipe import Paper, Recipe
from paceline.pipeline.supernet import StrictFair

MOBILE = Recipe(
    name="mobile",
    title="MobileNet layers under a latency limit",
    paper=Paper(
        "FairNAS: Rethinking Evaluation Fairness of Weight Sharing Neural Architecture Search", "ICCV 2021", "1907.01845"
    ),
    status="reconstruction",
    reconstructed=("Only strict fairness is FairNAS's; space, schedule and the objectives accuracy and latency are Paceline's.",),
    full=Config(space=SpaceChoice(name="mobile_imagenet")),
    reduced=Config(),
    policy=StrictFair(),
    goals=(ACCURATE, FAST),
)
"""The default. It is no published system, so it is not listed among them."""
