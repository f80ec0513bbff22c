"""The last two stages of a recipe: weight decay and learning rate."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from optax_ortho.checks import is_zero


class RecipeState(NamedTuple):
    """The number of steps taken, and the states of direction and decay."""

    count: jax.typing.ArrayLike
    direction: optax.OptState
    decay: optax.OptState


def with_rate_and_decay(
    direction: optax.GradientTransformation,
    learning_rate: Any,
    decay: optax.GradientTransformation,
) -> optax.GradientTransformationExtraArgs:
    """Steps of ``-rate (direction + decay)``.

    Args:
      direction: the direction U; each update is handed ``learning_rate=``, the rate of
        the step. That is why the steps are counted here, and not in
        `optax.scale_by_learning_rate`.
      learning_rate: rate, or schedule of the step count.
      decay: maps U to U plus its decay.

    Returns:
      The transformation, with a `RecipeState`.
    """
    direction = optax.with_extra_args_support(direction)

    def init(params):
        count = jnp.zeros([], jnp.int32)
        return RecipeState(count, direction.init(params), decay.init(params))

    def update(updates, state, params=None, **extra):
        rate: Any = learning_rate
        if callable(learning_rate):
            rate = learning_rate(state.count)
        updates, direction_state = direction.update(
            updates, state.direction, params, **{**extra, "learning_rate": rate}
        )
        updates, decay_state = decay.update(updates, state.decay, params)
        updates = jax.tree.map(lambda u: -rate * u, updates)
        count = optax.safe_increment(state.count)
        return updates, RecipeState(count, direction_state, decay_state)

    return optax.GradientTransformationExtraArgs(init, update)


def decoupled_decay(
    weight_decay: Any,
    mask: Any,
    add: Callable[[Any], optax.GradientTransformation] = optax.add_decayed_weights,
) -> optax.GradientTransformation:
    """Adds decayed parameters to a direction.

    Args:
      weight_decay: the decay. Where it is zero, updates need no parameters.
      mask: a tree of booleans, or a function from the parameters to one; None is all.
      add: makes the transformation from the decay.

    Returns:
      The transformation, whose state has one structure whatever the decay is.
    """
    decay = optax.identity() if is_zero(weight_decay) else add(weight_decay)
    return decay if mask is None else optax.masked(decay, mask)


def no_decay(weight_decay: Any, mask: Any) -> optax.GradientTransformation:
    """Adds nothing, in recipes whose direction decays the parameters itself."""
    del weight_decay, mask
    return optax.identity()
