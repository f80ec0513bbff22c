"""What a plan costs on each device: bytes sent, work, and the memory of a round."""

import dataclasses
import math
from collections import Counter
from collections.abc import Callable, Sequence
from typing import NamedTuple

from optax_ortho.layouts.pieces import block_shapes
from optax_ortho.layouts.plan import Kind, Leaf, MeshShape, Round, Unit, rounds
from optax_ortho.tables import aligned

FlopsOf = Callable[[int, int], float]


class RoundCost(NamedTuple):
    """One round (as often as it repeats), for each device.

    Attributes:
      matrices: how many matrices of what shape all owners of a pool have, with the
        largest first.
      along: the mesh axes of the pool.
      repeats: how often.
      wire_bytes: what a device sends, there and back.
      flops: the work of the busiest owner.
    """

    matrices: tuple[tuple[int, str], ...]
    along: tuple[str, ...]
    repeats: int
    wire_bytes: float
    flops: float


@dataclasses.dataclass(frozen=True)
class Cost:
    """What the matrices of an optimizer cost a step, on each device.

    Attributes:
      rounds: the cost of each round, in their order.
      wire_bytes: what a device sends in a step.
      floor_bytes: what it would send if no owner received padding: every matrix there
        and back once.
      flops: the work of the busiest owner of every round.
      ideal_flops: all work over all devices.
      round_bytes: the largest exchange buffer.
    """

    rounds: tuple[RoundCost, ...]
    wire_bytes: float
    floor_bytes: float
    flops: float
    ideal_flops: float
    round_bytes: float

    def __str__(self) -> str:
        table = aligned(
            ("matrices", "along", "times", "wire MB", "GFLOP"),
            [
                (
                    ", ".join(f"{n} of {shape}" for n, shape in one.matrices),
                    " x ".join(one.along) or "-",
                    one.repeats,
                    f"{one.wire_bytes / 1e6:.2f}",
                    f"{one.flops / 1e9:.2f}",
                )
                for one in self.rounds
            ],
            right=(2, 3, 4),
        )
        wire, floor = self.wire_bytes / 1e6, self.floor_bytes / 1e6
        makespan = self.flops / max(self.ideal_flops, 1)
        return (
            f"{table}\n\n"
            f"Each device sends {wire:.2f} MB a step (at least {floor:.2f}), and the "
            f"busiest\ndoes {self.flops / 1e9:.2f} GFLOP, {makespan:.2f} of an even "
            f"share. A round exchanges up to {self.round_bytes / 1e6:.1f} MB."
        )


def cost(
    leaves: Sequence[Leaf],
    mesh: MeshShape,
    flops: FlopsOf,
    equivariant: bool,
    at_once: int,
    wire: int,
) -> Cost:
    """The cost of the rounds of some leaves.

    Args:
      leaves: the parameters.
      mesh: the size of each mesh axis.
      flops: the work on one ``m x n`` matrix.
      equivariant: whether a matrix may be replaced by its transpose.
      at_once: as in `plan.rounds`.
      wire: the bytes of an element on its way.

    Returns:
      The cost for each device.
    """
    plan = rounds(leaves, mesh, equivariant, at_once)
    costs = [_cost_of_round(one, mesh, flops, wire) for one in plan]
    floor, ideal = 0.0, 0.0
    for one in plan:
        owners = len(one.owners)
        units = [unit for share in one.owners for unit in share]
        elements = sum(math.prod(unit.kind.dims) for unit in units) / owners
        floor += one.repeats * _sent(one, elements, mesh) * wire
        work = sum(_flops(unit, mesh, flops) for unit in units)
        ideal += one.repeats * work / owners
    return Cost(
        tuple(costs),
        sum(one.wire_bytes for one in costs),
        floor,
        sum(one.flops for one in costs),
        ideal,
        max((_pieces(one, mesh) * one.elements * wire for one in plan), default=0),
    )


def _cost_of_round(one: Round, mesh: MeshShape, flops: FlopsOf, wire: int) -> RoundCost:
    units = [unit for share in one.owners for unit in share]
    shapes = Counter(_name(unit.kind, mesh) for unit in units)
    busiest = max(sum(_flops(u, mesh, flops) for u in share) for share in one.owners)
    return RoundCost(
        tuple((n * one.repeats, shape) for shape, n in shapes.most_common()),
        one.route.replica + one.route.matrix,
        one.repeats,
        one.repeats * _sent(one, one.elements, mesh) * wire,
        one.repeats * busiest,
    )


def _sent(one: Round, elements: float, mesh: MeshShape) -> float:
    """Elements a device sends where each owner gets so many from each device."""
    pieces, replicas = _pieces(one, mesh), 1
    for axis in one.route.replica:
        replicas *= mesh[axis]
    exchanged = 2 * (pieces - 1) * elements
    gathered = (replicas - 1) * pieces * elements
    return exchanged + gathered


def _pieces(one: Round, mesh: MeshShape) -> int:
    return math.prod(mesh[axis] for axis in one.route.matrix)


def _flops(unit: Unit, mesh: MeshShape, flops: FlopsOf) -> float:
    return sum(flops(m, n) for m, n in block_shapes(unit.kind, mesh))


def _name(kind: Kind, mesh: MeshShape) -> str:
    return " + ".join(f"{m}x{n}" for m, n in block_shapes(kind, mesh))
