"""AuON and Hybrid AuON."""

import optax_ortho
from tests.rows.row import recipe, variant

ROWS = [
    recipe("auon", optax_ortho.auon),
    recipe(
        "auon_of_any_size",
        optax_ortho.auon,
        # Its step has the size of the gradient.
        {"variant": True, "matrices": (), "nonfinite": "off"},
        gamma=1.5,
        unit_norm=False,
        nonfinite="off",
    ),
    variant("hybrid_auon", optax_ortho.hybrid_auon),
]
