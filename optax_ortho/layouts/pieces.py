"""Between the piece of a leaf on one device and the whole matrices on their owner.

A piece is ``(rows, columns)`` of a matrix whose leading side lies along the first mesh
axis. An owner receives one piece from each device of its pool, in the order of the
mesh axes.
"""

import math
from collections.abc import Sequence

import jax
import jax.numpy as jnp

from optax_ortho.layouts.plan import Axes, Kind, MeshShape

LANES = 128


def take_apart(x: jax.Array, order: Sequence[int], kind: Kind) -> jax.Array:
    """The leaf on one device as ``(batch, rows, columns)``.

    Args:
      x: the part of a leaf that the device holds.
      order: its axes by `plan.order_of`.
      kind: of its matrices.
    """
    batch = [x.shape[i] for i in order[: x.ndim - len(kind.dims)]]
    return x.transpose(order).reshape((math.prod(batch), *kind.piece))


def put_together(
    pieces: jax.Array, order: Sequence[int], shape: Sequence[int]
) -> jax.Array:
    """The inverse of `take_apart`, to a leaf of the given shape on one device."""
    inverse = tuple(order.index(i) for i in range(len(order)))
    return pieces.reshape([shape[i] for i in order]).transpose(inverse)


def assemble(
    pieces: jax.Array, kind: Kind, matrix: Axes, mesh: MeshShape
) -> tuple[jax.Array, ...]:
    """The blocks of a matrix from its ``(devices, rows, columns)`` pieces."""
    order, sizes = _interleaved(kind, matrix, mesh)
    whole = pieces.reshape(sizes).transpose(order)
    if kind.cut is None:
        parts = [whole]
    else:
        axis, lengths = kind.cut
        edges = [sum(lengths[:i]) for i in range(1, len(lengths))]
        parts = jnp.split(whole.reshape(_full(kind, mesh)), edges, axis)
    shapes = block_shapes(kind, mesh)
    if not kind.fan_out_leads:
        pairs = zip(parts, shapes, strict=True)
        return tuple(part.reshape(shape) for part, shape in pairs)
    pairs = zip(parts, shapes, strict=True)
    return tuple(part.reshape(shape[::-1]).T for part, shape in pairs)


def divide(
    blocks: Sequence[jax.Array], kind: Kind, matrix: Axes, mesh: MeshShape
) -> jax.Array:
    """The inverse of `assemble`."""
    order, sizes = _interleaved(kind, matrix, mesh)
    inverse = tuple(order.index(i) for i in range(len(order)))
    parts = [block.T if kind.fan_out_leads else block for block in blocks]
    if kind.cut is None:
        whole = parts[0]
    else:
        axis, lengths = kind.cut
        full = _full(kind, mesh)
        shapes = [(*full[:axis], n, *full[axis + 1 :]) for n in lengths]
        pairs = zip(parts, shapes, strict=True)
        whole = jnp.concatenate([part.reshape(shape) for part, shape in pairs], axis)
    devices = math.prod(mesh[axis] for axis in matrix)
    pieces = whole.reshape([sizes[i] for i in order]).transpose(inverse)
    return pieces.reshape((devices, *kind.piece))


def block_shapes(kind: Kind, mesh: MeshShape) -> list[tuple[int, int]]:
    """The shape of each block as its owner is given it."""
    full = _full(kind, mesh)
    if kind.cut is None:
        parts = [full]
    else:
        axis, lengths = kind.cut
        parts = [(*full[:axis], n, *full[axis + 1 :]) for n in lengths]
    lead = kind.lead
    shapes = [(math.prod(part[:lead]), math.prod(part[lead:])) for part in parts]
    return [(n, m) if kind.fan_out_leads else (m, n) for m, n in shapes]


def blocks_of(kind: Kind, shared: Axes, mesh: MeshShape) -> int:
    """In how many blocks of columns a matrix comes to one device.

    Args:
      kind: of the matrix.
      shared: the mesh axes along which no piece travels.
      mesh: the size of each mesh axis.
    """
    trailing = [axis for axes in kind.sharded[kind.lead :] for axis in axes]
    return math.prod(mesh[axis] for axis in trailing if axis not in shared)


def lanes(pieces: Sequence[tuple[int, int]]) -> int:
    """The width at which pieces of several shapes fit into one buffer."""
    columns = math.gcd(*(columns for _, columns in pieces))
    if columns % LANES == 0 or all(c == columns for _, c in pieces):
        return columns
    sizes = math.gcd(*(math.prod(piece) for piece in pieces))
    return LANES if sizes % LANES == 0 else 1


def tiled(x: jax.Array, width: int) -> jax.Array:
    """``(..., rows, columns)`` as ``(..., n, width)``, one tile of columns by one."""
    *batch, rows, columns = x.shape
    if columns == width:
        return x
    if columns % width == 0 and width % LANES == 0:
        x = x.reshape((*batch, rows, columns // width, width))
        x = jnp.moveaxis(x, -2, -3)
    return x.reshape((*batch, rows * columns // width, width))


def untiled(x: jax.Array, shape: tuple[int, int]) -> jax.Array:
    """The inverse of `tiled`."""
    *batch, _, width = x.shape
    rows, columns = shape
    if columns == width:
        return x
    if columns % width == 0 and width % LANES == 0:
        x = x.reshape((*batch, columns // width, rows, width))
        x = jnp.moveaxis(x, -3, -2)
    return x.reshape((*batch, rows, columns))


def _full(kind: Kind, mesh: MeshShape) -> tuple[int, ...]:
    """The lengths of the axes of the whole matrix."""
    pairs = zip(kind.dims, kind.sharded, strict=True)
    return tuple(d * math.prod(mesh[a] for a in axes) for d, axes in pairs)


def _interleaved(
    kind: Kind, matrix: Axes, mesh: MeshShape
) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """How the mesh axes go between the axes of a piece."""
    sizes = tuple(mesh[axis] for axis in matrix) + kind.dims
    order = []
    for i, axes in enumerate(kind.sharded):
        order += [*(matrix.index(axis) for axis in axes), len(matrix) + i]
    return tuple(order), sizes
