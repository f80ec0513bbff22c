"""Matrices that several devices share: along some mesh axes each keeps its columns.

Beyond as many devices as matrices, giving each matrix to one device leaves the others
idle. Here an owner is a group of devices along the shared mesh axes. Pieces travel
along the other axes alone, so that each device of a group has a block of columns of the
whole matrix, and the group works on it together. All groups run one program, since no
collective may stand in a branch that not all devices take: a piece is padded with zeros
to the largest of its round, which leaves a polar factor as it is.
"""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from optax_ortho.layouts.exchange import there_and_back
from optax_ortho.layouts.pieces import blocks_of
from optax_ortho.layouts.plan import Axes, Leaf, MeshShape, Round, Unit
from optax_ortho.layouts.work import Work


def shared_along(leaf: Leaf, axes: Axes, mesh: MeshShape) -> Leaf:
    """The leaf, shared along some mesh axes if all of them lie along its longer side.

    Fused leaves are not shared: devices would have parts of different matrices.
    """
    axes = tuple(axis for axis in axes if mesh[axis] > 1)
    lengths = leaf.axes.matrix_shape(leaf.shape)
    if not axes or leaf.axes.split is not None or not min(lengths):
        return leaf
    for side, length in zip(
        (leaf.axes.fan_in, leaf.axes.fan_out), lengths, strict=True
    ):
        along = {axis for i in side for axis in leaf.spec[i]}
        if set(axes) <= along and length == max(lengths):
            return leaf._replace(shared=axes)
    return leaf


def run_shared_round(
    work: Work,
    one: Round,
    mesh: MeshShape,
    pieces: Callable[[Unit], Sequence[jax.Array]],
    state: Any,
) -> tuple[list[list[list[jax.Array]]], Any]:
    """As `exchange.run_round`, of matrices that have no state."""
    together = work.shared
    assert together is not None
    units = [unit for share in one.owners for unit in share]
    rows, columns = one.slot
    blocks = blocks_of(units[0].kind, one.route.shared, mesh)
    dtype = jnp.result_type(*(unit.kind.dtypes[1] for unit in units))

    def slot(share):
        if not share:
            return jnp.zeros((rows, columns), work.wire)
        (piece,) = pieces(share[0])
        missing = [n - m for n, m in zip(one.slot, piece.shape, strict=True)]
        return jnp.pad(piece.astype(work.wire), [(0, n) for n in missing])

    def owned(received):
        x = received.reshape((blocks, -1, columns)).astype(dtype)
        y = together(x, one.route.shared).astype(work.wire_back)
        return y.reshape(received.shape), None

    buffer = jnp.stack([slot(share) for share in one.owners])
    buffer, _ = there_and_back(one.route, mesh, buffer, owned)
    found = []
    for i, share in enumerate(one.owners):
        shapes = [unit.kind.piece for unit in share]
        found.append([[buffer[i, :m, :n]] for m, n in shapes])
    return found, state
