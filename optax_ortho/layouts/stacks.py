"""States and momenta of owners, in one stack for each shape of matrix.

A stack has a slot for each matrix of an owner, and the same number of slots on every
device, so some may be empty. The stacks of all owners are one array, sharded over the
mesh axes along which there are owners. See `assignment.Occupancy` for the matrix in
each slot.
"""

import dataclasses
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from optax_ortho.layouts.assignment import Occupancy
from optax_ortho.layouts.geometry import Axes, Leaf
from optax_ortho.layouts.layout import Layout
from optax_ortho.layouts.local import local
from optax_ortho.matrices import AxesOf, Orthogonalizer
from optax_ortho.states import Structure, blocks_of, state_of


class OwnerStacks(NamedTuple):
    """A state of matrices, each as a whole, stored with their owners.

    Attributes:
      by_shape: for each shape of matrix, such as ``"768x3072"``, an array of shape
        ``(slots of all owners, ...)``.
    """

    by_shape: dict[str, Any]


class OwnerEntries(NamedTuple):
    """A state of entries, rows or columns, such as a momentum, stored with owners.

    Attributes:
      by_shape: for each shape of matrix ``"MxN"``, an array that broadcasts to ``(slots
        of all owners, M, N)``.
    """

    by_shape: dict[str, Any]


def is_owned(node: Any) -> bool:
    """Whether a node of a state is stored with the owners of matrices."""
    return isinstance(node, OwnerStacks | OwnerEntries)


def shape_of(name: str) -> tuple[int, int]:
    """The shape of the matrices of a stack.

    Examples:
      >>> shape_of("4x6_bfloat16")
      (4, 6)
    """
    m, n = name.split("_")[0].split("x")
    return int(m), int(n)


def split_stacks(state: Any, names: Iterable[str]) -> tuple[dict[str, Any], Structure]:
    """The states of each stack, from a state with an `OwnerStacks` in each field.

    Returns:
      A state for each name, with an axis for slots in front of each array; and the
      structure of the state of one matrix.
    """
    fields, structure = jax.tree.flatten(state, is_leaf=is_owned)
    return {
        name: structure.unflatten([field.by_shape[name] for field in fields])
        for name in names
    }, structure


def merge_stacks(states: Mapping[str, Any], structure: Structure) -> Any:
    """A state with an `OwnerStacks` in each field; the inverse of `split_stacks`."""
    columns = {name: structure.flatten_up_to(state) for name, state in states.items()}
    return structure.unflatten(
        [
            OwnerStacks({name: column[i] for name, column in columns.items()})
            for i in range(structure.num_leaves)
        ]
    )


Matrices = dict[tuple[int, int], Any]
"""Pytrees by the number of a leaf and of its block, with one axis for the batch."""


def from_stacks(stacks: Mapping[str, Any], slots: Occupancy) -> Matrices:
    """The state of each matrix, from the stacks of all owners."""
    rows: dict[tuple[int, int], dict[int, int]] = {}
    names: dict[tuple[int, int], str] = {}
    for name in slots.by_device:
        for row, matrix in enumerate(slots.rows(name)):
            if matrix is not None:
                block = matrix.leaf, matrix.block
                rows.setdefault(block, {})[matrix.index] = row
                names[block] = name
    return {
        block: jax.tree.map(
            lambda s, at=at: s[jnp.asarray([at[i] for i in range(len(at))])],
            stacks[names[block]],
        )
        for block, at in rows.items()
    }


def to_stacks(matrices: Matrices, slots: Occupancy) -> dict[str, Any]:
    """The stacks of all owners; the inverse of `from_stacks`."""
    stacks = {}
    for name in slots.by_device:
        rows = slots.rows(name)
        filled = {
            row: jax.tree.map(
                lambda x, i=matrix.index: x[i], matrices[matrix.leaf, matrix.block]
            )
            for row, matrix in enumerate(rows)
            if matrix is not None
        }
        # An empty slot has a copy, so that a step can start from any slot.
        first = next(iter(filled.values()))
        entries = [filled.get(row, first) for row in range(len(rows))]
        stacks[name] = jax.tree.map(lambda *parts: jnp.stack(parts), *entries)
    return stacks


def from_leaves(values: Sequence[Any], leaves: Sequence[Leaf]) -> Matrices:
    """The state of each matrix, from the state of each leaf.

    Args:
      values: for each leaf a pytree of arrays with its batch axes in front, or a
        `FusedState` of such.
      leaves: the parameters.
    """
    matrices: Matrices = {}
    for number, (value, leaf) in enumerate(zip(values, leaves, strict=True)):
        ndim = len(_batch(leaf))
        for i, block in enumerate(blocks_of(value)):
            matrices[number, i] = jax.tree.map(
                lambda x, n=ndim: x.reshape((math.prod(x.shape[:n]), *x.shape[n:])),
                block,
            )
    return matrices


