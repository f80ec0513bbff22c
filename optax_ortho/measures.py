"""Figures about each step, kept in the state for `optax_ortho.diagnostics`."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax


class MeasuredState(NamedTuple):
    """Figures of the last step of the matrices, and the state of what was measured.

    Attributes:
      gradient_rms: root mean square of all gradient entries.
      update_rms: root mean square of the direction, per unit of learning rate.
      inner: the measured transformation's state.
    """

    gradient_rms: jax.Array
    update_rms: jax.Array
    inner: optax.OptState


def measured(
    inner: optax.GradientTransformation,
) -> optax.GradientTransformationExtraArgs:
    """Keeps figures about what enters and leaves a transformation.

    Examples:
      >>> tx = measured(optax.scale(0.5))
      >>> _, state = tx.update(jnp.full(3, 2.0), tx.init(jnp.zeros(3)))
      >>> print(state.gradient_rms, state.update_rms)
      2.0 1.0
    """
    inner = optax.with_extra_args_support(inner)

    def init(params):
        zero = jnp.zeros([], jnp.float32)
        return MeasuredState(zero, zero, inner.init(params))

    def update(updates, state, params=None, **extra):
        gradient_rms = _rms(updates)
        updates, inner_state = inner.update(updates, state.inner, params, **extra)
        return updates, MeasuredState(gradient_rms, _rms(updates), inner_state)

    return optax.GradientTransformationExtraArgs(init, update)


def _rms(tree: Any) -> jax.Array:
    leaves = jax.tree.leaves(tree)
    squares = [jnp.sum(jnp.abs(x.astype(jnp.float32)) ** 2) for x in leaves]
    return jnp.sqrt(sum(squares) / max(sum(x.size for x in leaves), 1))
