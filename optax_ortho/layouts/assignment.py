"""Assignment of matrices to owners and rounds, and of their states to slots.

In a round of whole matrices every owner receives the same number of elements. Shared
matrices are assigned one to an owner and round: their owners are groups of devices that
run one program, so a matrix is padded with zeros to the largest of its round.
"""

import heapq
import itertools
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from optax_ortho.layouts.geometry import (
    Axes,
    Kind,
    Leaf,
    MeshShape,
    Round,
    Route,
    Unit,
    kind_of,
    local_batch,
    local_shape,
    mesh_size,
    route_of,
    stack_names,
)

Assigned = tuple[tuple[Unit, ...], ...]
"""The units of each owner."""


def rounds(
    leaves: Sequence[Leaf], mesh: MeshShape, equivariant: bool, at_once: int
) -> tuple[Round, ...]:
    """The rounds for the matrices of some leaves.

    As many rounds as possible give every owner the same kinds of matrices. The rest are
    assigned greedily, the largest first, each to the owner with the fewest elements so
    far; full rounds are merged into the rest while that reduces its padding.

    Args:
      leaves: the parameters.
      mesh: the size of each mesh axis.
      equivariant: whether a matrix may be replaced by its transpose.
      at_once: the largest number of elements of small matrices in a round of an owner.

    Returns:
      The rounds, largest matrices first.
    """
    pools: dict[Route, list[Unit]] = {}
    for number, leaf in enumerate(leaves):
        kind = kind_of(leaf, mesh, equivariant)
        units = [Unit(number, i, kind) for i in range(local_batch(leaf, mesh))]
        pools.setdefault(route_of(leaf, mesh), []).extend(units)
    plan: list[Round] = []
    for route, units in pools.items():
        owners = mesh_size(route.pool, mesh)
        if route.shared:
            plan += _shared_rounds(route, units, owners)
        else:
            plan += _whole_rounds(route, units, owners, at_once)
    return tuple(sorted(plan, key=lambda r: -r.elements))


def slots_of(round_: Round, mesh: MeshShape) -> Counter[str]:
    """The number of slots that a round needs in each stack, on every device."""
    most: Counter[str] = Counter()
    for units in round_.owners:
        names = [name for unit in units for name in stack_names(unit.kind, mesh)]
        most |= Counter(names)
    return Counter({name: n * round_.repeats for name, n in most.items()})


class StoredMatrix(NamedTuple):
    """A matrix by the number of its leaf, its index in the batch, and its block."""

    leaf: int
    index: int
    block: int


class Occupancy(NamedTuple):
    """The matrix in each slot.

    Attributes:
      leaves: the parameters.
      by_device: for each stack, for each device (in the order of the mesh, major axis
        first) and slot, the matrix there, or None.
    """

    leaves: tuple[Leaf, ...]
    by_device: dict[str, list[list[StoredMatrix | None]]]

    def rows(self, name: str) -> list[StoredMatrix | None]:
        """The matrix in each row of a stack of all owners."""
        return list(itertools.chain(*self.by_device[name]))


def occupancy(
    plan: Sequence[Round], leaves: Sequence[Leaf], mesh: MeshShape
) -> Occupancy:
    """The matrix in each slot, by the rounds of a plan.

    Args:
      plan: the rounds.
      leaves: the parameters.
      mesh: the size of each mesh axis.
    """
    by_device: dict[str, list[list[StoredMatrix | None]]] = {}
    for position in itertools.product(*(range(n) for n in mesh.values())):
        device = dict(zip(mesh, position, strict=True))
        slots: dict[str, list[StoredMatrix | None]] = {}
        for round_ in plan:
            for name, row in _slots_of_device(round_, leaves, mesh, device).items():
                slots.setdefault(name, []).extend(row)
        for name, row in slots.items():
            by_device.setdefault(name, []).append(row)
    return Occupancy(tuple(leaves), by_device)


def _shared_rounds(route: Route, units: Sequence[Unit], owners: int) -> list[Round]:
    """Rounds with one matrix for each owner, the largest first."""
    plan: list[Round] = []
    # All matrices of one program arrive in the same number of column blocks.
    alike: dict[Axes, list[Unit]] = {}
    for stack in _by_leaf(units):
        repeated, rest = _repeated(route, stack, owners, owners)
        plan += repeated
        if rest:
            kind = rest[0].kind
            along = tuple(a for axes in kind.sharded[kind.lead :] for a in axes)
            alike.setdefault(along, []).extend(rest)
    for same in alike.values():
        same = sorted(same, key=_largest_first)
        for i in range(0, len(same), owners):
            assigned = [(unit,) for unit in same[i : i + owners]]
            assigned += [()] * (owners - len(assigned))
            plan.append(Round(route, tuple(assigned)))
    return plan


def _whole_rounds(
    route: Route, units: Sequence[Unit], owners: int, at_once: int
) -> list[Round]:
    """Rounds in which all owners receive the same number of elements, if possible."""
    plan: list[Round] = []
    kinds: dict[Kind, list[Unit]] = {}
    for stack in _by_leaf(units):
        size = _units_each(stack, owners, at_once) * owners
        repeated, rest = _repeated(route, stack, size, owners)
        plan += repeated
        kinds.setdefault(stack[0].kind, []).extend(rest)
    full, rest = [], []
    for same in kinds.values():
        remaining = len(same) // owners * owners
        while remaining:
            size = _units_each(same[:remaining], owners, at_once) * owners
            full.append(Round(route, _dealt(same[:size], owners)))
            same, remaining = same[size:], remaining - size
        rest += same
    assigned, merged = _balanced(rest, full, owners)
    plan += [round_ for i, round_ in enumerate(full) if i not in merged]
    return [*plan, Round(route, assigned)] if any(assigned) else plan


