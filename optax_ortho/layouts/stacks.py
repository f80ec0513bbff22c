"""What belongs to matrices, in two forms: leaf by leaf, and in the stacks of owners.

Leaf by leaf it is as `Local.init` makes it, with the batch axes of the leaf in front, a
tuple of blocks for a fused one; a momentum lies in another way, see
`optax_ortho.layouts.entries`. Owners have it by the shape of the matrix, in the order
of a plan; see `optax_ortho.layouts.places`.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from optax_ortho.layouts.places import Placement
from optax_ortho.layouts.plan import Leaf
from optax_ortho.matrices import path_of

Matrices = dict[tuple[str, int], Any]
"""What belongs to a leaf's matrices by path and block, with an axis for them."""


def from_stacks(stacks: Mapping[str, Any], placement: Placement) -> Matrices:
    """Of the stacks of all owners."""
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


def to_stacks(matrices: Matrices, placement: Placement) -> dict[str, Any]:
    """The stacks of all owners."""
    found = {}
    for name, places in placement.rows.items():
        own = {
            row: jax.tree.map(
                lambda x, i=place.index: x[i],
                matrices[placement.leaves[place.leaf].path, place.block],
            )
            for row, place in enumerate(places)
            if place is not None
        }
        # No slot is left without a state that a step could start from.
        first = next(iter(own.values()))
        filled = [own.get(row, first) for row in range(len(places))]
        found[name] = jax.tree.map(lambda *parts: jnp.stack(parts), *filled)
    return found


def from_tree(tree: Any, leaves: Sequence[Leaf]) -> Matrices:
    """Of a tree with what belongs to a leaf in its place."""
    found: Matrices = {}
    by_path = {leaf.path: leaf for leaf in leaves}
    for path, one in by_leaf(tree, leaves)[0]:
        leaf = by_path[path]
        batch = len(leaf.axes.batch(len(leaf.shape)))
        for i, block in enumerate(one if leaf.axes.split else (one,)):
            found[path, i] = jax.tree.map(
                lambda x, n=batch: x.reshape((-1, *x.shape[n:])), block
            )
    return found


def to_tree(matrices: Matrices, like: Any, leaves: Sequence[Leaf]) -> Any:
    """A tree with what belongs to a leaf in its place, in the shapes of another."""
    fused = {leaf.path for leaf in leaves if leaf.axes.split}
    shapes, treedef = by_leaf(like, leaves)
    found = []
    for path, one in shapes:
        blocks = [
            jax.tree.map(lambda s, x: x.reshape(s.shape), block, matrices[path, i])
            for i, block in enumerate(one if path in fused else (one,))
        ]
        found.append(tuple(blocks) if path in fused else blocks[0])
    return treedef.unflatten(found)


def by_leaf(tree: Any, leaves: Sequence[Leaf]) -> tuple[list[tuple[str, Any]], Any]:
    """What belongs to each leaf with its path, and the structure around."""
    paths = {leaf.path for leaf in leaves}
    keyed, treedef = jax.tree_util.tree_flatten_with_path(
        tree,
        is_leaf=lambda keys, _: path_of(keys) in paths,
        is_leaf_takes_path=True,
    )
    return [(path_of(keys), one) for keys, one in keyed], treedef
