"""The cost of a plan on each device: bytes sent, work, and the memory of a round."""

import dataclasses
import math
from collections import Counter
from collections.abc import Callable, Sequence
from typing import NamedTuple

from optax_ortho.layouts.assignment import rounds
from optax_ortho.layouts.geometry import (
    Kind,
    Leaf,
    MeshShape,
    Round,
    Unit,
    block_shapes,
    column_blocks,
    mesh_size,
)
from optax_ortho.tables import aligned

FlopsOf = Callable[[int, int], float]
"""The work on one ``m x n`` matrix."""

SharedCost = Callable[[int, int, int], tuple[float, float]]
"""FLOPs, and bytes sent, of each of some devices that share an ``m x n`` matrix."""


class OwnedMatrix(NamedTuple):
    """A matrix, and the work of its owner on it.

    Attributes:
      path: of its leaf.
      index: which matrix of the leaf it is, on the devices of its owner's pool.
      shape: as it prints.
      flops: of each device that works on it.
    """

    path: str
    index: int
    shape: str
    flops: float


class RoundCost(NamedTuple):
    """One round (as often as it repeats), for each device.

    Attributes:
      matrices: how many matrices of what shape all owners of a pool have, with the
        largest first.
      along: the mesh axes of the pool.
      shared: the mesh axes whose devices share each matrix.
      repeats: how often.
      wire_bytes: what a device sends, there and back, and to share matrices.
      flops: the work of the busiest owner.
      owners: what each owner works on the first time. Each repeat is on as many further
        matrices of the one leaf there is.
    """

    matrices: tuple[tuple[int, str], ...]
    along: tuple[str, ...]
    shared: tuple[str, ...]
    repeats: int
    wire_bytes: float
    flops: float
    owners: tuple[tuple[OwnedMatrix, ...], ...]


@dataclasses.dataclass(frozen=True)
class Cost:
    """The cost of the matrices of an optimizer a step, on each device.

    Attributes:
      rounds: the cost of each round, in their order.
      wire_bytes: what a device sends in a step.
      floor_bytes: what it would send if no owner received padding, and nothing were
        sent to share matrices: every matrix there and back once.
      flops: the work of the busiest owner of every round.
      ideal_flops: all work over all devices.
      round_bytes: the largest exchange buffer.
      gradients: whether gradients are counted. Where owners average them, they send the
        same bytes as without an optimizer, and are not.
    """

    rounds: tuple[RoundCost, ...]
    wire_bytes: float
    floor_bytes: float
    flops: float
    ideal_flops: float
    round_bytes: float
    gradients: bool = True

    def __str__(self) -> str:
        table = aligned(
            ("matrices", "along", "times", "wire MB", "GFLOP"),
            [
                (
                    ", ".join(f"{n} of {shape}" for n, shape in round_.matrices),
                    _places(round_),
                    round_.repeats,
                    f"{round_.wire_bytes / 1e6:.2f}",
                    f"{round_.flops / 1e9:.2f}",
                )
                for round_ in self.rounds
            ],
            right=(2, 3, 4),
        )
        wire, floor = self.wire_bytes / 1e6, self.floor_bytes / 1e6
        makespan = self.flops / max(self.ideal_flops, 1)
        what = "" if self.gradients else " of updates"
        return (
            f"{table}\n\n"
            f"Each device sends {wire:.2f} MB{what} a step (at least {floor:.2f}), and "
            f"the busiest\ndoes {self.flops / 1e9:.2f} GFLOP, {makespan:.2f} of an "
            f"even share. A round exchanges up to {self.round_bytes / 1e6:.1f} MB."
        )


