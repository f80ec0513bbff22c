"""Geometry of leaves on a mesh: arithmetic on shapes, without devices.

Mesh axes are of three kinds for a leaf: its batch axes are sharded over the first, its
matrices over the second, and it is replicated over the third. Along the first no
communication is needed. The devices along the other two form a pool: they divide the
matrices of all leaves with the same mesh axes among them. Each matrix has one owner in
its pool, and the work is done in rounds; see `optax_ortho.layouts.assignment`.

Where mesh axes are shared, an owner is not one device but the group along them.
"""

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from optax_ortho.matrices import MatrixAxes

Axes = tuple[str, ...]
"""Names of mesh axes."""

MeshShape = Mapping[str, int]
"""The size of each mesh axis."""


class Leaf(NamedTuple):
    """A parameter, and its sharding.

    Attributes:
      path: its path in the tree.
      shape: its global shape.
      axes: its resolved matrix axes.
      spec: the mesh axes of each of its axes, major first.
      dtypes: of the parameter, and of each operand in its place.
      shared: the mesh axes whose devices work on each matrix together; its columns stay
        sharded over them.
    """

    path: str
    shape: tuple[int, ...]
    axes: MatrixAxes
    spec: tuple[Axes, ...]
    dtypes: tuple[str, ...]
    shared: Axes = ()


class Route(NamedTuple):
    """The mesh axes of a leaf's batch, of its matrices, and of its replicas.

    The mesh axes of matrices are in the order in which pieces are exchanged. No piece
    is exchanged along `shared`, whose devices work on each matrix together.
    """

    batch: Axes
    matrix: Axes
    replica: Axes
    shared: Axes = ()

    @property
    def pool(self) -> Axes:
        """The mesh axes along which there are owners, major first."""
        return self.replica + self.matrix


class Kind(NamedTuple):
    """All that a program needs to know of a matrix; equal kinds use one program.

    Attributes:
      dims: the lengths on one device of the matrix's axes, the leading side's first.
      sharded: the mesh axes of each of `dims`.
      lead: the number of `dims` on the leading side.
      fan_out_leads: whether fan_out leads; None where that makes no difference.
      cut: the index in `dims` and the sizes by which a fused leaf is split, or None.
      dtypes: the dtypes of the leaf.
      rows_beside: the `rows_beside` of its axes.
    """

    dims: tuple[int, ...]
    sharded: tuple[Axes, ...]
    lead: int
    fan_out_leads: bool | None
    cut: tuple[int, tuple[int, ...]] | None
    dtypes: tuple[str, ...]
    rows_beside: int = 0

    @property
    def piece(self) -> tuple[int, int]:
        """Rows and columns of the piece on one device."""
        return math.prod(self.dims[: self.lead]), math.prod(self.dims[self.lead :])


class Unit(NamedTuple):
    """A matrix to assign: the number of its leaf, and its index in the leaf's batch."""

    leaf: int
    index: int
    kind: Kind


class Round(NamedTuple):
    """The matrices that the owners of a pool work on at the same time.

    Attributes:
      route: of the pool.
      owners: the units of each owner; owners are ordered by replica, then matrix axes.
      repeats: the number of repetitions, each with the next units of the one leaf.
    """

    route: Route
    owners: tuple[tuple[Unit, ...], ...]
    repeats: int = 1

    @property
    def units(self) -> list[Unit]:
        """All units, by owner."""
        return [unit for units in self.owners for unit in units]

    @property
    def elements(self) -> int:
        """The number of elements that each owner receives from each device."""
        if self.route.shared:
            return math.prod(self.slot)
        return max(sum(math.prod(u.kind.dims) for u in units) for units in self.owners)

    @property
    def slot(self) -> tuple[int, int]:
        """The rows and columns that hold any piece of the round."""
        pieces = [unit.kind.piece for unit in self.units]
        return max(rows for rows, _ in pieces), max(columns for _, columns in pieces)


def route_of(leaf: Leaf, mesh: MeshShape) -> Route:
    """The mesh axes, longer than 1, of each part of a leaf.

    The axes of a matrix are in the order of the exchange: the trailing side's before
    the leading side's, so that an owner receives the matrix in column blocks.
    """
    lead, trail = _sides(leaf, mesh)
    stacked = leaf.axes.batch(len(leaf.shape))
    batch, along = (_mesh_axes(leaf, axes, mesh) for axes in (stacked, trail + lead))
    replica = (a for a in mesh if mesh[a] > 1 and a not in batch + along)
    matrix = tuple(axis for axis in along if axis not in leaf.shared)
    return Route(batch, matrix, tuple(replica), leaf.shared)


def order_of(leaf: Leaf, mesh: MeshShape) -> tuple[int, ...]:
    """The axes of a leaf: its batch, then the side that leads, then the other."""
    lead, trail = _sides(leaf, mesh)
    return leaf.axes.batch(len(leaf.shape)) + lead + trail


def kind_of(leaf: Leaf, mesh: MeshShape, equivariant: bool) -> Kind:
    """The kind of a leaf's matrices.

    Args:
      leaf: the parameter.
      mesh: the size of each mesh axis.
      equivariant: whether a matrix may be replaced by its transpose.
    """
    lead, trail = _sides(leaf, mesh)
    order = lead + trail
    cut = None
    if leaf.axes.split is not None:
        cut = order.index(leaf.axes.split.axis), leaf.axes.split.sizes
    return Kind(
        tuple(_local(leaf.shape[i], leaf.spec[i], mesh) for i in order),
        tuple(tuple(a for a in leaf.spec[i] if mesh[a] > 1) for i in order),
        len(lead),
        None if equivariant else lead == leaf.axes.fan_out,
        cut,
        leaf.dtypes,
        leaf.axes.rows_beside,
    )