def to_leaves(matrices: Matrices, leaves: Sequence[Leaf]) -> list[Any]:
    """The state of each leaf; the inverse of `from_leaves`."""
    values = []
    for number, leaf in enumerate(leaves):
        batch = _batch(leaf)
        blocks = [
            jax.tree.map(
                lambda x, b=batch: x.reshape((*b, *x.shape[1:])), matrices[number, i]
            )
            for i in range(len(leaf.axes.block_shapes(leaf.shape)))
        ]
        values.append(state_of(blocks, leaf.axes.split is not None))
    return values


def _batch(leaf: Leaf) -> tuple[int, ...]:
    return tuple(leaf.shape[axis] for axis in leaf.axes.batch(len(leaf.shape)))


def of_this_owner(values: Sequence[Any], slots: Occupancy, owners: Axes) -> dict:
    """This owner's stacks, from values that every device has.

    Args:
      values: as in `from_leaves`.
      slots: the matrix in each slot.
      owners: the mesh axes along which there are owners.
    """

    def rows_here(rows):
        n = len(rows) // lax.axis_size(owners)
        return lax.dynamic_slice_in_dim(rows, lax.axis_index(owners) * n, n)

    stacks = to_stacks(from_leaves(values, slots.leaves), slots)
    return jax.tree.map(rows_here, stacks)


def of_all_owners(stacks: Mapping[str, Any], slots: Occupancy, owners: Axes) -> list:
    """The state of each leaf, on every device; the inverse of `of_this_owner`."""
    rows = jax.tree.map(lambda x: lax.all_gather(x, owners, tiled=True), stacks)
    return to_leaves(from_stacks(rows, slots), slots.leaves)


@dataclasses.dataclass(frozen=True)
class Slots(Layout):
    """`jax.tree.map` for the stacks of one owner, an `OwnerEntries`.

    Attributes:
      filled: for each stack, which slots of which device have a matrix.
      mesh_axes: the names of the mesh axes, all of them manual.
      batch_bytes: matrices up to this size are batched, empty slots included.
    """

    filled: Mapping[str, tuple[tuple[bool, ...], ...]]
    mesh_axes: tuple[str, ...]
    batch_bytes: int = 2**18

    sees_all = False

    def map(
        self,
        f: Any,
        axes: AxesOf,
        *operands: Any,
        state: Any = None,
        beside: Any = None,
        scalars: Sequence[jax.Array] = (),
    ) -> Any:
        """Implements `Layout`; nothing is beside the stacks of one owner.

        The result and the new state of an empty slot of large matrices are zeros and
        the old state; for small matrices they are whatever `f` makes of the slot.
        """
        del beside
        f = f.orthogonalize if isinstance(f, Orthogonalizer) else f

        def on_slot(*args):
            *matrices, is_filled, old = args[: len(operands) + 2]
            passed = (*matrices, *(() if state is None else (old,)), *scalars)
            if is_filled is None:
                ys = f(*passed)
            else:
                ys = lax.cond(is_filled, lambda: f(*passed), lambda: skipped(passed))
            y, new = (ys, ()) if state is None else ys
            return y, is_filled, new

        def skipped(passed):
            shapes = jax.eval_shape(f, *passed)
            zeros = jax.tree.map(
                lambda y: jnp.zeros(y.shape, y.dtype),
                shapes if state is None else shapes[0],
            )
            return zeros if state is None else (zeros, passed[len(operands)])

        stacks = [operand.by_shape for operand in operands]
        filled = {name: self._flags(name, stack) for name, stack in stacks[0].items()}
        by_name = jax.tree.map(
            _by_shape, () if state is None else state, is_leaf=is_owned
        )
        ys, _, new = local(self.batch_bytes).map(
            on_slot, axes, *stacks, beside=filled, state=by_name
        )
        tree = OwnerEntries(ys)
        return tree if state is None else (tree, _stacked(new, stacks[0]))

    def init(self, f: Callable, axes: AxesOf, tree: Any) -> Any:
        """Implements `Layout`; an `OwnerStacks` in the place of each array."""
        state = local(self.batch_bytes).init(f, axes, tree.by_shape)
        return _stacked(state, tree.by_shape)

    def _flags(self, name: str, stack: jax.Array) -> jax.Array | None:
        """The filled slots of a stack; None if skipping the others does not pay."""
        _, m, n = stack.shape
        if m * n * stack.dtype.itemsize <= self.batch_bytes:
            return None
        if all(map(all, self.filled[name])):
            return None
        return jnp.asarray(self.filled[name])[lax.axis_index(self.mesh_axes)]


def _by_shape(stacks: OwnerStacks) -> dict[str, Any]:
    return stacks.by_shape


def _stacked(state: Any, like: dict[str, Any]) -> Any:
    """A state with an `OwnerStacks` in the place of each dict of stacks."""
    structure = jax.tree.structure(like)
    return jax.tree.map(
        OwnerStacks, state, is_leaf=lambda node: jax.tree.structure(node) == structure
    )
