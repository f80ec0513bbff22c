"""Weight decay that waits for the update to agree.

For every weight w with direction u, of which the step goes against:

    u <- u + weight_decay w    where u w >= 0
    u <- u                     elsewhere

References:
  Chen et al., `Cautious Weight Decay <https://arxiv.org/abs/2510.12402>`_, 2025
"""

from typing import Any

import jax
import jax.numpy as jnp
import optax

from optax_ortho.checks import check_number


def cautious_decay(weight_decay: Any, mask: Any = None) -> optax.GradientTransformation:
    """Adds decayed parameters where they have the sign of the direction.

    A step goes against the direction, so there it makes the weight smaller already; a
    direction of zero counts as agreement. It stands where `optax.add_decayed_weights`
    stands: before the learning rate, which turns the sign.

    Args:
      weight_decay: the decay.
      mask: a tree of booleans, or a function of the parameters that gives one: which
        leaves decay. None is all.

    Returns:
      A transformation without state.

    Raises:
      ValueError: a negative decay, or an update without parameters.

    Examples:
      >>> w, u = jnp.array([1.0, -1.0, 1.0]), jnp.array([2.0, 2.0, 0.0])
      >>> tx = cautious_decay(0.5)
      >>> updates, _ = tx.update(u, tx.init(w), w)
      >>> print(updates)
      [2.5 2.  0.5]
    """
    check_number("weight_decay", weight_decay)

    def one_leaf(u, w):
        # Signs, because a product of small float16 numbers is zero.
        agrees = jnp.sign(u) * jnp.sign(w) >= 0
        return (u + jnp.where(agrees, weight_decay * w, 0)).astype(u.dtype)

    def add(updates, params):
        if params is None:
            raise ValueError("The weight decay needs params in update.")
        return jax.tree.map(one_leaf, updates, params)

    decay = optax.stateless(add)
    return decay if mask is None else optax.masked(decay, mask)
