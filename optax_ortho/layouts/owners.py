"""Directions whose state is stored with the owners of matrices, as a whole.

Gradients enter the stacks of their owners, averaged on the way if devices have
different ones; a direction runs on the stacks of each owner; and its updates leave to
the shards of the parameters. The rounds run as in `layouts.sharded`, with the halves
apart.
"""

import dataclasses
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax.sharding import PartitionSpec

from optax_ortho.layouts.assignment import Occupancy, occupancy
from optax_ortho.layouts.geometry import (
    Axes,
    Leaf,
    MeshShape,
    Round,
    kind_of,
    mesh_size,
)
from optax_ortho.layouts.layout import Layout, Make
from optax_ortho.layouts.local import local
from optax_ortho.layouts.rounds import run_rounds
from optax_ortho.layouts.specs import averaged
from optax_ortho.layouts.stacks import OwnerEntries, Slots, shape_of
from optax_ortho.layouts.work import Work, narrowed
from optax_ortho.matrices import AxesOf, axes_at, last_two, path_of
from optax_ortho.recording import record, recording


class Owners(NamedTuple):
    """The owners of the matrices of a tree.

    Attributes:
      shards: the `Sharded` layout by which matrices have owners.
      over: the mesh axes along which gradients differ, and are whole.
      leaves: the parameters of the tree.
      plan: the rounds.
      slots: the matrix in each slot.
      treedef: the structure of the tree.
    """

    shards: Any
    over: Axes
    leaves: Sequence[Leaf]
    plan: Sequence[Round]
    slots: Occupancy
    treedef: Any

    @property
    def mesh(self) -> MeshShape:
        """The size of each mesh axis."""
        return self.shards.mesh.shape

    def layout(self) -> Slots:
        """The layout of the stacks on one device."""
        filled = {
            name: tuple(tuple(matrix is not None for matrix in row) for row in rows)
            for name, rows in self.slots.by_device.items()
        }
        return Slots(filled, self.shards.mesh.axis_names)

    def empty(self, dtype: Any) -> OwnerEntries:
        """The stacks of one owner, all zero."""
        return OwnerEntries(
            {
                name: jnp.zeros((len(rows[0]), *shape_of(name)), dtype)
                for name, rows in sorted(self.slots.by_device.items())
            }
        )

    def enter(self, gradients: Any) -> OwnerEntries:
        """The averages of the gradients of devices, in the stacks of their owners.

        A reduce-scatter whose parts are whole matrices sends the same as one whose
        parts are shards.

        Args:
          gradients: this device's, each leaf whole along `over`.
        """
        arrays = self.treedef.flatten_up_to(gradients)
        whole = [_whole_along(leaf, self.over) for leaf in self.leaves]
        kinds = [kind_of(leaf, self.mesh, equivariant=False) for leaf in whole]
        plan = [
            round_._replace(
                owners=tuple(
                    tuple(unit._replace(kind=kinds[unit.leaf]) for unit in units)
                    for units in round_.owners
                )
            )
            for round_ in self.plan
        ]
        shards = [
            self._terms(x, leaf) for x, leaf in zip(arrays, self.leaves, strict=True)
        ]
        wire = jnp.result_type(*arrays)
        store = Work(
            lambda operands, _, kind: ([], operands[0]),
            1,
            0,
            wire,
            wire,
            0,
            over=self.over,
        )
        stacks = self.empty(wire).by_shape
        _, stacks = run_rounds(store, plan, whole, self.mesh, [shards], stacks)
        return OwnerEntries(stacks)

    def leave(self, stacks: OwnerEntries) -> Any:
        """The stacks of owners as a tree of this device's shards."""
        dtype = jnp.result_type(*stacks.by_shape.values())
        wire = narrowed([dtype], self.shards.wire_dtype)
        load = Work(
            lambda _, blocks, kind: ([list(blocks)], blocks), 0, 1, wire, wire, 0
        )
        results, _ = run_rounds(
            load, self.plan, self.leaves, self.mesh, [], stacks.by_shape
        )
        return self.treedef.unflatten([y.astype(dtype) for (y,) in results])

    def init(self, f: Any) -> Any:
        """A state of the stacks, sharded over the mesh axes of owners.

        Args:
          f: takes the stacks of one owner, and returns their state.
        """
        dtype = jnp.result_type(*(leaf.dtypes[0] for leaf in self.leaves))
        on_device = lambda: f(self.empty(dtype))  # noqa: E731
        on_mesh = self.shards.params.on_mesh
        # Shapes on one device; `f` may ask for its position on the mesh.
        state = jax.eval_shape(on_mesh(on_device, (), PartitionSpec()))
        along = PartitionSpec(self.shards.mesh.axis_names)
        specs = jax.tree.map(lambda s: along if s.ndim else PartitionSpec(), state)
        return on_mesh(on_device, (), specs)()

    def _terms(self, gradient: jax.Array, leaf: Leaf) -> jax.Array:
        """This device's term of the average, the batch of the leaf in shards."""
        stacked = leaf.axes.batch(len(leaf.shape))
        spec = [axes if i in stacked else () for i, axes in enumerate(leaf.spec)]
        along = tuple(axis for axes in spec for axis in axes if axis in self.over)
        rest = [axis for axis in self.over if axis not in along]
        # Divided before they are summed, so that no sum of finite terms is infinite.
        return averaged(gradient, spec, self.mesh, along) / mesh_size(rest, self.mesh)


