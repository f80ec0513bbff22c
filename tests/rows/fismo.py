"""FISMO, as published, and one-sided and seldom renewed."""

import optax_ortho
from optax_ortho import bases
from optax_ortho.trust_region import UNSCALED
from tests.rows.row import ONE_STEP, axes, direction, recipe, variant

ROWS = [
    recipe("fismo", optax_ortho.fismo),
    variant(
        "fismo_every_other",
        optax_ortho.fismo,
        {"decays": True, "static_args": ("max_dim",)},
        update_every=2,
        max_dim=5,
        inverse_root=bases.NewtonRoot(),
        weight_decay=0.1,
    ),
    direction(
        "scale_by_fismo",
        optax_ortho.scale_by_fismo,
        {"nonfinite": "skip_matrix", "variant": True},
        orthogonalizer=ONE_STEP,
        axes=axes,
    ),
    direction(
        "scale_by_fismo_published",
        optax_ortho.scale_by_fismo,
        # Its factors depend on the size of the gradient.
        {"matrices": (), "variant": True},
        normalize_stats=False,
        trust_region=UNSCALED,
        axes=axes,
        nonfinite="off",
    ),
]
