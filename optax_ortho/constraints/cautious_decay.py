"""Weight decay applied only where it agrees with the update.

For every weight w with direction u (the step is minus the learning rate times u):

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
    """Adds ``weight_decay * w`` where a weight and its direction have the same sign.

    There the step already makes the weight smaller. A direction of zero counts as
    agreement. Use it in the place of `optax.add_decayed_weights`: before the scaling
    by the learning rate, which changes the sign.

    Args:
      weight_decay: the decay rate, at least 0.
      mask: a tree of booleans that selects the leaves that decay, or a function from
        the parameters to such a tree. None means all leaves.

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

    def decayed(u, w):
        # Signs, because a product of small float16 numbers is zero.
        agrees = jnp.sign(u) * jnp.sign(w) >= 0
        return (u + jnp.where(agrees, weight_decay * w, 0)).astype(u.dtype)

    def add(updates, params):
        if params is None:
            raise ValueError("The weight decay needs params in update.")
        return jax.tree.map(decayed, updates, params)

    decay = optax.stateless(add)
    return decay if mask is None else optax.masked(decay, mask)
