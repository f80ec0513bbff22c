"""Who orthogonalizes which matrix: arithmetic on shapes, without devices.

A leaf lies along three kinds of mesh axes: those of its batch axes, those of its
matrices, and those over which it is replicated. Along the first kind nobody needs
anybody. The devices along the other two are a pool: they share the matrices of all the
leaves that lie on the mesh in that way. Each matrix has one owner in its pool, and the
work goes in rounds; see `optax_ortho.layouts.dealing`.

Where mesh axes are shared, an owner is not one device but the devices along them.
"""

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from optax_ortho.matrices import MatrixAxes

Axes = tuple[str, ...]
MeshShape = Mapping[str, int]


class Leaf(NamedTuple):
    """A parameter, and how it lies on the mesh.

    Attributes:
      path: its path in the tree.
      shape: its global shape.
      axes: its resolved matrix axes.
      spec: the mesh axes along each of its axes, major first.
      dtypes: of the parameter, and of what is worked on in its place.
      shared: the mesh axes along which its matrices stay in columns; devices along
        them share the work on each.
    """

    path: str
    shape: tuple[int, ...]
    axes: MatrixAxes
    spec: tuple[Axes, ...]
    dtypes: tuple[str, ...]
    shared: Axes = ()


class Route(NamedTuple):
    """The mesh axes of a leaf's batch, of its matrices, and of its replicas.

    Those of matrices go in the order in which pieces are exchanged. Along `shared` no
    piece is: its devices share each matrix.
    """

    batch: Axes
    matrix: Axes
    replica: Axes
    shared: Axes = ()


class Kind(NamedTuple):
    """All that a program needs to know of a matrix; equal kinds share a program.

    Attributes:
      dims: the lengths on one device of the matrix's axes, the leading side's first.
      sharded: the mesh axes along each of `dims`.
      lead: how many of `dims` are the leading side's.
      fan_out_leads: whether fan_out leads; None where that makes no difference.
      cut: along which of `dims`, and into which lengths, a fused leaf is cut.
      dtypes: those of the leaf.
    """

    dims: tuple[int, ...]
    sharded: tuple[Axes, ...]
    lead: int
    fan_out_leads: bool | None
    cut: tuple[int, tuple[int, ...]] | None
    dtypes: tuple[str, ...]

    @property
    def piece(self) -> tuple[int, int]:
        """What one device holds, as rows and columns."""
        return math.prod(self.dims[: self.lead]), math.prod(self.dims[self.lead :])


class Unit(NamedTuple):
    """A matrix to be owned: a leaf by its number, and which of its batch."""

    leaf: int
    index: int
    kind: Kind


class Round(NamedTuple):
    """What each owner of a pool works on at a time.

    Attributes:
      route: of the pool.
      owners: the units of each owner; owners go by replica first, then by matrix axes.
      repeats: how many times, each time with the next units of the one leaf there is.
    """

    route: Route
    owners: tuple[tuple[Unit, ...], ...]
    repeats: int = 1

    @property
    def elements(self) -> int:
        """How many elements each owner receives from each device."""
        if self.route.shared:
            return math.prod(self.slot)
        return max(sum(math.prod(u.kind.dims) for u in share) for share in self.owners)

    @property
    def slot(self) -> tuple[int, int]:
        """The rows and columns that hold any piece of the round."""
        pieces = [unit.kind.piece for share in self.owners for unit in share]
        return max(rows for rows, _ in pieces), max(columns for _, columns in pieces)


def route_of(leaf: Leaf, mesh: MeshShape) -> Route:
    """Which mesh axes, of those longer than 1, lie along what of a leaf.

    Those of a matrix go in the order of the exchange: the trailing side's before the
    leading side's, so that what an owner receives is the matrix in column blocks.
    """
    lead, trail = _sides(leaf, mesh)
    stacked = leaf.axes.batch(len(leaf.shape))
    batch, along = (_along(leaf, axes, mesh) for axes in (stacked, trail + lead))
    replica = (a for a in mesh if mesh[a] > 1 and a not in batch + along)
    matrix = tuple(axis for axis in along if axis not in leaf.shared)
    return Route(batch, matrix, tuple(replica), leaf.shared)


def order_of(leaf: Leaf, mesh: MeshShape) -> tuple[int, ...]:
    """The axes of a leaf: its batch, then the side that leads, then the other."""
    lead, trail = _sides(leaf, mesh)
    return leaf.axes.batch(len(leaf.shape)) + lead + trail


def kind_of(leaf: Leaf, mesh: MeshShape, equivariant: bool) -> Kind:
    """What kind of matrix a leaf holds."""
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
    )


def _sides(leaf: Leaf, mesh: MeshShape) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """The side that leads, and the other.

    Where one side is sharded it leads, and an owner receives whole rows. Where both
    are the shorter leads, and an owner receives blocks of columns of a wide matrix; of
    a square one, the side along the first mesh axis, so that squares go with the rest.
    The side that several devices share never leads.
    """
    fan_in, fan_out = leaf.axes.fan_in, leaf.axes.fan_out
    along = [_along(leaf, side, mesh) for side in (fan_in, fan_out)]
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


def _along(leaf: Leaf, axes: Sequence[int], mesh: MeshShape) -> Axes:
    """The mesh axes, of those longer than 1, along some axes of a leaf."""
    return tuple(a for i in axes for a in leaf.spec[i] if mesh[a] > 1)


def local_shape(leaf: Leaf, mesh: MeshShape) -> tuple[int, ...]:
    """The shape of a leaf on one device."""
    pairs = zip(leaf.shape, leaf.spec, strict=True)
    return tuple(_local(length, axes, mesh) for length, axes in pairs)


def local_batch(leaf: Leaf, mesh: MeshShape) -> int:
    """How many matrices of a leaf a device has a piece of."""
    shape = local_shape(leaf, mesh)
    return math.prod(shape[i] for i in leaf.axes.batch(len(shape)))


def pool_size(route: Route, mesh: MeshShape) -> int:
    """How many owners the matrices of a route have."""
    return math.prod(mesh[axis] for axis in route.replica + route.matrix)


def _local(length: int, axes: Axes, mesh: MeshShape) -> int:
    return length // math.prod(mesh[axis] for axis in axes)