def cost(
    leaves: Sequence[Leaf],
    mesh: MeshShape,
    flops: FlopsOf,
    equivariant: bool,
    at_once: int,
    wire: int,
    shared: SharedCost | None = None,
    gradients: bool = True,
) -> Cost:
    """The cost of the rounds of some leaves.

    Args:
      leaves: the parameters.
      mesh: the size of each mesh axis.
      flops: of a whole matrix.
      equivariant: whether a matrix may be replaced by its transpose.
      at_once: as in `assignment.rounds`.
      wire: the bytes of an element on its way.
      shared: of a shared matrix, where there is any.
      gradients: as in `Cost`.

    Returns:
      The cost for each device.
    """
    plan = rounds(leaves, mesh, equivariant, at_once)
    paths = [leaf.path for leaf in leaves]
    ways = 1 + gradients
    costs = [
        _cost_of_round(round_, paths, mesh, flops, wire, ways, shared)
        for round_ in plan
    ]
    floor, ideal = 0.0, 0.0
    for round_ in plan:
        owners = len(round_.owners)
        units = [unit for share in round_.owners for unit in share]
        elements = sum(math.prod(unit.kind.dims) for unit in units) / owners
        floor += round_.repeats * _sent(round_, elements, mesh, ways) * wire
        work = sum(_flops(unit, mesh, flops) for unit in units)
        ideal += round_.repeats * work / (owners * mesh_size(round_.route.shared, mesh))
    return Cost(
        tuple(costs),
        sum(round_.wire_bytes for round_ in costs),
        floor,
        sum(round_.flops for round_ in costs),
        ideal,
        max(
            (
                mesh_size(round_.route.matrix, mesh) * round_.elements * wire
                for round_ in plan
            ),
            default=0,
        ),
        gradients,
    )


def _cost_of_round(
    round_: Round,
    paths: Sequence[str],
    mesh: MeshShape,
    flops: FlopsOf,
    wire: int,
    ways: int,
    shared: SharedCost | None,
) -> RoundCost:
    units = [unit for share in round_.owners for unit in share]
    shapes = Counter(_name(unit.kind, mesh) for unit in units)
    along = round_.route.shared
    sent = _sent(round_, round_.elements, mesh, ways) * wire
    together = 0.0
    if along:
        assert shared is not None
        blocks = column_blocks(units[0].kind, (), mesh)
        rows, columns = round_.slot
        m = rows * mesh_size(round_.route.matrix + along, mesh) // blocks
        together, more = shared(m, columns * blocks, mesh_size(along, mesh))
        sent += more

    def owned(unit: Unit) -> OwnedMatrix:
        work = together or _flops(unit, mesh, flops)
        return OwnedMatrix(paths[unit.leaf], unit.index, _name(unit.kind, mesh), work)

    owners = tuple(tuple(map(owned, share)) for share in round_.owners)
    busiest = max(sum(x.flops for x in share) for share in owners)
    return RoundCost(
        tuple((n * round_.repeats, shape) for shape, n in shapes.most_common()),
        round_.route.replica + round_.route.matrix,
        along,
        round_.repeats,
        round_.repeats * sent,
        round_.repeats * busiest,
        owners,
    )


def _sent(round_: Round, elements: float, mesh: MeshShape, ways: int) -> float:
    """The number of elements a device sends, each owner receiving `elements` of it."""
    pieces, replicas = (
        mesh_size(x, mesh) for x in (round_.route.matrix, round_.route.replica)
    )
    exchanged = ways * (pieces - 1) * elements
    gathered = (replicas - 1) * pieces * elements
    return exchanged + gathered


def _flops(unit: Unit, mesh: MeshShape, flops: FlopsOf) -> float:
    return sum(flops(m, n) for m, n in block_shapes(unit.kind, mesh))


def _places(round_: RoundCost) -> str:
    """Along which mesh axes the owners are, and along which each is several devices."""
    places = " x ".join(round_.along) or "-"
    return (
        f"{places}, shared by {' x '.join(round_.shared)}" if round_.shared else places
    )


def _name(kind: Kind, mesh: MeshShape) -> str:
    return " + ".join(f"{m}x{n}" for m, n in block_shapes(kind, mesh))