def _by_leaf(units: Sequence[Unit]) -> list[list[Unit]]:
    """The units of each leaf."""
    leaves: dict[int, list[Unit]] = {}
    for unit in units:
        leaves.setdefault(unit.leaf, []).append(unit)
    return list(leaves.values())


def _repeated(
    route: Route, stack: list[Unit], size: int, owners: int
) -> tuple[list[Round], list[Unit]]:
    """One repeated round for the units of a leaf that fill several, and the rest."""
    repeats = len(stack) // size
    if repeats < 2:
        return [], stack
    return [Round(route, _dealt(stack[:size], owners), repeats)], stack[
        repeats * size :
    ]


def _units_each(same: Sequence[Unit], owners: int, at_once: int) -> int:
    """The number of units of one kind that each owner gets in a round."""
    per_unit = max(_elements(same[:1]) * owners, 1)
    return max(min(at_once // per_unit, len(same) // owners), 1)


def _dealt(units: Sequence[Unit], owners: int) -> Assigned:
    """The same number of units for each owner."""
    each = len(units) // owners
    return tuple(tuple(units[i * each : (i + 1) * each]) for i in range(owners))


def _balanced(
    rest: list[Unit], full: Sequence[Round], owners: int
) -> tuple[Assigned, set[int]]:
    """Greedy assignment of the rest, and the numbers of full rounds merged into it."""
    merged: set[int] = set()
    best, padding = _greedy(rest, owners)
    while padding:
        # Of rounds with the same units for each owner, one trial serves for all.
        alike: dict[tuple[Kind, int], int] = {}
        for i, round_ in enumerate(full):
            if i not in merged:
                first = round_.owners[0]
                alike.setdefault((first[0].kind, len(first)), i)
        trials = {i: _greedy([*rest, *full[i].units], owners) for i in alike.values()}
        if not trials:
            break
        i = min(trials, key=lambda i: (trials[i][1], full[i].elements))
        if trials[i][1] >= padding:
            break
        merged.add(i)
        rest = [*rest, *full[i].units]
        best, padding = trials[i]
    return best, merged


def _greedy(units: Sequence[Unit], owners: int) -> tuple[Assigned, int]:
    """Each unit, the largest first, to the owner with the fewest elements so far.

    Returns:
      The units of each owner, and the total padding in elements.
    """
    assigned: list[list[Unit]] = [[] for _ in range(owners)]
    heap = [(0, i) for i in range(owners)]
    for unit in sorted(units, key=_largest_first):
        size, i = heap[0]
        assigned[i].append(unit)
        heapq.heapreplace(heap, (size + _elements([unit]), i))
    sizes = [size for size, _ in heap]
    return tuple(map(tuple, assigned)), max(sizes) * owners - sum(sizes)


def _largest_first(unit: Unit) -> tuple[int, tuple[int, ...]]:
    return -_elements([unit]), unit.kind.dims


def _elements(units: Sequence[Unit]) -> int:
    return sum(math.prod(unit.kind.dims) for unit in units)


def _slots_of_device(
    round_: Round, leaves: Sequence[Leaf], mesh: MeshShape, device: Mapping[str, int]
) -> dict[str, list[StoredMatrix | None]]:
    """The matrix in each slot of a round on the device at a position of the mesh."""
    pool = round_.route.pool
    sizes = [mesh[axis] for axis in pool]
    owner = np.ravel_multi_index([device[axis] for axis in pool], sizes) if pool else 0
    room = {name: n // round_.repeats for name, n in slots_of(round_, mesh).items()}
    slots: dict[str, list[StoredMatrix | None]] = {name: [] for name in room}
    for turn in range(round_.repeats):
        used: Counter[str] = Counter()
        for unit in round_.owners[owner]:
            leaf = leaves[unit.leaf]
            local = unit.index + turn * len(round_.units)
            index = _global_index(leaf, mesh, device, local)
            names = stack_names(kind_of(leaf, mesh, equivariant=False), mesh)
            for block, name in enumerate(names):
                slots[name].append(StoredMatrix(unit.leaf, index, block))
                used[name] += 1
        for name, n in room.items():
            slots[name] += [None] * (n - used[name])
    return slots


def _global_index(
    leaf: Leaf, mesh: MeshShape, device: Mapping[str, int], local: int
) -> int:
    """The index in a leaf's batch of the matrix at an index on one device."""
    axes = leaf.axes.batch(len(leaf.shape))
    if not axes:
        return 0
    lengths = [local_shape(leaf, mesh)[i] for i in axes]
    indices = []
    for i, n, j in zip(axes, lengths, np.unravel_index(local, lengths), strict=True):
        shard = 0
        for axis in leaf.spec[i]:
            shard = shard * mesh[axis] + device[axis]
        indices.append(shard * n + int(j))
    return int(np.ravel_multi_index(indices, [leaf.shape[i] for i in axes]))
