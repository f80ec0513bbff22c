"""Who orthogonalizes which matrix: arithmetic on shapes, without devices.

A leaf lies along three kinds of mesh axes: those of its batch axes, those of its
matrices, and those over which it is replicated. Along the first kind nobody needs
anybody. The devices along the other two are a pool: they share the matrices of all the
leaves that lie on the mesh in that way. Each matrix has one owner in its pool, and the
work goes in rounds, in which every owner receives the same number of elements.
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
    """

    path: str
    shape: tuple[int, ...]
    axes: MatrixAxes
    spec: tuple[Axes, ...]
    dtypes: tuple[str, ...]


class Route(NamedTuple):
    """The mesh axes of a leaf's batch, of its matrices, and of its replicas.

    Those of matrices go in the order in which pieces are exchanged.
    """

    batch: Axes
    matrix: Axes
    replica: Axes


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
        return max(map(_elements, self.owners))


def rounds(
    leaves: Sequence[Leaf], mesh: MeshShape, equivariant: bool, at_once: int
) -> tuple[Round, ...]:
    """The rounds in which the matrices of some leaves are worked on.

    As many rounds as possible give every owner the same kinds of matrices. What is left
    over goes to the owner with the fewest elements so far, longest first; whole rounds
    are taken back into that heap while it becomes more even.

    Args:
      leaves: the parameters.
      mesh: the size of each mesh axis.
      equivariant: whether a matrix may be replaced by its transpose.
      at_once: how many elements of small matrices an owner may receive together.

    Returns:
      The rounds, largest matrices first.
    """
    pools: dict[Route, list[Unit]] = {}
    for number, leaf in enumerate(leaves):
        kind = kind_of(leaf, mesh, equivariant)
        units = [Unit(number, i, kind) for i in range(local_batch(leaf, mesh))]
        pools.setdefault(route_of(leaf, mesh), []).extend(units)
    found = []
    for route, units in pools.items():
        found += _rounds_of_pool(route, units, pool_size(route, mesh), at_once)
    return tuple(sorted(found, key=lambda r: -r.elements))


def route_of(leaf: Leaf, mesh: MeshShape) -> Route:
    """Which mesh axes, of those longer than 1, lie along what of a leaf.

    Those of a matrix go in the order of the exchange: the trailing side's before the
    leading side's, so that what an owner receives is the matrix in column blocks.
    """
    lead, trail = _sides(leaf, mesh)
    stacked = leaf.axes.batch(len(leaf.shape))
    batch, matrix = (_along(leaf, axes, mesh) for axes in (stacked, trail + lead))
    real = [axis for axis in mesh if mesh[axis] > 1]
    return Route(batch, matrix, tuple(a for a in real if a not in batch + matrix))


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
    """
    fan_in, fan_out = leaf.axes.fan_in, leaf.axes.fan_out
    along = [_along(leaf, side, mesh) for side in (fan_in, fan_out)]
    lengths = leaf.axes.matrix_shape(leaf.shape)
    if not along[0] or not along[1]:
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
    """How many devices share the matrices of a route."""
    return math.prod(mesh[axis] for axis in route.replica + route.matrix)


def _local(length: int, axes: Axes, mesh: MeshShape) -> int:
    return length // math.prod(mesh[axis] for axis in axes)


def _elements(units: Sequence[Unit]) -> int:
    return sum(math.prod(unit.kind.dims) for unit in units)


def _rounds_of_pool(
    route: Route, units: list[Unit], owners: int, at_once: int
) -> list[Round]:
    stacks: dict[int, list[Unit]] = {}
    for unit in units:
        stacks.setdefault(unit.leaf, []).append(unit)
    found: list[Round] = []
    kinds: dict[Kind, list[Unit]] = {}
    for stack in stacks.values():
        kind, size = stack[0].kind, _each(stack, owners, at_once) * owners
        repeats = len(stack) // size
        if repeats > 1:
            found.append(Round(route, _dealt(stack[:size], owners), repeats))
            stack = stack[repeats * size :]
        kinds.setdefault(kind, []).extend(stack)
    even, heap = [], []
    for same in kinds.values():
        whole = len(same) // owners * owners
        while whole:
            each = _each(same[:whole], owners, at_once)
            size = each * owners
            even.append(Round(route, _dealt(same[:size], owners)))
            same, whole = same[size:], whole - size
        heap += same
    uneven, taken = _balanced(heap, even, owners)
    found += [one for i, one in enumerate(even) if i not in taken]
    return [*found, Round(route, uneven)] if any(uneven) else found


def _each(same: Sequence[Unit], owners: int, at_once: int) -> int:
    """How many of some units of one kind each owner gets in a round."""
    per_unit = max(_elements(same[:1]) * owners, 1)
    return max(min(at_once // per_unit, len(same) // owners), 1)


def _dealt(units: Sequence[Unit], owners: int) -> tuple[tuple[Unit, ...], ...]:
    each = len(units) // owners
    return tuple(tuple(units[i * each : (i + 1) * each]) for i in range(owners))


def _balanced(
    heap: list[Unit], even: Sequence[Round], owners: int
) -> tuple[tuple[tuple[Unit, ...], ...], set[int]]:
    """The heap by owner, and which even rounds were taken into it."""
    taken: set[int] = set()
    best = _longest_first(heap, owners)
    while _padding(best):
        trials = {
            i: _longest_first(
                [*heap, *(u for j in {*taken, i} for o in even[j].owners for u in o)],
                owners,
            )
            for i in range(len(even))
            if i not in taken
        }
        if not trials:
            break
        i = min(trials, key=lambda i: (_padding(trials[i]), even[i].elements))
        if _padding(trials[i]) >= _padding(best):
            break
        taken.add(i)
        best = trials[i]
    return best, taken


def _padding(shares: Sequence[Sequence[Unit]]) -> int:
    sizes = [_elements(share) for share in shares]
    return max(sizes) * len(sizes) - sum(sizes)


def _longest_first(units: Sequence[Unit], owners: int) -> tuple[tuple[Unit, ...], ...]:
    """Each unit to the owner with the least so far, the largest unit first."""
    shares: list[list[Unit]] = [[] for _ in range(owners)]
    sizes = [0] * owners
    for unit in sorted(units, key=lambda u: (-_elements([u]), u.kind.dims)):
        i = min(range(owners), key=sizes.__getitem__)
        shares[i].append(unit)
        sizes[i] += _elements([unit])
    return tuple(map(tuple, shares))
