"""Narrow parameters whose rounding error is added to the next update.

For a parameter p, the update u of the inner optimizer and an error c = 0 at the start:

    x = p + (u + c)        in float32
    p <- x                 rounded to the dtype of p
    c <- x - p

References:
  Kahan, `Further remarks on reducing truncation errors
  <https://doi.org/10.1145/363707.363723>`_, 1965
  Zamirai et al., `Revisiting BFloat16 Training
  <https://arxiv.org/abs/2010.06192>`_, 2020
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from optax_ortho.wrappers.narrow import is_narrow, refuse_no_params, rounded


class CompensatedState(NamedTuple):
    """The rounding errors of the narrow leaves, and the inner state."""

    compensation: Any
    inner: optax.OptState


def compensated(
    inner: optax.GradientTransformation,
) -> optax.GradientTransformationExtraArgs:
    """Keeps the rounding errors of bfloat16 and float16 parameters (Kahan summation).

    Parameter and error together have twice the digits of the dtype, at the memory of a
    second copy of the narrow parameters. It belongs around the whole optimizer, since
    what changes its updates is lost in the errors. Leaves of other dtypes get the inner
    update as it is, and have no state.

    Args:
      inner: the optimizer.

    Returns:
      The optimizer. Updates of narrow leaves are in float32; `optax.apply_updates` adds
      them in float32 and comes to exactly the rounded numbers.

    Raises:
      ValueError: an update without parameters.

    Examples:
      >>> tx = compensated(optax.sgd(1e-3))
      >>> params, gradient = jnp.ones(2, jnp.bfloat16), jnp.ones(2, jnp.bfloat16)
      >>> state = tx.init(params)
      >>> for _ in range(50):
      ...     updates, state = tx.update(gradient, state, params)
      ...     params = optax.apply_updates(params, updates)
      >>> print(params)
      [0.949219 0.949219]
    """
    inner = optax.with_extra_args_support(inner)

    def init(params):
        def zeros(p):
            return jnp.zeros_like(p) if is_narrow(p) else optax.MaskedNode()

        return CompensatedState(jax.tree.map(zeros, params), inner.init(params))

    def update(updates, state, params=None, **extra):
        refuse_no_params("compensated", params)
        updates, inner_state = inner.update(updates, state.inner, params, **extra)

        def step(u, p, c):
            return _step(p, u, c) if is_narrow(p) else (u, c)

        leaves, treedef = jax.tree.flatten(updates)
        trees = map(treedef.flatten_up_to, (params, state.compensation))
        pairs = [step(*leaf) for leaf in zip(leaves, *trees, strict=True)]
        updates, compensation = (
            treedef.unflatten([pair[i] for pair in pairs]) for i in (0, 1)
        )
        return updates, CompensatedState(compensation, inner_state)

    return optax.GradientTransformationExtraArgs(init, update)


def _step(p: jax.Array, u: jax.Array, c: jax.Array) -> tuple[jax.Array, jax.Array]:
    """The update in float32 and the new error."""
    wide = p.astype(jnp.float32)
    x = wide + (u.astype(jnp.float32) + c.astype(jnp.float32))
    near = rounded(x, p.dtype)
    error = jnp.where(jnp.isfinite(near), x - near, 0)
    return near - wide, error.astype(p.dtype)
