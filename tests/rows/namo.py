"""NAMO and NAMO-D; with their eps of 1e-8 they are not scale-invariant."""

import jax

import optax_ortho
from tests.rows.row import ONE_STEP, axes, direction, recipe, variant


def not_three_axes(params):
    return jax.tree.map(lambda x: x.ndim != 3, params)


ROWS = [
    recipe("namo", optax_ortho.namo, eps=0.0),
    variant(
        "namo_d",
        optax_ortho.namo_d,
        {"decays": True, "static_args": ("weight_decay_mask",)},
        eps=0.0,
        weight_decay=0.1,
        weight_decay_mask=not_three_axes,
    ),
    direction(
        "scale_by_namo_d",
        optax_ortho.scale_by_namo_d,
        {"nonfinite": "skip_matrix", "variant": True},
        eps=0.0,
        per="fan_out",
        orthogonalizer=ONE_STEP,
        axes=axes,
    ),
]
