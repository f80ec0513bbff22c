"""Adaptive memory in its hosts: Muon, SGD and AdamW."""

import optax_ortho
from optax_ortho import momentum
from tests.rows.row import RATE, Row, axes, direction, recipe, variant

# They do not orthogonalize: steps of `am_sgd` are as large as gradients, and steps of
# `am_adamw` depend on the scale of gradients through eps and lam.
NO_MATRICES = {"matrices": ()}

ROWS = [
    recipe("adaptive_memory_muon", optax_ortho.adaptive_memory_muon),
    variant(
        "adaptive_memory_muon_global",
        optax_ortho.adaptive_memory_muon,
        {"decays": True},
        scope="global",
        weight_decay=0.1,
    ),
    Row("am_sgd", optax_ortho.am_sgd, {"learning_rate": RATE}, **NO_MATRICES),
    Row(
        "am_sgd_decay",
        optax_ortho.am_sgd,
        {"learning_rate": RATE, "scope": "leaf", "weight_decay": 0.1},
        decays=True,
        variant=True,
        **NO_MATRICES,
    ),
    Row("am_adamw", optax_ortho.am_adamw, {"learning_rate": RATE}, **NO_MATRICES),
    Row(
        "am_adamw_decay",
        optax_ortho.am_adamw,
        {"learning_rate": RATE, "weight_decay": 0.1, "nonfinite": "skip_step"},
        decays=True,
        nonfinite="skip_step",
        variant=True,
        **NO_MATRICES,
    ),
    direction(
        "adaptive_memory",
        momentum.adaptive_memory,
        {**NO_MATRICES, "variant": True},
        scope="matrix",
        axes=axes,
    ),
]
