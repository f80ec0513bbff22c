"""Small values that go to the owner of a matrix beside it, and come back from there.

A row or a column of each matrix is small beside the matrices. So every device has all
of them, and takes those of what it owns; what owners have is gathered everywhere.
"""

from typing import Any

import jax
from jax import lax
from jax.sharding import PartitionSpec

from optax_ortho.layouts.local import on_every_device
from optax_ortho.layouts.places import Placement, placement
from optax_ortho.layouts.sharded import Sharded
from optax_ortho.layouts.stacks import from_stacks, from_tree, to_stacks, to_tree
from optax_ortho.matrices import AxesOf, path_of


def to_owners(layout: Sharded, axes: AxesOf, tree: Any, values: Any) -> dict[str, Any]:
    """What belongs to the matrices of a tree, as states for `Sharded.map`.

    Args:
      layout: who owns what.
      axes: the `MatrixAxes` of a leaf, from its path and the leaf.
      tree: the matrices.
      values: a tree with arrays in the place of each leaf, which have its batch axes in
        front; a tuple of them, one a block, for a fused leaf.
    """
    there, reach = _placement(layout, axes, tree), tuple(layout.reach)

    def on_device(values):
        def own(rows):
            slots = len(rows) // lax.axis_size(reach)
            return lax.dynamic_slice_in_dim(rows, lax.axis_index(reach) * slots, slots)

        return jax.tree.map(own, to_stacks(from_tree(values, there.leaves), there))

    run = layout.on_mesh(on_device, (PartitionSpec(),), PartitionSpec(reach))
    return run(jax.tree.map(on_every_device, values))


def from_owners(
    layout: Sharded, axes: AxesOf, tree: Any, states: dict[str, Any], like: Any
) -> Any:
    """The inverse of `to_owners`, on every device, in the shapes of `like`."""
    there, reach = _placement(layout, axes, tree), tuple(layout.reach)

    def on_device(states):
        rows = jax.tree.map(lambda x: lax.all_gather(x, reach, tiled=True), states)
        return to_tree(from_stacks(rows, there), like, there.leaves)

    return layout.on_mesh(on_device, (PartitionSpec(reach),), PartitionSpec())(states)


def _placement(layout: Sharded, axes: AxesOf, tree: Any) -> Placement:
    keyed, _ = jax.tree_util.tree_flatten_with_path(tree)
    leaves = [layout.leaf_of(path_of(keys), axes, leaf) for keys, leaf in keyed]
    return placement(layout.plan(leaves, False), leaves, layout.reach)
