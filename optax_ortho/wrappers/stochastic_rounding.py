"""Narrow parameters that are rounded at random, right in the mean.

For a parameter p, the update u of the inner optimizer and x = p + u between two
neighbours a <= x <= b that the dtype of p has:

    p <- b    with probability (x - a) / (b - a)
    p <- a    otherwise

so the mean of p is x, and updates that are much smaller than b - a move it in the mean.

References:
  Zamirai et al., `Revisiting BFloat16 Training
  <https://arxiv.org/abs/2010.06192>`_, 2020
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from optax_ortho.wrappers.narrow import is_narrow, refuse_no_params, rounded

BITS = 16  # A float32 has 16 bits more than a bfloat16: probabilities are exact.


class StochasticRoundingState(NamedTuple):
    """The data of a random key, which every step splits, and the inner state."""

    key: jax.Array
    inner: optax.OptState


def stochastic_rounding(
    inner: optax.GradientTransformation, seed: int = 0
) -> optax.GradientTransformationExtraArgs:
    """Rounds bfloat16 and float16 parameters at random, so that small updates count.

    It needs no memory beyond a key, and adds noise of up to one unit in the last place
    in each step; `compensated` adds none and needs memory. It belongs around the whole
    optimizer, since what changes its updates undoes the rounding. Leaves of other
    dtypes get the inner update as it is.

    Args:
      inner: the optimizer.
      seed: of the random key. Replicas of a parameter need the same one.

    Returns:
      The optimizer. Updates of narrow leaves are in float32; `optax.apply_updates` adds
      them in float32 and comes to exactly the rounded numbers.

    Raises:
      ValueError: an update without parameters.

    Examples:
      >>> tx = stochastic_rounding(optax.sgd(1e-3))
      >>> params = jnp.ones(1000, jnp.bfloat16)
      >>> updates, state = tx.update(params, tx.init(params), params)
      >>> moved = params - optax.apply_updates(params, updates)
      >>> print(jnp.unique(moved.astype(jnp.float32)))
      [0.         0.00390625]
      >>> 0.0006 < moved.astype(jnp.float32).mean() < 0.0014
      Array(True, dtype=bool)
    """
    inner = optax.with_extra_args_support(inner)

    def init(params):
        # Data and not a key, as checkpointers and `optax.MultiSteps` take plain arrays.
        # The implementation is named, for the same numbers on every backend and mesh.
        key = jax.random.key(seed, impl="threefry2x32")
        return StochasticRoundingState(jax.random.key_data(key), inner.init(params))

    def update(updates, state, params=None, **extra):
        refuse_no_params("stochastic_rounding", params)
        updates, inner_state = inner.update(updates, state.inner, params, **extra)
        key = jax.random.wrap_key_data(state.key, impl="threefry2x32")
        new_key, key = jax.random.split(key)
        leaves, treedef = jax.tree.flatten(updates)
        keys = treedef.unflatten(
            [jax.random.fold_in(key, i) for i in range(len(leaves))]
        )

        def step(u, p, key):
            return _step(p, u, key) if is_narrow(p) else u

        updates = jax.tree.map(step, updates, params, keys)
        state = StochasticRoundingState(jax.random.key_data(new_key), inner_state)
        return updates, state

    return optax.GradientTransformationExtraArgs(init, update)


def _step(p: jax.Array, u: jax.Array, key: jax.Array) -> jax.Array:
    """The update in float32 that takes `p` to the randomly rounded ``p + u``."""
    wide = p.astype(jnp.float32)
    x = wide + u.astype(jnp.float32)
    near = rounded(x, p.dtype)
    toward = jnp.where(x < near, -jnp.inf, jnp.inf).astype(p.dtype)
    far = jnp.nextafter(near.astype(p.dtype), toward).astype(jnp.float32)
    bits = jax.random.bits(key, x.shape, jnp.uint16, out_sharding=_sharding(x))
    share = jnp.abs(x - near) / jnp.abs(far - near)
    is_far = bits.astype(jnp.float32) < share * 2**BITS
    return jnp.where(is_far & jnp.isfinite(far), far, near) - wide


def _sharding(x: jax.Array) -> Any:
    """The sharding in the type of an array, on a mesh with Explicit axes."""
    sharding = jax.typeof(x).sharding
    return sharding if sharding.mesh.explicit_axes else None
