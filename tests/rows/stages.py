"""Single stages in a chain, and a frame."""

from typing import Any

import jax
import jax.numpy as jnp
import optax

import optax_ortho
from optax_ortho import momentum, ortho_chain, orthogonalize, trust_region
from tests.rows.row import ONE_STEP, Row, axes, direction


def transposed(tree: Any, state: Any) -> Any:
    return jax.tree.map(lambda x: x.mT, tree)


COUNTED_TRANSPOSE = optax_ortho.Frame(
    init=lambda params: jnp.zeros([], jnp.int32),
    update=lambda updates, state, params, **extra: state + 1,
    enter=transposed,
    leave=transposed,
)


def stage(name: str, factory: Any, row: Any = None, **arguments: Any) -> Row:
    return direction(name, factory, {"quick": True, **(row or {})}, **arguments)


ROWS = [
    stage(
        "chain_of_momentum",
        ortho_chain,
        {"matrices": ()},
        momentum=momentum.ema(0.9),
    ),
    stage(
        "chain_of_orthogonalize",
        ortho_chain,
        orthogonalize=orthogonalize(ONE_STEP, axes),
    ),
    stage(
        "chain_of_normalize",
        ortho_chain,
        {"matrices": ()},
        normalize=optax.clip(0.5),
    ),
    stage(
        "chain_of_trust_region",
        ortho_chain,
        {"matrices": ()},
        trust_region=trust_region.by_shape(axes=axes),
    ),
    stage(
        "in_frame",
        optax_ortho.in_frame,
        {"matrices": ()},
        frame=COUNTED_TRANSPOSE,
        inner=momentum.heavy_ball(0.9),
    ),
]
