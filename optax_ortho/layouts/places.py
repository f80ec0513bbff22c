"""Where every matrix of a plan has its state: which row of which stack."""

import itertools
from collections import Counter
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from optax_ortho.layouts.plan import Leaf, MeshShape, Round, kind_of, local_shape
from optax_ortho.layouts.rounds import slots
from optax_ortho.layouts.work import groups


class Place(NamedTuple):
    """A matrix: a leaf by its number, which of its batch, and which of its blocks."""

    leaf: int
    index: int
    block: int


class Placement(NamedTuple):
    """What the states of owners are, for who moves them to another mesh.

    Attributes:
      leaves: the parameters.
      rows: for each stack, what its rows are, of all devices.
    """

    leaves: tuple[Leaf, ...]
    rows: dict[str, list[Place | None]]


def placement(
    plan: Sequence[Round], leaves: Sequence[Leaf], mesh: MeshShape
) -> Placement:
    """What the stacks of a plan are; see `places`."""
    there = places(plan, leaves, mesh)
    rows = {name: list(itertools.chain(*found)) for name, found in there.items()}
    return Placement(tuple(leaves), rows)


def places(
    plan: Sequence[Round], leaves: Sequence[Leaf], mesh: MeshShape
) -> dict[str, list[list[Place | None]]]:
    """What lies where.

    Args:
      plan: the rounds.
      leaves: the parameters.
      mesh: the size of each mesh axis.

    Returns:
      For each group of matrices, by device (in the order of the mesh, major axis
      first) and slot, the matrix there, or None.
    """
    names = list(mesh)
    found: dict[str, list[list[Place | None]]] = {}
    for at in itertools.product(*(range(mesh[axis]) for axis in names)):
        here = dict(zip(names, at, strict=True))
        own: dict[str, list[Place | None]] = {}
        for one in plan:
            for name, row in _of_round(one, leaves, mesh, here).items():
                own.setdefault(name, []).extend(row)
        for name, row in own.items():
            found.setdefault(name, []).append(row)
    return found


def _of_round(
    one: Round, leaves: Sequence[Leaf], mesh: MeshShape, here: dict[str, int]
) -> dict[str, list[Place | None]]:
    pool = one.route.replica + one.route.matrix
    sizes = [mesh[axis] for axis in pool]
    owner = np.ravel_multi_index([here[axis] for axis in pool], sizes) if pool else 0
    room = {name: n // one.repeats for name, n in slots(one, mesh).items()}
    units = sum(map(len, one.owners))
    found: dict[str, list[Place | None]] = {name: [] for name in room}
    for turn in range(one.repeats):
        used = Counter()
        for unit in one.owners[owner]:
            leaf = leaves[unit.leaf]
            index = _global_index(leaf, mesh, here, unit.index + turn * units)
            for block, name in enumerate(groups(kind_of(leaf, mesh, False), mesh)):
                found[name].append(Place(unit.leaf, index, block))
                used[name] += 1
        for name, n in room.items():
            found[name] += [None] * (n - used[name])
    return found


def _global_index(leaf: Leaf, mesh: MeshShape, here: dict[str, int], index: int) -> int:
    """Which of all the matrices of a leaf is the given one of a device's."""
    axes = leaf.axes.batch(len(leaf.shape))
    local = [local_shape(leaf, mesh)[i] for i in axes]
    whole = [leaf.shape[i] for i in axes]
    if not axes:
        return 0
    found = []
    for i, n, j in zip(axes, local, np.unravel_index(index, local), strict=True):
        device = 0
        for axis in leaf.spec[i]:
            device = device * mesh[axis] + here[axis]
        found.append(device * n + int(j))
    return int(np.ravel_multi_index(found, whole))
