"""Recipes that treat all leaves alike."""

from collections.abc import Callable
from typing import Any

import jax
import optax

from optax_ortho.checks import check_number, refuse_array
from optax_ortho.guard import guard
from optax_ortho.labels import Label
from optax_ortho.matrices import path_of
from optax_ortho.recipes.arguments import check_rate
from optax_ortho.recipes.groups import Group
from optax_ortho.recipes.steps import decoupled_decay, with_rate_and_decay
from optax_ortho.recording import record


def whole_tree(
    name: str,
    direction: Callable[[], optax.GradientTransformation],
    learning_rate: Any,
    nonfinite: str,
    weight_decay: Any,
    weight_decay_mask: Any,
    decay: Callable[[Any, Any], optax.GradientTransformation] | None = None,
) -> optax.GradientTransformationExtraArgs:
    """A recipe with one direction for all leaves.

    Args:
      name: the name of the direction in a summary.
      direction: makes the direction; each update is handed ``learning_rate=``, the rate
        of the step.
      learning_rate: rate or schedule.
      nonfinite: see `guard`; a leaf is skipped.
      weight_decay: the decay of the leaves.
      weight_decay_mask: the leaves that decay; None is all leaves with two or
        more axes.
      decay: makes the transformation that adds the decay to the direction, from the
        weight decay and its mask; None is `decay_of`.

    Returns:
      The optimizer.

    Raises:
      ValueError: a number out of range.
      TypeError: an array where `optax.inject_hyperparams` replaced a function.
    """
    check_rate("learning_rate", learning_rate)
    decayed = (decay_of if decay is None else decay)(weight_decay, weight_decay_mask)
    steps = with_rate_and_decay(direction(), learning_rate, decayed)

    def init(params):
        state = steps.init(params)
        keyed = jax.tree_util.tree_leaves_with_path(params)
        leaves = tuple((path_of(keys), leaf, Label("vector")) for keys, leaf in keyed)
        record(Group("all", name, learning_rate, weight_decay, False, leaves, state))
        return state

    recipe = optax.GradientTransformationExtraArgs(init, steps.update)
    return guard(recipe, nonfinite)


def decay_of(weight_decay: Any, mask: Any) -> optax.GradientTransformation:
    """Adds decayed parameters; without a mask, of leaves with two or more axes.

    Raises:
      ValueError: a negative decay.
      TypeError: an array where `optax.inject_hyperparams` replaced a function.
    """
    check_number("weight_decay", weight_decay)
    refuse_array("weight_decay_mask", mask)
    return decoupled_decay(weight_decay, two_axes_or_more if mask is None else mask)


def two_axes_or_more(params: Any) -> Any:
    """A mask of the leaves that are no vectors and no scalars."""
    return jax.tree.map(lambda x: x.ndim > 1, params)
