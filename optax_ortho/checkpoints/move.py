"""States of matrices that are stored with owners, moved to another mesh or layout.

`layouts.sharded` and `layouts.owned` keep such states in stacks by shape, in an order
that depends on the mesh; `layouts.local` keeps them leaf by leaf. The type of a node
says
which: `OwnerStacks`, `OwnerEntries`, or a tree like the matrices.
"""

from typing import Any

import jax
import optax

from optax_ortho.checkpoints.entries import from_entries, to_entries
from optax_ortho.layouts import OwnerEntries
from optax_ortho.layouts.assignment import Occupancy, occupancy
from optax_ortho.layouts.layout import on_every_device
from optax_ortho.layouts.stacks import (
    from_leaves,
    from_stacks,
    is_owned,
    to_leaves,
    to_stacks,
)
from optax_ortho.recipes.groups import Group
from optax_ortho.recording import recording
from optax_ortho.states import is_fused


def move_state(
    old: optax.GradientTransformation,
    new: optax.GradientTransformation,
    params: Any,
    state: Any,
    new_params: Any = None,
) -> Any:
    """A state for the same optimizer on another mesh, or with another layout.

    The stacks of owners are rearranged for the new layout, and everything else stays
    as it is. Between meshes: restore on the host or on any one mesh, move, and shard
    with ``layout.place``. All layouts take each other's states.

    Args:
      old: the optimizer that the state is of.
      new: the same one with another ``layout``.
      params: the parameters of `old`, or their shapes.
      state: its state.
      new_params: the parameters of `new`; None is `params`.

    Returns:
      The state of `new`, with the same numbers.

    Raises:
      ValueError: the states are not of one optimizer with layouts as above.

    Examples:
      >>> import jax.numpy as jnp
      >>> import optax_ortho
      >>> from jax.sharding import NamedSharding, PartitionSpec
      >>> mesh = jax.make_mesh((1,), ("fsdp",))
      >>> shards = NamedSharding(mesh, PartitionSpec("fsdp"))
      >>> params = {"kernel": jax.device_put(jnp.ones((4, 6)), shards)}
      >>> layout = optax_ortho.layouts.sharded(params)
      >>> many = optax_ortho.dion(0.02, layout=layout)
      >>> one = optax_ortho.dion(0.02)
      >>> state = move_state(many, one, params, many.init(params))
      >>> jax.tree.map(jnp.shape, state) == jax.tree.map(jnp.shape, one.init(params))
      True
    """
    before, source = _planned(old, params)
    after, target = _planned(new, params if new_params is None else new_params)
    # Where one state has stacks, the other has stacks too, or a tree of leaves.
    treedef = jax.tree.structure(max(before, after, key=_owned), is_leaf=is_owned)
    try:
        columns = [treedef.flatten_up_to(tree) for tree in (state, after)]
    except (ValueError, TypeError) as error:
        raise ValueError(
            f"The state is not of one optimizer with two layouts: {error}"
        ) from None
    moved = [
        _moved(node, like, source, target) if is_owned(node) or is_owned(like) else node
        for node, like in zip(*columns, strict=True)
    ]
    return treedef.unflatten(moved)


def _moved(node: Any, like: Any, source: Any, target: Any) -> Any:
    """One node of a state, in the form of the node that `new` has in its place.

    Args:
      node: an `OwnerStacks`, an `OwnerEntries`, or a tree.
      like: the shapes of the result; another of these.
      source: the `Occupancy` of the stacks in `node`, if it has any.
      target: the `Occupancy` of the stacks in `like`, if it has any.
    """
    slots = source if is_owned(node) else target
    entries = isinstance(node if is_owned(node) else like, OwnerEntries)
    # Rows of a sharded array cannot be indexed on a mesh with Explicit axes.
    node = jax.tree.map(on_every_device, node)
    if is_owned(node):
        matrices = from_stacks(node.by_shape, slots)
    else:
        values = jax.tree.leaves(node, is_leaf=is_fused)
        read = from_entries if entries else from_leaves
        matrices = read(values, slots.leaves)
    if is_owned(like):
        return type(like)(to_stacks(matrices, target))
    values, treedef = jax.tree.flatten(like, is_leaf=is_fused)
    if entries:
        return treedef.unflatten(to_entries(matrices, values, slots.leaves))
    return treedef.unflatten(to_leaves(matrices, slots.leaves))


def _owned(state: Any) -> int:
    """The number of nodes of a state that are stored with owners."""
    return sum(map(is_owned, jax.tree.leaves(state, is_leaf=is_owned)))


def _planned(
    tx: optax.GradientTransformation, params: Any
) -> tuple[Any, Occupancy | None]:
    """The shapes of a state, and the matrix in each slot of its stacks."""
    with recording() as events:
        shapes = jax.eval_shape(lambda params: tx.init(params), params)
    for event in events:
        if isinstance(event, Group) and event.layout is not None:
            shards = event.layout.shards
            if shards is not None:
                leaves = [
                    shards.params.leaf(path, label.axes, leaf.dtype)
                    for path, leaf, label in event.leaves
                    # A bias that is one more row of a kernel has no fan-in.
                    if label.axes is not None and label.axes.fan_in
                ]
                plan = shards.plan(leaves, equivariant=False)
                return shapes, occupancy(plan, leaves, shards.owner_mesh)
    return shapes, None
