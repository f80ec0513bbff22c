"""States of matrices that lie with their owners, moved to another mesh or layout.

`layouts.sharded` and `layouts.owned` keep such states in stacks by shape, in an order
that is the plan's of one mesh; `layouts.local` keeps them leaf by leaf.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import optax

from optax_ortho.layouts import Owned, Sharded
from optax_ortho.layouts.places import Placement, placement
from optax_ortho.layouts.placing import is_stacks
from optax_ortho.layouts.plan import Leaf
from optax_ortho.matrices import path_of
from optax_ortho.optimizers._recipe import Group
from optax_ortho.recording import recording

Matrices = dict[tuple[str, int], Any]
"""The states of a leaf's matrices by path and block, with an axis for them."""


def move_state(
    old: optax.GradientTransformation,
    new: optax.GradientTransformation,
    params: Any,
    state: Any,
    new_params: Any = None,
) -> Any:
    """A state for the same optimizer on another mesh, or with another layout.

    What is in the stacks of owners goes where the new layout has it, and everything
    else stays as it is. Between meshes: restore on the host or on any one mesh, move,
    and lay out with ``layout.place``. The local and the sharded layout take each
    other's states, the owned layout those of its own on other meshes.

    Args:
      old: the optimizer that the state is of.
      new: the same one with another ``layout``.
      params: the parameters of `old`, or their shapes.
      state: its state.
      new_params: those of `new`; None is `params`.

    Returns:
      The state of `new`, with the same numbers.

    Raises:
      ValueError: the states are not of one optimizer with layouts as above.

    Examples:
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
    # Where one has stacks the other has stacks too, or a tree of leaves.
    some = before if source is not None else after
    treedef = jax.tree.structure(some, is_leaf=is_stacks)
    try:
        columns = [treedef.flatten_up_to(tree) for tree in (state, after)]
    except (ValueError, TypeError) as error:
        raise ValueError(
            f"The state is not of one optimizer with two layouts: {error}"
        ) from None
    found = []
    for part, like in zip(*columns, strict=True):
        if is_stacks(part) or is_stacks(like):
            placements: Any = source, target
            leaves = next(p for p in placements if p is not None).leaves
            taken = (
                _from_stacks(part, placements[0])
                if is_stacks(part)
                else _from_tree(part, leaves)
            )
            part = (
                _to_stacks(taken, like, placements[1])
                if is_stacks(like)
                else _to_tree(taken, like, leaves)
            )
        found.append(part)
    return treedef.unflatten(found)


def _planned(tx: optax.GradientTransformation, params: Any) -> tuple[Any, Any]:
    """The shapes of a state, and who owns what in it; None where nobody does."""
    with recording() as events:
        shapes = jax.eval_shape(lambda params: tx.init(params), params)
    for event in events:
        layout = getattr(event, "layout", None)
        if isinstance(event, Group) and isinstance(layout, Sharded | Owned):
            shards = layout.shards if isinstance(layout, Owned) else layout
            leaves = [
                shards.leaf(path, label.axes, leaf.dtype)
                for path, leaf, label in event.leaves
                if label.axes is not None
            ]
            plan = shards.plan(leaves, False)
            return shapes, placement(plan, leaves, shards.reach)
    return shapes, None


def _from_stacks(stacks: Mapping[str, Any], placement: Placement) -> Matrices:
    rows: dict[tuple[str, int], dict[int, int]] = {}
    names = {}
    for name, places in placement.rows.items():
        for row, place in enumerate(places):
            if place is not None:
                leaf = placement.leaves[place.leaf].path, place.block
                rows.setdefault(leaf, {})[place.index] = row
                names[leaf] = name
    return {
        leaf: jax.tree.map(
            lambda s, own=own: s[jnp.asarray([own[i] for i in range(len(own))])],
            stacks[names[leaf]],
        )
        for leaf, own in rows.items()
    }


def _to_stacks(
    matrices: Matrices, like: Mapping[str, Any], placement: Placement
) -> dict[str, Any]:
    found = {}
    for name, places in placement.rows.items():
        filled = [row for row, place in enumerate(places) if place is not None]
        own = [
            jax.tree.map(
                lambda x, i=place.index: x[i],
                matrices[placement.leaves[place.leaf].path, place.block],
            )
            for place in places
            if place is not None
        ]

        def on_array(shape, *parts, filled=filled):
            # No slot is left without a state that a step could start from.
            whole = jnp.broadcast_to(parts[0], shape.shape)
            return whole.at[jnp.asarray(filled)].set(jnp.stack(parts))

        found[name] = jax.tree.map(on_array, like[name], *own)
    return found


def _from_tree(tree: Any, leaves: Sequence[Leaf]) -> Matrices:
    """From a tree as `Local.init` makes it, with a leaf's batch axes in front."""
    found: Matrices = {}
    for path, one in _by_leaf(tree, leaves)[0]:
        leaf = next(leaf for leaf in leaves if leaf.path == path)
        batch = len(leaf.axes.batch(len(leaf.shape)))
        for i, block in enumerate(one if leaf.axes.split else (one,)):
            found[path, i] = jax.tree.map(
                lambda x, n=batch: x.reshape((-1, *x.shape[n:])), block
            )
    return found


def _to_tree(matrices: Matrices, like: Any, leaves: Sequence[Leaf]) -> Any:
    fused = {leaf.path for leaf in leaves if leaf.axes.split}
    shapes, treedef = _by_leaf(like, leaves)
    found = []
    for path, one in shapes:
        blocks = [
            jax.tree.map(lambda s, x: x.reshape(s.shape), block, matrices[path, i])
            for i, block in enumerate(one if path in fused else (one,))
        ]
        found.append(tuple(blocks) if path in fused else blocks[0])
    return treedef.unflatten(found)


def _by_leaf(tree: Any, leaves: Sequence[Leaf]) -> tuple[list[tuple[str, Any]], Any]:
    """The state of each leaf with its path, and the structure around them."""
    paths = {leaf.path for leaf in leaves}
    keyed, treedef = jax.tree_util.tree_flatten_with_path(
        tree,
        is_leaf=lambda keys, _: path_of(keys) in paths,
        is_leaf_takes_path=True,
    )
    return [(path_of(keys), one) for keys, one in keyed], treedef
