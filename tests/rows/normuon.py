"""NorMuon, and its third stage."""

import optax_ortho
from optax_ortho import momentum, normalizers
from optax_ortho.trust_region import JORDAN
from tests.rows.row import axes, direction, recipe, variant

ROWS = [
    recipe("normuon", optax_ortho.normuon),
    variant(
        "normuon_authors",
        optax_ortho.normuon,
        {"decays": True},
        momentum=momentum.nesterov(0.95),
        trust_region=JORDAN,
        weight_decay=0.1,
        cautious=True,
    ),
    direction(
        "neuron_rms",
        normalizers.neuron_rms,
        # Its eps is in the units of an orthogonal update.
        {"matrices": (), "variant": True},
        axes=axes,
    ),
]
