"""Stage 2: an orthogonalizer lifted from one matrix to a tree of parameters."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from optax_ortho import layouts
from optax_ortho.checks import refuse_array
from optax_ortho.layouts import Layout
from optax_ortho.matrices import (
    AxesOf,
    MatrixAxes,
    Orthogonalizer,
    axes_at,
    last_two,
    path_of,
)
from optax_ortho.orthogonalizers.auto import Auto
from optax_ortho.orthogonalizers.block_periodic import BlockPeriodic
from optax_ortho.recording import record


class Orthogonalized(NamedTuple):
    """The record of one orthogonalized leaf, for a summary."""

    path: str
    shape: tuple[int, ...]
    dtype: Any
    axes: MatrixAxes
    orthogonalizer: Any
    layout: Layout


def orthogonalize(
    orthogonalizer: Orthogonalizer | Callable[[jax.Array], jax.Array] | None = None,
    axes: AxesOf = last_two,
    layout: Layout | None = None,
) -> optax.GradientTransformationExtraArgs:
    """Orthogonalizes every matrix of a tree.

    Args:
      orthogonalizer: an object with an ``orthogonalize`` method, such as
        `NewtonSchulz`, or any function, of one ``(fan_in, fan_out)`` matrix; or a
        `BlockPeriodic` of one. None is `Auto`, five Newton-Schulz steps by the method
        that suits shape and backend.
      axes: the `MatrixAxes` of a leaf, from its path and the leaf.
      layout: the distribution of the matrices over devices; None is `layouts.local()`.

    Returns:
      A transformation without state, but for the count of a `BlockPeriodic`.

    Raises:
      TypeError: an orthogonalizer that is neither, such as the array that
        `optax.inject_hyperparams` makes of a function.
      ValueError: at init, axes that do not fit a leaf.

    Examples:
      >>> from optax_ortho.orthogonalizers import Exact
      >>> tx = orthogonalize(Exact())
      >>> x = jnp.diag(jnp.array([3.0, 0.1]))
      >>> updates, _ = tx.update(x, tx.init(x))
      >>> print(updates.round(5))
      [[1. 0.]
       [0. 1.]]
    """
    orthogonalizer = Auto() if orthogonalizer is None else orthogonalizer
    layout = layouts.local() if layout is None else layout
    if isinstance(orthogonalizer, BlockPeriodic):
        stage = orthogonalizer.stage(axes, layout)
    else:
        stage = _every_step(orthogonalizer, axes, layout)

    def init(params):
        record_matrices(params, axes, orthogonalizer, layout)
        return stage.init(params)

    return optax.GradientTransformationExtraArgs(init, stage.update)


def _every_step(
    orthogonalizer: Any, axes: AxesOf, layout: Layout
) -> optax.GradientTransformationExtraArgs:
    as_function(orthogonalizer)

    def update(updates, state, params=None, **extra):
        del params, extra
        return layout.map(orthogonalizer, axes, updates), state

    return optax.GradientTransformationExtraArgs(optax.init_empty_state, update)


def record_matrices(params: Any, axes: AxesOf, method: Any, layout: Layout) -> None:
    """Records the method of a stage for every leaf, for a summary.

    Args:
      params: the parameters.
      axes: the `MatrixAxes` of a leaf, from its path and the leaf.
      method: the method, which prints; a `Method` or anything else.
      layout: the distribution of the matrices over devices.

    Raises:
      ValueError: axes that do not fit a leaf, naming its path.
    """
    for keys, leaf in jax.tree_util.tree_leaves_with_path(params):
        path = path_of(keys)
        facts = (axes_at(axes, path, leaf), method, layout)
        record(Orthogonalized(path, jnp.shape(leaf), leaf.dtype, *facts))


def as_function(orthogonalizer: Any) -> Callable[..., Any]:
    """The function of one matrix behind an orthogonalizer.

    Raises:
      TypeError: there is none.
    """
    refuse_array("orthogonalizer", orthogonalizer)
    if isinstance(orthogonalizer, Orthogonalizer):
        return orthogonalizer.orthogonalize
    if callable(orthogonalizer):
        return orthogonalizer
    raise TypeError(
        "An orthogonalizer is a function of one matrix, or an object with a method "
        f"`orthogonalize`; got {orthogonalizer!r}."
    )
