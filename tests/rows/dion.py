"""Dion, at full and at low rank."""

import optax_ortho
from optax_ortho.orthogonalizers import Householder, ShiftedCholesky
from tests.rows.row import RATE, Row, axes, direction, recipe

# A factor rounds the gradient, and the first V makes B V worse conditioned than B.
SCALE = {"scale_tolerance": 1e-4}

ROWS = [
    Row(
        "dion",
        optax_ortho.dion,
        {"learning_rate": RATE},
        matrices=("dense/kernel",),  # By name and shape, the only one that is certain.
        variant=True,  # And Optax's own tests run it.
    ),
    recipe(
        "dion_half_rank",
        optax_ortho.dion,
        {"static_args": ("rank_fraction",), **SCALE},
        rank_fraction=0.5,
        qr=Householder(),
    ),
    recipe(
        "dion_cholesky",
        optax_ortho.dion,
        {"variant": True, **SCALE},
        qr=ShiftedCholesky(),
    ),
    direction(
        "scale_by_dion",
        optax_ortho.scale_by_dion,
        {"nonfinite": "skip_matrix", "variant": True, **SCALE},
        axes=axes,
    ),
]
