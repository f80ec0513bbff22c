"""A recipe in which matrices live with their owner, see `layouts.owned`.

The direction of the matrices runs on the stacks of each owner. All else that a recipe
has, rates, decay and the other groups, runs on each device's part of the parameters.
"""

from collections.abc import Callable
from typing import Any

import jax
import optax

from optax_ortho import layouts
from optax_ortho.guard import ALONE, Across
from optax_ortho.layouts import Owned
from optax_ortho.matrices import AxesOf, last_two, path_of
from optax_ortho.recording import record, recording

Direction = Callable[[AxesOf, Any], optax.GradientTransformation]


def on_owners(
    direction: Direction, axes: AxesOf, layout: Owned
) -> optax.GradientTransformationExtraArgs:
    """A direction on owners: local gradients in, each device's part of the update out.

    Args:
      direction: makes a direction from the axes of a leaf and a layout.
      axes: the `MatrixAxes` of a leaf, from its path and the leaf.
      layout: who owns what.
    """

    def made(tree):
        owners = layout.among(axes, tree)
        inner = direction(last_two, owners.slots())
        return owners, optax.with_extra_args_support(inner)

    def init(params):
        if not jax.tree.leaves(params):
            return direction(axes, layout).init(params)
        owners, inner = made(params)
        with recording():  # A summary is of matrices, and not of stacks.
            state = owners.init(inner.init)
        shapes = jax.tree_util.tree_map_with_path(
            lambda keys, leaf: layout.shards.whole(path_of(keys)), params
        )
        with recording() as said:
            jax.eval_shape(direction(axes, layouts.local()).init, shapes)
        for event in said:
            record(event._replace(layout=layout))
        return state

    def update(updates, state, params=None, **extra):
        if not jax.tree.leaves(updates):
            return updates, state
        owners, inner = made(updates)
        # The parameters are in parts here, and no stage may take a part for the whole.
        stacks: Any = owners.enter(updates)
        extra["one_owner"] = True
        stacks, state = inner.update(stacks, state, None, **extra)
        return owners.leave(stacks), state

    return optax.GradientTransformationExtraArgs(init, update)


def on_parts(
    inner: optax.GradientTransformation, layout: Any
) -> optax.GradientTransformation:
    """A transformation of parameters that are no matrices, on each device's part.

    Args:
      inner: what has no need of a whole parameter, such as AdamW.
      layout: any layout; for one that is not `Owned`, `inner` itself.
    """
    if not isinstance(layout, Owned):
        return inner
    inner = optax.with_extra_args_support(inner)

    def update(updates, state, params=None, **extra):
        return inner.update(layout.average(updates), state, params, **extra)

    # With the state of `inner`, which another layout can take as it is.
    return optax.GradientTransformationExtraArgs(inner.init, update)


def across(layout: Any) -> Across:
    """How the guard of a recipe looks across devices."""
    if not isinstance(layout, Owned):
        return ALONE
    return Across(
        lambda path, leaf: layout.gradient_shape(path),
        layout.agree,
        layout.at_gradients,
        layout.at_params,
    )


def whole(layout: Any, path: str, leaf: Any) -> Any:
    """The shape and dtype by which a leaf is labelled: its own, or the whole one's."""
    return layout.shards.whole(path) if isinstance(layout, Owned) else leaf
