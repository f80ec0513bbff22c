"""Entries, rows and columns of matrices, between a leaf and the stacks of owners.

In a leaf a momentum has the shape of the leaf, and a variance of each row has the shape
without its columns; a fused leaf has a `FusedState` of these. In the stacks of
owners they have the axes of the matrices.
"""

import math
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from optax_ortho.layouts.geometry import Leaf
from optax_ortho.layouts.stacks import Matrices
from optax_ortho.matrices import cut
from optax_ortho.states import FusedState, is_fused


def from_entries(values: Sequence[Any], leaves: Sequence[Leaf]) -> Matrices:
    """Arrays ``(batch, m, n)``, or broadcast from it, for the matrices of each block.

    Args:
      values: for each leaf an array of entries, rows or columns.
      leaves: the parameters.

    Raises:
      ValueError: an array with other axes.
    """
    matrices: Matrices = {}
    for number, (value, leaf) in enumerate(zip(values, leaves, strict=True)):
        blocks = value.blocks if is_fused(value) else cut(jnp.asarray(value), leaf.axes)
        for i, (x, form) in enumerate(zip(blocks, _forms(value, leaf), strict=True)):
            array = jnp.transpose(x, form.order).reshape((-1, *form.sizes))
            matrices[number, i] = array
    return matrices


def to_entries(
    matrices: Matrices, like: Sequence[Any], leaves: Sequence[Leaf]
) -> list[Any]:
    """The arrays of each leaf; the inverse of `from_entries`.

    Args:
      matrices: arrays for the matrices of each block.
      like: for each leaf an array with the shape and dtype of the result.
      leaves: the parameters.
    """
    values = []
    for number, (value, leaf) in enumerate(zip(like, leaves, strict=True)):
        blocks = []
        for i, (shape, order, _) in enumerate(_forms(value, leaf)):
            x = matrices[number, i].reshape(tuple(shape[axis] for axis in order))
            blocks.append(x.transpose([order.index(axis) for axis in range(x.ndim)]))
        if is_fused(value):
            whole: Any = FusedState(tuple(blocks))
        else:
            split = leaf.axes.split
            whole = jnp.concatenate(blocks, split.axis) if split else blocks[0]
        values.append(jax.tree.map(lambda x, s: x.astype(s.dtype), whole, value))
    return values


class _Form(NamedTuple):
    """The axes of a matrix in an array of entries, rows or columns.

    Attributes:
      shape: of the array.
      order: its axes with the batch in front.
      sizes: the shape for one matrix, ``(m, n)`` or one that broadcasts to it, or
        ``(m,)``, ``(n,)`` or ``()``.
    """

    shape: tuple[int, ...]
    order: list[int]
    sizes: list[int]


def _forms(value: Any, leaf: Leaf) -> Iterator[_Form]:
    """The form of each block of an array in the place of a leaf."""
    axes = leaf.axes
    batch = axes.batch(len(leaf.shape))
    if is_fused(value):
        shapes: Sequence[Sequence[int]] = [x.shape for x in value.blocks]
    else:
        shapes = axes.block_shapes(value.shape) if axes.split else [value.shape]
    for shape, block in zip(shapes, axes.block_shapes(leaf.shape), strict=True):
        forms = {}
        for sides in ((axes.fan_in, axes.fan_out), (axes.fan_in,), (axes.fan_out,), ()):
            kept = sorted([*batch, *(axis for side in sides for axis in side)])
            pairs = list(zip(kept, shape, strict=False))
            # Of all axes some may have length one.
            if len(kept) == len(shape) and all(
                n == block[axis] or (n == 1 and len(sides) == 2) for axis, n in pairs
            ):
                in_order = [*batch, *(axis for side in sides for axis in side)]
                order = [kept.index(axis) for axis in in_order]
                lengths = dict(pairs)
                sizes = [math.prod(lengths[axis] for axis in side) for side in sides]
                forms[tuple(order)] = _Form(tuple(shape), order, sizes)
        if len(forms) != 1:
            raise ValueError(
                f"Leaf {leaf.path!r}: a state of shape {tuple(shape)} must be one of "
                f"either entries, rows or columns of its matrices, {tuple(block)}."
            )
        yield from forms.values()