def whole_dims(kind: Kind, mesh: MeshShape) -> tuple[int, ...]:
    """The lengths of the axes of the whole matrix, the leading side's first."""
    pairs = zip(kind.dims, kind.sharded, strict=True)
    return tuple(d * mesh_size(axes, mesh) for d, axes in pairs)


def block_dims(kind: Kind, mesh: MeshShape) -> list[tuple[int, ...]]:
    """`whole_dims` of each block of a fused leaf, or of the one matrix."""
    whole = whole_dims(kind, mesh)
    if kind.cut is None:
        return [whole]
    axis, sizes = kind.cut
    return [(*whole[:axis], n, *whole[axis + 1 :]) for n in sizes]


def block_shapes(kind: Kind, mesh: MeshShape) -> list[tuple[int, int]]:
    """The shape of each block as its owner receives it."""
    lead = kind.lead
    shapes = [
        (math.prod(x[:lead]), math.prod(x[lead:])) for x in block_dims(kind, mesh)
    ]
    return [(n, m) if kind.fan_out_leads else (m, n) for m, n in shapes]


def stack_names(kind: Kind, mesh: MeshShape) -> list[str]:
    """The name of the stack for each block of a matrix.

    Examples:
      >>> kind = Kind((4, 6), ((), ()), 1, False, None, ("bfloat16",))
      >>> stack_names(kind, {})
      ['4x6_bfloat16']
    """
    dtype = "" if kind.dtypes[0] == "float32" else f"_{kind.dtypes[0]}"
    bias = "_bias" if kind.rows_beside else ""
    return [f"{m}x{n}{dtype}{bias}" for m, n in block_shapes(kind, mesh)]


def column_blocks(kind: Kind, shared: Axes, mesh: MeshShape) -> int:
    """The number of column blocks in which a device receives a matrix.

    Args:
      kind: of the matrix.
      shared: the mesh axes along which no piece is exchanged.
      mesh: the size of each mesh axis.
    """
    trailing = [axis for axes in kind.sharded[kind.lead :] for axis in axes]
    return mesh_size([axis for axis in trailing if axis not in shared], mesh)


def shared_along(leaf: Leaf, axes: Axes, mesh: MeshShape) -> Leaf:
    """The leaf, shared along mesh axes if its longer side is sharded over all of them.

    Fused leaves are not shared: devices would have parts of different matrices.
    """
    axes = tuple(axis for axis in axes if mesh[axis] > 1)
    lengths = leaf.axes.matrix_shape(leaf.shape)
    if not axes or leaf.axes.split is not None or not min(lengths):
        return leaf
    sides = leaf.axes.fan_in, leaf.axes.fan_out
    for side, length in zip(sides, lengths, strict=True):
        along = {axis for i in side for axis in leaf.spec[i]}
        if set(axes) <= along and length == max(lengths):
            return leaf._replace(shared=axes)
    return leaf


def local_shape(leaf: Leaf, mesh: MeshShape) -> tuple[int, ...]:
    """The shape of a leaf on one device."""
    pairs = zip(leaf.shape, leaf.spec, strict=True)
    return tuple(_local(length, axes, mesh) for length, axes in pairs)


def local_batch(leaf: Leaf, mesh: MeshShape) -> int:
    """The number of matrices of a leaf of which a device has a piece."""
    shape = local_shape(leaf, mesh)
    return math.prod(shape[i] for i in leaf.axes.batch(len(shape)))


def mesh_size(axes: Sequence[str], mesh: MeshShape) -> int:
    """The number of devices along mesh axes."""
    return math.prod(mesh[axis] for axis in axes)


def _sides(leaf: Leaf, mesh: MeshShape) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """The side that leads, and the other.

    Where one side is sharded it leads, and an owner receives whole rows. Where both
    are the shorter leads, and an owner receives blocks of columns of a wide matrix; of
    a square one, the side with the first mesh axis leads, so that squares are of one
    kind. The side that several devices share never leads.
    """
    fan_in, fan_out = leaf.axes.fan_in, leaf.axes.fan_out
    along = [_mesh_axes(leaf, side, mesh) for side in (fan_in, fan_out)]
    lengths = leaf.axes.matrix_shape(leaf.shape)
    if leaf.shared:
        swapped = leaf.shared[0] in along[0]
    elif not along[0] or not along[1]:
        swapped = bool(along[1])
    elif lengths[0] == lengths[1]:
        order = list(mesh)
        swapped = order.index(along[1][0]) < order.index(along[0][0])
    else:
        swapped = lengths[1] < lengths[0]
    return (fan_out, fan_in) if swapped else (fan_in, fan_out)


def _mesh_axes(leaf: Leaf, axes: Sequence[int], mesh: MeshShape) -> Axes:
    """The mesh axes, longer than 1, of some axes of a leaf."""
    return tuple(a for i in axes for a in leaf.spec[i] if mesh[a] > 1)


def _local(length: int, axes: Axes, mesh: MeshShape) -> int:
    return length // mesh_size(axes, mesh)
