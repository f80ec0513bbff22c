"""A guard around a chain, against gradients that are not finite.

A matrix whose gradient has a NaN or an infinity goes in as zero and its update comes
out as zero, both selected and not multiplied (0 * NaN is NaN), so no state ever has
such a value.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from optax_ortho.inputs import checked
from optax_ortho.layouts.layout import ALONE, Across
from optax_ortho.matrices import AxesOf, axes_at, path_of


class GuardState(NamedTuple):
    """The state of a guard.

    Attributes:
      skipped: the number of matrices and other leaves skipped so far.
      inner: the state of the guarded transformation.
    """

    skipped: jax.Array
    inner: optax.OptState


BatchAxesOf = Callable[[str, Any], tuple[int, ...]]
"""The axes of a leaf along which its matrices are stacked, given path and leaf."""


def guard(
    inner: optax.GradientTransformation,
    nonfinite: str | None,
    batch_axes: BatchAxesOf = lambda path, leaf: (),
    across: Across = ALONE,
) -> optax.GradientTransformationExtraArgs:
    """Keeps non-finite gradients out of a transformation.

    Gradients that do not fit the parameters are refused, see `optax_ortho.inputs`.

    Args:
      inner: the transformation to guard.
      nonfinite: ``"skip_matrix"`` skips each matrix, or other leaf, that has a bad
        entry, and lets the others step; ``"skip_step"`` skips all of them when one has;
        ``"off"`` guards nothing. A skipped matrix sees a zero gradient, so its
        momentum decays, and it gets a zero update, without weight decay. None returns
        `inner` as it is, unchecked too, for a direction inside a guarded recipe.
      batch_axes: the axes of a leaf along which matrices are stacked, so that one
        layer of a stack can be skipped alone. A fused leaf is skipped as a whole.
      across: the view across devices.

    Returns:
      The guarded transformation, with a `GuardState`; for ``"off"`` and None with the
      state of `inner`.

    Raises:
      ValueError: an unknown `nonfinite`, or at update a gradient of another tree.
      TypeError: at update a gradient that is not floating.

    Examples:
      >>> tx = guard(optax.trace(0.9), "skip_matrix")
      >>> params = {"a": jnp.zeros(2), "b": jnp.zeros(2)}
      >>> gradient = {"a": jnp.array([1.0, jnp.nan]), "b": jnp.ones(2)}
      >>> updates, state = tx.update(gradient, tx.init(params), params)
      >>> print(updates["a"], updates["b"], state.skipped)
      [0. 0.] [1. 1.] 1
    """
    if nonfinite not in ("skip_matrix", "skip_step", "off", None):
        raise ValueError(
            f"nonfinite must be 'skip_matrix', 'skip_step' or 'off', got {nonfinite!r}."
        )
    inner = optax.with_extra_args_support(inner)
    if nonfinite is None:
        return inner
    if nonfinite == "off":
        return checked(inner, across.shape)

    def mark(keys, leaf):
        stacked = batch_axes(path_of(keys), leaf)
        one_matrix = tuple(axis for axis in range(leaf.ndim) if axis not in stacked)
        # inf - inf and NaN - NaN are NaN. One sum compiles to half the program, in
        # half the time, that isfinite(leaf).all() does.
        total = jnp.sum(leaf - leaf, axis=one_matrix, keepdims=True)
        # Of a complex number either part may be NaN.
        total = jnp.abs(total) if jnp.iscomplexobj(total) else total
        return total.astype(jnp.float32)

    def init(params):
        return GuardState(jnp.zeros([], jnp.int32), inner.init(params))

    def update(updates, state, params=None, **extra):
        with jax.named_scope("guard"):
            marks = across.agree(jax.tree_util.tree_map_with_path(mark, updates))
            bad, total = _count_bad(jax.tree.leaves(marks))
            good = jax.tree.map(jnp.isfinite, marks)
            if nonfinite == "skip_step":
                good = jax.tree.map(lambda _: bad == 0, good)
                bad = jnp.where(bad == 0, 0, total)
            # The sum of two int32 must not wrap around.
            room = jnp.iinfo(jnp.int32).max - state.skipped
            skipped = state.skipped + jnp.minimum(bad, room)
            updates = _zero_unless(across.at_gradients(good), updates)
        updates, inner_state = inner.update(updates, state.inner, params, **extra)
        updates = _zero_unless(across.at_params(good), updates)
        return updates, GuardState(skipped, inner_state)

    return checked(optax.GradientTransformationExtraArgs(init, update), across.shape)


def stacked_axes(axes: AxesOf) -> BatchAxesOf:
    """The batch axes of leaves that are all matrices, for `guard`."""
    return lambda path, leaf: axes_at(axes, path, leaf).batch(leaf.ndim)


def _count_bad(marks: list[jax.Array]) -> tuple[jax.Array, int]:
    """The number of bad matrices, and of all."""
    # Stacked, because each alone would be a kernel of its own.
    alone = [mark.squeeze() for mark in marks if mark.size == 1]
    parts = [mark for mark in marks if mark.size != 1]
    parts += [jnp.stack(alone)] if alone else []
    good = [jnp.isfinite(part).sum(dtype=jnp.int32) for part in parts]
    total = sum(mark.size for mark in marks)
    return total - sum(good, start=jnp.zeros([], jnp.int32)), total


def _zero_unless(good: Any, tree: Any) -> Any:
    return jax.tree.map(lambda ok, x: jnp.where(ok, x, jnp.zeros_like(x)), good, tree)
