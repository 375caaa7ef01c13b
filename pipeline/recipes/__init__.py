"""Published systems as data (Recipe), and the list of them."""

from paceline.pipeline.recipes.goals import Goal
from paceline.pipeline.recipes.recipe import RECIPES, MakeSearcher, Paper, Recipe, file_of, find_recipe, recipe

__all__ = ["RECIPES", "Goal", "MakeSearcher", "Paper", "Recipe", "file_of", "find_recipe", "recipe"]

from paceline.pipeline.recipes import bsnas, fairnas, mixpath, moga, repnas, scarlet  # noqa: F401  # they register themselves
