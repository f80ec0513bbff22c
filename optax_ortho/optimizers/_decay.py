"""Weight decay that waits for the update to agree (dion, modded-nanogpt)."""

from typing import Any

import jax
import jax.numpy as jnp
import optax

from optax_ortho.optimizers._recipe import decoupled_decay


def cautious_decay(weight_decay: Any, mask: Any) -> optax.GradientTransformation:
    """Adds decayed parameters where they have the sign of the direction.

    A step goes against the direction, so there it makes the weight smaller already; a
    direction of zero counts as agreement. For the `decay` of `matrices_else_fallback`.

    Args:
      weight_decay: the decay.
      mask: a tree of booleans, or a function of the parameters that gives one: which
        leaves decay. None is all.

    Returns:
      A transformation without state.

    Raises:
      ValueError: an update without parameters.

    Examples:
      >>> w, u = jnp.array([1.0, -1.0, 1.0]), jnp.array([2.0, 2.0, 0.0])
      >>> tx = cautious_decay(0.5, None)
      >>> updates, _ = tx.update(u, tx.init(w), w)
      >>> print(updates)
      [2.5 2.  0.5]
    """
    return decoupled_decay(weight_decay, mask, _where_agreed)


def _where_agreed(weight_decay: Any) -> optax.GradientTransformation:
    def add(updates, params):
        if params is None:
            raise ValueError("The weight decay needs params in update.")
        return jax.tree.map(
            lambda u, w: u + jnp.where(u * w >= 0, weight_decay * w, 0), updates, params
        )

    return optax.stateless(add)