def owners_of(shards: Any, over: Axes, axes: AxesOf, tree: Any) -> Owners:
    """The owners of the matrices of a tree.

    Args:
      shards: the `Sharded` layout by which matrices have owners.
      over: the mesh axes along which gradients differ, and are whole.
      axes: the `MatrixAxes` of a leaf, from its path and the leaf.
      tree: parameters or gradients, all of them matrices.
    """
    keyed, treedef = jax.tree_util.tree_flatten_with_path(tree)
    leaves = []
    for path in (path_of(keys) for keys, _ in keyed):
        whole = shards.params.whole(path)
        leaf = shards.params.leaf(path, axes_at(axes, path, whole), whole.dtype)
        if leaf.axes.split is not None and leaf.axes.split.scales is not None:
            raise ValueError(
                f"Leaf {path!r} has a Split with scales, which stacks of owners do not "
                "keep: leave them out, or use layouts.sharded."
            )
        leaves.append(leaf)
    plan = shards.plan(leaves, equivariant=False)
    slots = occupancy(plan, leaves, shards.mesh.shape)
    return Owners(shards, over, tuple(leaves), plan, slots, treedef)


def on_owners(
    make: Make, axes: AxesOf, layout: Layout, shards: Any, over: Axes
) -> optax.GradientTransformationExtraArgs:
    """A direction on the stacks of owners, from gradients to shards of its update.

    Its update runs where the mesh axes are manual.

    Args:
      make: makes the direction from axes and a layout.
      axes: the `MatrixAxes` of a leaf, from its path and the leaf.
      layout: the layout of the recipe, as a summary shows it.
      shards: the `Sharded` layout by which matrices have owners.
      over: the mesh axes along which gradients differ, and are whole.
    """

    def made(tree):
        owners = owners_of(shards, over, axes, tree)
        inner = make(last_two, owners.layout())
        return owners, optax.with_extra_args_support(inner)

    def init(params):
        if not jax.tree.leaves(params):
            return make(axes, layout).init(params)
        owners, inner = made(params)
        with recording():  # A summary is of matrices, and not of stacks.
            state = owners.init(inner.init)
        shapes = jax.tree_util.tree_map_with_path(
            lambda keys, _: shards.params.whole(path_of(keys)), params
        )
        with recording() as events:
            jax.eval_shape(make(axes, local()).init, shapes)
        for event in events:
            record(event._replace(layout=layout))
        return state

    def update(updates, state, params=None, **extra):
        if not jax.tree.leaves(updates):
            return updates, state
        owners, inner = made(updates)
        # The parameters are shards here, and no stage may take a shard for the whole.
        stacks: Any = owners.enter(updates)
        extra["one_owner"] = True
        stacks, state = inner.update(stacks, state, None, **extra)
        return owners.leave(stacks), state

    return optax.GradientTransformationExtraArgs(init, update)


def on_shards(
    make: Make, axes: AxesOf, layout: Any
) -> optax.GradientTransformationExtraArgs:
    """`on_owners` for gradients in the shards of the parameters; see `Layout.resident`.

    Args:
      make: makes the direction from axes and a layout.
      axes: the `MatrixAxes` of a leaf, from its path and the leaf.
      layout: a `Sharded` layout.
    """
    inner = on_owners(make, _unscaled(axes), layout, layout, ())

    def update(updates, state, params=None, **extra):
        del params, extra
        sent = jax.tree.map(
            lambda x: x.astype(narrowed([x.dtype], layout.wire_dtype)), updates
        )
        specs = layout.specs(updates), layout.specs(state)
        run = layout.params.on_mesh(inner.update, specs, specs)
        new, state = run(sent, state)
        return jax.tree.map(lambda y, x: y.astype(x.dtype), new, updates), state

    return optax.GradientTransformationExtraArgs(inner.init, update)


def _unscaled(axes: AxesOf) -> AxesOf:
    """The axes without the scales of blocks, which stages behind a direction apply."""

    def unscaled(path, leaf):
        leaf_axes = axes(path, leaf)
        if leaf_axes.split is None:
            return leaf_axes
        split = dataclasses.replace(leaf_axes.split, scales=None)
        return dataclasses.replace(leaf_axes, split=split)

    return unscaled


def _whole_along(leaf: Leaf, over: Axes) -> Leaf:
    """A parameter in the sharding of its gradient, summed along the batch."""
    stacked = leaf.axes.batch(len(leaf.shape))
    spec = tuple(
        axes if i in stacked else tuple(a for a in axes if a not in over)
        for i, axes in enumerate(leaf.spec)
    )
    return leaf._replace(spec=spec)
