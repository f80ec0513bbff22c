"""Pieces of a leaf on one device, and the whole matrices on their owner.

A piece is ``(rows, columns)`` of a matrix, with the sharded axes of the leading side in
the rows. An owner receives one piece of each of its matrices from every device of its
pool, in the order of the mesh axes. In the buffer of a round the pieces of one owner
follow each other as tiles of one width, so that pieces of several shapes fit.

All communication of a round is here: `enter` and `leave`. Both run where the mesh axes
are manual, inside a `jax.shard_map` or `jax.pmap`.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.experimental.layout import Layout, with_layout_constraint

from optax_ortho.layouts.geometry import (
    Axes,
    Kind,
    Leaf,
    MeshShape,
    Round,
    Route,
    block_dims,
    block_shapes,
    local_shape,
    mesh_size,
    order_of,
    whole_dims,
)

LANES = 128
"""The width of a TPU's tiles."""


def take_apart(x: jax.Array, leaf: Leaf, mesh: MeshShape, kind: Kind) -> jax.Array:
    """The pieces of a leaf's matrices on one device, ``(batch, rows, columns)``.

    Args:
      x: the shard of the leaf.
      leaf: the parameter.
      mesh: the size of each mesh axis.
      kind: of its matrices.
    """
    order = order_of(leaf, mesh)
    batch = [x.shape[i] for i in order[: x.ndim - len(kind.dims)]]
    return _row_major(x).transpose(order).reshape((math.prod(batch), *kind.piece))


def put_together(
    pieces: Sequence[jax.Array], leaf: Leaf, mesh: MeshShape, dtype: Any
) -> jax.Array:
    """The shard of a leaf; the inverse of `take_apart`.

    Args:
      pieces: the pieces of its matrices in their order, ``(n, rows, columns)`` each.
      leaf: the parameter.
      mesh: the size of each mesh axis.
      dtype: of a leaf without matrices.
    """
    order, shape = order_of(leaf, mesh), local_shape(leaf, mesh)
    if not pieces:
        return jnp.zeros(shape, dtype)
    inverse = tuple(order.index(i) for i in range(len(order)))
    joined_pieces = concatenated(pieces)
    return joined_pieces.reshape([shape[i] for i in order]).transpose(inverse)


def assemble(
    pieces: jax.Array, kind: Kind, matrix: Axes, mesh: MeshShape
) -> tuple[jax.Array, ...]:
    """The blocks of a matrix from its ``(devices, rows, columns)`` pieces.

    Args:
      pieces: one from each device along `matrix`.
      kind: of the matrix.
      matrix: the mesh axes over which it is sharded, in the order of the exchange.
      mesh: the size of each mesh axis.
    """
    order, sizes = _interleaved(kind, matrix, mesh)
    parts = [pieces.reshape(sizes).transpose(order)]
    if kind.cut is not None:
        axis, lengths = kind.cut
        edges = [sum(lengths[:i]) for i in range(1, len(lengths))]
        parts = jnp.split(parts[0].reshape(whole_dims(kind, mesh)), edges, axis)
    pairs = zip(parts, block_shapes(kind, mesh), strict=True)
    if kind.fan_out_leads:
        return tuple(part.reshape(shape[::-1]).T for part, shape in pairs)
    return tuple(part.reshape(shape) for part, shape in pairs)


def divide(
    blocks: Sequence[jax.Array], kind: Kind, matrix: Axes, mesh: MeshShape
) -> jax.Array:
    """The pieces of a matrix; the inverse of `assemble`."""
    order, sizes = _interleaved(kind, matrix, mesh)
    inverse = tuple(order.index(i) for i in range(len(order)))
    parts = [block.T if kind.fan_out_leads else block for block in blocks]
    whole = parts[0]
    if kind.cut is not None:
        pairs = zip(parts, block_dims(kind, mesh), strict=True)
        whole = jnp.concatenate([x.reshape(dims) for x, dims in pairs], kind.cut[0])
    pieces = whole.reshape([sizes[i] for i in order]).transpose(inverse)
    return pieces.reshape((mesh_size(matrix, mesh), *kind.piece))


def common_width(round_: Round) -> int:
    """The width of tiles into which all pieces of a round can be cut."""
    pieces = [unit.kind.piece for unit in round_.units]
    columns = math.gcd(*(columns for _, columns in pieces))
    if columns % LANES == 0 or all(c == columns for _, c in pieces):
        return columns
    sizes = math.gcd(*(math.prod(piece) for piece in pieces))
    return LANES if sizes % LANES == 0 else 1


