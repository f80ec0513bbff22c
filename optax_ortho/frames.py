"""A transformation run in another basis: enter the basis, step, leave it.

Rotation (ARO), whitening (FISMO), Kronecker preconditioning (MKOR) and low-rank
projection are the same idea with different frames.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax


class Frame(NamedTuple):
    """A basis that may change from step to step.

    Attributes:
      init: ``params -> state``.
      update: ``(updates, state, params, **extra) -> state``, before the step. Among
        the extra arguments is ``preview``, a function that applies the inner
        transformation to updates in the frame without changing its state.
      enter: ``(updates, state) -> updates`` in the frame, of any shape.
      leave: ``(updates, state) -> updates`` of the original shape.
    """

    init: Callable[..., Any]
    update: Callable[..., Any]
    enter: Callable[[Any, Any], Any]
    leave: Callable[[Any, Any], Any]


class FrameState(NamedTuple):
    """The frame's state, and the inner transformation's in the frame's shapes."""

    frame: Any
    inner: optax.OptState


def in_frame(
    frame: Frame, inner: optax.GradientTransformation
) -> optax.GradientTransformationExtraArgs:
    """Runs `inner` inside a frame: update the frame, enter, step, leave.

    Args:
      frame: the basis.
      inner: the transformation; its state has the shapes that `frame.enter` returns.

    Returns:
      A transformation of updates in the original shapes.

    Examples:
      Momentum in the four leading rows of a matrix, a fourth of the memory:

      >>> rows = Frame(
      ...     init=lambda params: (),
      ...     update=lambda updates, state, params, **extra: state,
      ...     enter=lambda x, state: x[:4],
      ...     leave=lambda x, state: jnp.pad(x, ((0, 12), (0, 0))),
      ... )
      >>> tx = in_frame(rows, optax.trace(0.9))
      >>> tx.init(jnp.zeros((16, 3))).inner.trace.shape
      (4, 3)
    """
    inner = optax.with_extra_args_support(inner)

    def init(params):
        state = frame.init(params)
        inside = jax.eval_shape(frame.enter, params, state)
        return FrameState(state, inner.init(jax.tree.map(_zeros, inside, params)))

    def update(updates, state, params=None, **extra):
        def preview(inside):
            return inner.update(inside, state.inner, params, **extra)[0]

        frame_state = frame.update(
            updates, state.frame, params, **{**extra, "preview": preview}
        )
        inside = frame.enter(updates, frame_state)
        inside, inner_state = inner.update(inside, state.inner, params, **extra)
        updates = frame.leave(inside, frame_state)
        return updates, FrameState(frame_state, inner_state)

    return optax.GradientTransformationExtraArgs(init, update)


def _zeros(inside: jax.ShapeDtypeStruct, outside: Any) -> jax.Array:
    """Zeros in a frame, sharded like the parameter if they have its shape."""
    if inside.shape == jnp.shape(outside):
        return jnp.zeros_like(outside, dtype=inside.dtype)
    return jnp.zeros(inside.shape, inside.dtype)
