"""What belongs to entries, rows or columns of matrices, and lies as they do in a leaf.

A momentum has the shape of the leaf, a variance of each row that of the leaf without
its columns, and a fused leaf has a tuple of these. It is brought into the form in which
`optax_ortho.layouts.stacks` puts what belongs to matrices into the stacks of owners.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from optax_ortho.layouts.places import Placement
from optax_ortho.layouts.plan import Leaf
from optax_ortho.layouts.stacks import Matrices, by_leaf
from optax_ortho.matrices import cut


def from_entries(tree: Any, leaves: Sequence[Leaf]) -> Matrices:
    """Of a tree with what belongs to entries, rows or columns of a leaf in its place.

    Raises:
      ValueError: an array that has other axes than those of entries, rows or columns.
    """
    found: Matrices = {}
    by_path = {leaf.path: leaf for leaf in leaves}
    for path, one in by_leaf(tree, leaves)[0]:
        leaf = by_path[path]
        blocks = one if isinstance(one, tuple) else cut(jnp.asarray(one), leaf.axes)
        for i, (x, way) in enumerate(zip(blocks, _ways(one, leaf), strict=True)):
            found[path, i] = jnp.transpose(x, way.order).reshape((-1, *way.sizes))
    return found


def to_entries(matrices: Matrices, like: Any, leaves: Sequence[Leaf]) -> Any:
    """The inverse of `from_entries`, in the shapes and dtypes of another tree."""
    by_path = {leaf.path: leaf for leaf in leaves}
    shapes, treedef = by_leaf(like, leaves)
    found = []
    for path, one in shapes:
        leaf, blocks = by_path[path], []
        for i, (shape, order, _) in enumerate(_ways(one, leaf)):
            x = matrices[path, i].reshape(tuple(shape[axis] for axis in order))
            blocks.append(x.transpose([order.index(axis) for axis in range(x.ndim)]))
        if isinstance(one, tuple):
            found.append(tuple(blocks))
        else:
            split = leaf.axes.split
            found.append(jnp.concatenate(blocks, split.axis) if split else blocks[0])
    return jax.tree.map(lambda x, s: x.astype(s.dtype), treedef.unflatten(found), like)


def is_of_entries(tree: Any, stacks: Mapping[str, Any], placement: Placement) -> bool:
    """Whether a tree has what belongs to entries, rows or columns of matrices.

    Args:
      tree: with what belongs to a leaf in its place, or the shapes.
      stacks: the same of all owners, or the shapes.
      placement: of these stacks.

    Raises:
      ValueError: it may be either, and would be read in two ways.
    """
    by_path = {leaf.path: leaf for leaf in placement.leaves}
    sizes = {
        (placement.leaves[place.leaf].path, place.block): stacks[name].shape[1:]
        for name, places in placement.rows.items()
        for place in places
        if place is not None
    }
    whole, entries, alike = True, True, True
    for path, one in by_leaf(tree, placement.leaves)[0]:
        leaf = by_path[path]
        front = [leaf.shape[axis] for axis in leaf.axes.batch(len(leaf.shape))]
        try:
            ways = list(_ways(one, leaf))
        except ValueError:
            return False
        for i, way in enumerate(ways):
            size = sizes[path, i]
            whole &= way.shape == (*front, *size)
            entries &= tuple(way.sizes) == size
            alike &= way.order == sorted(way.order)
    if whole and entries and not alike:
        raise ValueError(
            f"The state of {sorted(by_path)[0]!r} and all others must be of entries or "
            "of one side, but may be either: all matrices are square, and one lies as "
            "(out, in). Move it to a mesh instead of to layouts.local()."
        )
    return entries


class _Way(NamedTuple):
    """How what belongs to the matrices of a block lies in an array.

    Attributes:
      shape: of the array.
      order: its axes with the batch in front.
      sizes: the shape of what belongs to one matrix, ``(m, n)`` or one that it is
        broadcast from, ``(m,)``, ``(n,)`` or ``()``.
    """

    shape: tuple[int, ...]
    order: list[int]
    sizes: list[int]


def _shapes(one: Any, leaf: Leaf) -> Sequence[Sequence[int]]:
    """Of the blocks of what is in a leaf's place."""
    if isinstance(one, tuple):
        return [x.shape for x in one]
    return leaf.axes.block_shapes(one.shape) if leaf.axes.split else [one.shape]


def _ways(one: Any, leaf: Leaf) -> Iterator[_Way]:
    """How each block of what is in a leaf's place lies."""
    axes = leaf.axes
    batch = axes.batch(len(leaf.shape))
    blocks = axes.block_shapes(leaf.shape)
    for found, block in zip(_shapes(one, leaf), blocks, strict=True):
        ways = {}
        for sides in ((axes.fan_in, axes.fan_out), (axes.fan_in,), (axes.fan_out,), ()):
            kept = [*batch, *(axis for side in sides for axis in side)]
            pairs = list(zip(sorted(kept), found, strict=False))
            # Of all axes some may have length one.
            if len(kept) == len(found) and all(
                n == block[axis] or (n == 1 and len(sides) == 2) for axis, n in pairs
            ):
                order = [sorted(kept).index(axis) for axis in kept]
                lengths = dict(pairs)
                sizes = [math.prod(lengths[axis] for axis in side) for side in sides]
                ways[tuple(order)] = _Way(tuple(found), order, sizes)
        if len(ways) != 1:
            raise ValueError(
                f"Leaf {leaf.path!r}: a state of shape {tuple(found)} must be one of "
                f"either entries, rows or columns of its matrices, {tuple(block)}."
            )
        yield from ways.values()
