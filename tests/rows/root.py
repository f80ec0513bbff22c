"""ROOT, and its arguments."""

import optax_ortho
from optax_ortho.orthogonalizers import NewtonSchulz, orthogonalize
from optax_ortho.orthogonalizers.outliers import Clipped
from tests.rows.row import ONE_STEP, axes, direction, recipe, variant

ROWS = [
    # Its coefficients depend on the shape, but are the same for these small ones.
    recipe("root", optax_ortho.root),
    variant(
        "root_decay",
        optax_ortho.root,
        {"decays": True},
        weight_decay=0.1,
        quantile=0.5,
    ),
    direction(
        "scale_by_root",
        optax_ortho.scale_by_root,
        {"nonfinite": "skip_matrix", "variant": True},
        orthogonalizer=ONE_STEP,
        axes=axes,
    ),
    direction(
        "orthogonalize_clipped",
        orthogonalize,
        {"variant": True},
        orthogonalizer=Clipped(NewtonSchulz(steps=1, unsafe=True), 0.75),
        axes=axes,
    ),
]