def tiled(x: jax.Array, width: int) -> jax.Array:
    """Pieces ``(..., rows, columns)`` as tiles ``(..., n, width)``."""
    *batch, rows, columns = x.shape
    if columns == width:
        return x
    if columns % width == 0 and width % LANES == 0:
        # Column by column of tiles, which moves whole tiles and no single lanes.
        x = x.reshape((*batch, rows, columns // width, width))
        x = jnp.moveaxis(x, -2, -3)
    return x.reshape((*batch, rows * columns // width, width))


def untiled(x: jax.Array, piece: tuple[int, int]) -> jax.Array:
    """Pieces from their tiles; the inverse of `tiled`."""
    *batch, _, width = x.shape
    rows, columns = piece
    if columns == width:
        return x
    if columns % width == 0 and width % LANES == 0:
        x = x.reshape((*batch, columns // width, rows, width))
        x = jnp.moveaxis(x, -3, -2)
    return x.reshape((*batch, rows, columns))


def packed(round_: Round, pieces: Callable, dtype: Any) -> jax.Array:
    """The buffer of a round on this device, ``(owners, n, width)``.

    Args:
      round_: the round.
      pieces: gives the ``(rows, columns)`` of a unit on this device, of each operand.
      dtype: of the buffer.
    """
    width = common_width(round_)
    tiles = []
    for units in round_.owners:
        own_tiles = [tiled(x.astype(dtype), width) for u in units for x in pieces(u)]
        tiles.append(joined(own_tiles, jnp.zeros((0, width), dtype)))
    rows = max(x.shape[0] for x in tiles)
    return jnp.stack([padded(x, rows, 0) for x in tiles])


def unpacked(round_: Round, buffer: jax.Array, results: int) -> list[list[jax.Array]]:
    """The pieces of each result of each unit, by owner, from the buffer of a round."""
    units = []
    for i, of_owner in enumerate(round_.owners):
        start = 0
        for unit in of_owner:
            n = math.prod(unit.kind.piece) // buffer.shape[-1]
            tiles = [buffer[i, start + j * n :][:n] for j in range(results)]
            units.append([untiled(x, unit.kind.piece) for x in tiles])
            start += n * results
    return units


def enter(
    route: Route, mesh: MeshShape, buffer: jax.Array, over: Axes = ()
) -> jax.Array:
    """Pieces from all devices to their owners.

    Args:
      route: of the pool.
      mesh: the size of each mesh axis.
      buffer: ``(owners, ...)``, the pieces on this device for each owner.
      over: mesh axes along which devices have different terms of a sum; the owner
        receives the sum.

    Returns:
      ``(devices, ...)``, the pieces for this device as an owner, from each device along
      the mesh axes of matrices that are not in `over`.
    """
    summed = tuple(axis for axis in route.pool if axis in over)
    replica, matrix = (
        tuple(axis for axis in axes if axis not in over)
        for axes in (route.replica, route.matrix)
    )
    tail = buffer.shape[1:]
    if summed:
        # Owners in the order of the mesh axes that are summed, replicas, and matrices.
        order = [route.pool.index(axis) for axis in summed + replica + matrix]
        ndim = len(order)
        buffer = buffer.reshape((*(mesh[axis] for axis in route.pool), *tail))
        buffer = buffer.transpose((*order, *range(ndim, ndim + len(tail))))
        buffer = buffer.reshape((mesh_size(summed, mesh), -1, *tail))
        buffer = lax.psum_scatter(buffer, summed, scatter_dimension=0, tiled=True)
        buffer = buffer.reshape((mesh_size(replica + matrix, mesh), *tail))
    if replica:
        # Every replica has all pieces; each keeps those for its own owners.
        buffer = buffer.reshape((mesh_size(replica, mesh), -1, *tail))
        turn = lax.axis_index(replica)
        buffer = lax.dynamic_index_in_dim(buffer, turn, keepdims=False)
    return _all_to_all(buffer, matrix)


def leave(route: Route, buffer: jax.Array) -> jax.Array:
    """Pieces from owners back to all devices; the inverse of `enter`.

    Args:
      route: of the pool.
      buffer: ``(devices, ...)``, the pieces on this owner for each device along the
        mesh axes of matrices.

    Returns:
      ``(owners, ...)``, the pieces for this device from each owner.
    """
    buffer = _all_to_all(buffer, route.matrix)
    if route.replica:
        buffer = lax.all_gather(buffer, route.replica, tiled=True, to="invarying")
    return buffer


def joined(tiles: Sequence[jax.Array], empty: jax.Array) -> jax.Array:
    """Tiles one after the other; `empty` if there are none."""
    if len(tiles) < 2:
        return tiles[0] if tiles else empty
    return jnp.concatenate(tiles, -2)


def padded(x: jax.Array, length: int, axis: int) -> jax.Array:
    """An array with zeros at the end of an axis, up to a length."""
    missing = length - x.shape[axis]
    if not missing:
        return x
    return jnp.pad(x, [(0, missing if i == axis else 0) for i in range(x.ndim)])


def concatenated(parts: Sequence[jax.Array]) -> jax.Array:
    """Arrays one after the other along their first axis."""
    return parts[0] if len(parts) == 1 else jnp.concatenate(parts)


def _row_major(x: jax.Array) -> jax.Array:
    """Pins the memory layout, so that a transpose is not propagated to the producer.

    Where a piece is transposed for its owner, XLA would rather compute the momentum
    transposed, and copy all of it back at the end: 268 MB for a Llama 1B on 8 chips.
    Rows that do not fill a TPU's lanes would be padded, so those are not pinned.
    """
    if x.shape[-1] % LANES:
        return x
    return with_layout_constraint(x, Layout(tuple(range(x.ndim))))


def _all_to_all(x: jax.Array, axes: Axes) -> jax.Array:
    return lax.all_to_all(x, axes, 0, 0, tiled=True) if axes else x


def _interleaved(
    kind: Kind, matrix: Axes, mesh: MeshShape
) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """The order of mesh axes and axes of a piece in the matrix, and their sizes."""
    sizes = tuple(mesh[axis] for axis in matrix) + kind.dims
    order = []
    for i, axes in enumerate(kind.sharded):
        order += [*(matrix.index(axis) for axis in axes), len(matrix) + i]
    return tuple(order), sizes
