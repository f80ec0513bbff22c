"""The cost of a sharded optimizer, before a device is bought."""

from optax_ortho.planning.cost import Cost as Cost
from optax_ortho.planning.cost import OwnedMatrix as OwnedMatrix
from optax_ortho.planning.cost import RoundCost as RoundCost
from optax_ortho.planning.plans import Plan as Plan
from optax_ortho.planning.plans import plan as plan

__all__ = ["Cost", "OwnedMatrix", "Plan", "RoundCost", "plan"]
