"""Optimizer states saved as plain arrays, moved, converted and exported.

A state is a pytree of arrays, so any checkpointer that restores into a target can save
it: Orbax, `flax.serialization`, pickle. This package does what they do not do.
"""

from optax_ortho.checkpoints.export import register_for_export as register_for_export
from optax_ortho.checkpoints.fit import check_state as check_state
from optax_ortho.checkpoints.flat import FORMAT as FORMAT
from optax_ortho.checkpoints.flat import from_flat as from_flat
from optax_ortho.checkpoints.flat import to_flat as to_flat
from optax_ortho.checkpoints.from_optax import from_optax as from_optax
from optax_ortho.checkpoints.move import move_state as move_state
from optax_ortho.checkpoints.regroup import regroup as regroup
from optax_ortho.checkpoints.scanned import stack_layers as stack_layers
from optax_ortho.checkpoints.scanned import unstack_layers as unstack_layers

__all__ = [
    "FORMAT",
    "check_state",
    "from_flat",
    "from_optax",
    "move_state",
    "register_for_export",
    "regroup",
    "stack_layers",
    "to_flat",
    "unstack_layers",
]
