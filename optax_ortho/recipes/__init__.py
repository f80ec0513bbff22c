"""Recipes: a direction with a learning rate, a decay, a guard and a fallback group.

`recipe_of` derives ``x(learning_rate, ...)`` from ``scale_by_x(...)``.
"""

from optax_ortho.recipes.arguments import Common as Common
from optax_ortho.recipes.derive import picklable as picklable
from optax_ortho.recipes.derive import recipe_of as recipe_of
from optax_ortho.recipes.groups import Group as Group
from optax_ortho.recipes.groups import matrices_else_fallback as matrices_else_fallback
from optax_ortho.recipes.steps import RecipeState as RecipeState
from optax_ortho.recipes.steps import decoupled_decay as decoupled_decay
from optax_ortho.recipes.steps import no_decay as no_decay
from optax_ortho.recipes.whole_tree import decay_of as decay_of
from optax_ortho.recipes.whole_tree import two_axes_or_more as two_axes_or_more
from optax_ortho.recipes.whole_tree import whole_tree as whole_tree

__all__ = [
    "Common",
    "Group",
    "RecipeState",
    "decay_of",
    "decoupled_decay",
    "matrices_else_fallback",
    "no_decay",
    "picklable",
    "recipe_of",
    "two_axes_or_more",
    "whole_tree",
]
