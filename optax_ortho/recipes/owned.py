"""Recipes whose matrices are stored on their owners, see `layouts.owned`.

The direction of the matrices runs on the stacks of each owner. The rest of a recipe,
rates, decay and the other groups, runs on each device's shard of the parameters.
"""

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import optax

from optax_ortho import layouts
from optax_ortho.guard import ALONE, Across
from optax_ortho.layouts import Owned, Sharded
from optax_ortho.layouts.work import narrowed
from optax_ortho.matrices import AxesOf, last_two, path_of
from optax_ortho.recording import record, recording

Direction = Callable[[AxesOf, Any], optax.GradientTransformation]


class AllOnOwners(NamedTuple):
    """The record of a direction whose whole state is stored on owners."""

    layout: Any


def on_owners(
    direction: Direction, axes: AxesOf, layout: Owned
) -> optax.GradientTransformationExtraArgs:
    """A direction on owners: local gradients in, each device's shard of the update out.

    Args:
      direction: makes a direction from the axes of a leaf and a layout.
      axes: the `MatrixAxes` of a leaf, from its path and the leaf.
      layout: the assignment of matrices to owners.
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
        with recording() as events:
            jax.eval_shape(direction(axes, layouts.local()).init, shapes)
        for event in events:
            record(event._replace(layout=layout))
        record(AllOnOwners(layout))
        return state

    def update(updates, state, params=None, **extra):
        if not jax.tree.leaves(updates):
            return updates, state
        owners, inner = made(updates)
        # The parameters are shards here, and no stage may take a shard for a matrix.
        stacks: Any = owners.enter(updates)
        extra["one_owner"] = True
        stacks, state = inner.update(stacks, state, None, **extra)
        return owners.leave(stacks), state

    return optax.GradientTransformationExtraArgs(init, update)


def all_on_owners(
    direction: Direction, axes: AxesOf, layout: Any
) -> optax.GradientTransformationExtraArgs:
    """A direction whose whole state is stored on owners: one exchange in, and one out.

    For directions with several stages that would each run their own all-to-all.
    Of layouts other than `Sharded`, and where a device is one of several slices or of a
    `jax.pmap`, it is ``direction(axes, layout)``.

    Args:
      direction: makes a direction from the axes of a leaf and a layout; its effect on
        one matrix may not depend on another.
      axes: the `MatrixAxes` of a leaf, from its path and the leaf.
      layout: the layout of the matrices.
    """
    if not isinstance(layout, Sharded) or layout.params is None or layout.dcn:
        return optax.with_extra_args_support(direction(axes, layout))
    inner = on_owners(direction, _unscaled(axes), Owned(layout, over=()))

    def init(params):
        with recording() as events:
            state = inner.init(params)
        for event in events:
            record(event._replace(layout=layout))
        return state

    def update(updates, state, params=None, **extra):
        del params, extra
        wire = jax.tree.map(
            lambda x: x.astype(narrowed([x.dtype], layout.wire_dtype)), updates
        )
        specs = layout.specs(updates), layout.specs(state)
        result, state = layout.on_mesh(inner.update, specs, specs)(wire, state)
        return jax.tree.map(lambda y, x: y.astype(x.dtype), result, updates), state

    return optax.GradientTransformationExtraArgs(init, update)


def _unscaled(axes: AxesOf) -> AxesOf:
    """Axes without the scales of blocks, which the stages behind a direction apply."""

    def unscaled(path, leaf):
        scaled = axes(path, leaf)
        if scaled.split is None:
            return scaled
        split = dataclasses.replace(scaled.split, scales=None)
        return dataclasses.replace(scaled, split=split)

    return unscaled


def on_parts(
    inner: optax.GradientTransformation, layout: Any
) -> optax.GradientTransformation:
    """A transformation of parameters that are no matrices, on each device's shard.

    Args:
      inner: a transformation that needs no whole parameter, such as AdamW.
      layout: any layout; for one that is not `Owned`, `inner` itself.
    """
    if not isinstance(layout, Owned):
        return inner
    inner = optax.with_extra_args_support(inner)

    def update(updates, state, params=None, **extra):
        return inner.update(layout.average(updates), state, params, **extra)

    # The state is `inner`'s, so that another layout can take it.
    return optax.GradientTransformationExtraArgs(inner.init, update)


def across(layout: Any) -> Across:
    """The view of a recipe's guard across devices."""
    if not isinstance(layout, Owned):
        return ALONE
    return Across(
        lambda path, leaf: layout.gradient_shape(path),
        layout.agree,
        layout.at_gradients,
        layout.at_params,
    )


def whole(layout: Any, path: str, leaf: Any) -> Any:
    """The shape and dtype by which a leaf is labelled: the whole parameter's."""
    return layout.shards.whole(path) if isinstance(layout, Owned) else leaf
