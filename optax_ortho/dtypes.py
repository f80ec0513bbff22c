"""Keeping dtypes what they were at init."""

from typing import Any

import jax
import jax.numpy as jnp
import optax


def keep_dtypes(
    inner: optax.GradientTransformation,
) -> optax.GradientTransformationExtraArgs:
    """Casts updates to the gradients' dtype and states to the dtype they had.

    `optax.adamw` turns a bfloat16 state to float32 when gradients are float32, which
    retraces a jitted step and stops a `jax.lax.scan`.

    Args:
      inner: the transformation.

    Returns:
      The same transformation with dtypes fixed at ``init``.

    Examples:
      >>> tx = keep_dtypes(optax.adamw(1e-3))
      >>> params = jnp.ones(2, jnp.bfloat16)
      >>> updates, state = tx.update(jnp.ones(2), tx.init(params), params)
      >>> updates.dtype.name, state[0].mu.dtype.name
      ('float32', 'bfloat16')
    """
    inner = optax.with_extra_args_support(inner)

    def update(updates, state, params=None, **extra):
        new_updates, new_state = inner.update(updates, state, params, **extra)
        return _cast_like(new_updates, updates), _cast_like(new_state, state)

    return optax.GradientTransformationExtraArgs(inner.init, update)


def _cast_like(tree: Any, like: Any) -> Any:
    return jax.tree.map(lambda x, old: jnp.asarray(x, jnp.result_type(old)), tree, like)
