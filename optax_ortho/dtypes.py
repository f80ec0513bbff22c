"""Dtypes of states and updates, fixed at init."""

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
        return cast_like(new_updates, updates), cast_like(new_state, state)

    return optax.GradientTransformationExtraArgs(inner.init, update)


def widen_float16(
    inner: optax.GradientTransformation,
) -> optax.GradientTransformationExtraArgs:
    """Hands float16 leaves to a transformation as float32, also in its state.

    Squares of gradients below 2e-4 are zero in float16, and so is an eps of 1e-8.

    Args:
      inner: the transformation.

    Returns:
      The same transformation for all other leaves. Its updates of float16 leaves are
      float32; `keep_dtypes` around it casts them back.

    Examples:
      >>> tx = keep_dtypes(widen_float16(optax.scale_by_adam()))
      >>> params = jnp.ones(2, jnp.float16)
      >>> updates, state = tx.update(1e-4 * params, tx.init(params), params)
      >>> print(updates, state.nu.dtype)
      [1. 1.] float32
    """
    inner = optax.with_extra_args_support(inner)

    def widen(tree):
        half = jnp.dtype(jnp.float16)
        return jax.tree.map(
            lambda x: x.astype(jnp.float32) if x.dtype == half else x, tree
        )

    def init(params):
        return inner.init(widen(params))

    def update(updates, state, params=None, **extra):
        return inner.update(widen(updates), state, widen(params), **extra)

    return optax.GradientTransformationExtraArgs(init, update)


def bounded(
    inner: optax.GradientTransformation,
) -> optax.GradientTransformationExtraArgs:
    """Shortens gradient entries whose squares would overflow, and stay in an average.

    Args:
      inner: a transformation that keeps squares of gradients.

    Returns:
      The same transformation for entries below a tenth of the root of the largest
      number, 1.8e18 in float32.

    Examples:
      >>> tx = bounded(optax.scale_by_adam())
      >>> _, state = tx.update(jnp.full(2, 1e30), tx.init(jnp.ones(2)))
      >>> bool(jnp.isfinite(state.nu).all())
      True
    """
    inner = optax.with_extra_args_support(inner)

    def bound(x):
        # A tenth leaves room for a sum of squares.
        largest = 0.1 * float(jnp.finfo(x.dtype).max) ** 0.5
        size = jnp.abs(x)
        over = size > largest
        return x * jnp.where(over, largest / jnp.where(over, size, 1), 1)

    def update(updates, state, params=None, **extra):
        return inner.update(jax.tree.map(bound, updates), state, params, **extra)

    return optax.GradientTransformationExtraArgs(inner.init, update)


def cast_like(tree: Any, like: Any) -> Any:
    """A tree with each leaf in the dtype of the same leaf of another tree."""
    return jax.tree.map(lambda x, old: jnp.asarray(x, jnp.result_type(old)), tree, like)
