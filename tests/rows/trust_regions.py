"""Fourth stages that look at more than a shape.

What divides or limits the step of all leaves together cannot leave the step of one leaf
alone when another is masked, as the contract asks; `tests/trust_region` has the rest.
"""

import jax
import jax.numpy as jnp

from optax_ortho import momentum, ortho_chain, trust_region
from tests.rows.row import axes, direction


def logits(params):
    """Three logits, of any leaves."""
    total = sum(jnp.sum(x.astype(jnp.float32)) for x in jax.tree.leaves(params))
    return total * jnp.array([[1.0, 0.0, -1.0]])


ROWS = [
    direction(
        "chain_of_normalized",
        ortho_chain,
        {"variant": True},  # It is the last stage of NorMuon.
        momentum=momentum.ema(0.9),
        trust_region=trust_region.normalized("matrix", axes=axes),
    ),
    direction(
        "softmax_radius",
        trust_region.softmax_radius,
        {"matrices": (), "extra": {"logits_fn": logits}},
        r_target=1e6,  # It measures the step, and does not shorten it.
    ),
    direction(
        "confidence_radius",
        trust_region.confidence_radius,
        {"matrices": (), "extra": {"logits_fn": lambda params: jnp.arange(4.0)}},
    ),
]
