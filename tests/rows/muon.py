"""Muon, and its arguments."""

import jax.numpy as jnp
import optax

import optax_ortho
from optax_ortho import momentum
from optax_ortho.orthogonalizers import NewtonSchulz
from optax_ortho.trust_region import JORDAN, SPECTRAL
from tests.rows.row import ONE_STEP, RATE, Row, axes, direction, recipe, variant

ROWS = [
    Row(
        "muon",
        optax_ortho.muon,
        {"learning_rate": RATE},
        matrices=("dense/kernel",),  # By name and shape, the only one that is certain.
        variant=True,  # And Optax's own tests run it.
    ),
    recipe(
        "muon_jordan",
        optax_ortho.muon,
        {"quick": True},
        orthogonalizer=NewtonSchulz(),
        trust_region=JORDAN,
    ),
    variant(
        "muon_dion",
        optax_ortho.muon,
        momentum=momentum.heavy_ball(0.95),
        orthogonalizer=NewtonSchulz("polar_express"),
        trust_region=SPECTRAL,
    ),
    variant(
        "muon_bias_corrected",
        optax_ortho.muon,
        momentum=momentum.bias_corrected(0.95),
    ),
    variant(
        "muon_decay",
        optax_ortho.muon,
        {"decays": True},
        weight_decay=0.1,
        adamw_weight_decay=0.1,
    ),
    variant(
        "muon_bfloat16_momentum",
        optax_ortho.muon,
        # A factor rounds a bfloat16 by up to 2^-9, which the iteration enlarges.
        {"static_args": ("mu_dtype",), "scale_tolerance": 5e-2},
        mu_dtype=jnp.bfloat16,
    ),
    variant("muon_diagnostics", optax_ortho.muon, diagnostics=True),
    variant(
        "muon_skip_step",
        optax_ortho.muon,
        {"nonfinite": "skip_step"},
        nonfinite="skip_step",
    ),
    variant("muon_no_guard", optax_ortho.muon, {"nonfinite": "off"}, nonfinite="off"),
    variant(
        "muon_fallbacks",
        optax_ortho.muon,
        fallback={"embedding": optax.sgd(RATE, 0.9), "scalar": optax.sgd(RATE)},
    ),
    variant(
        "muon_schedule",
        optax_ortho.muon,
        {"static_args": ("learning_rate",)},  # It would become a number in the state.
        learning_rate=optax.linear_schedule(RATE, RATE / 2, 100),
    ),
    direction(
        "scale_by_muon",
        optax_ortho.scale_by_muon,
        {"nonfinite": "skip_matrix", "variant": True},
        orthogonalizer=ONE_STEP,
        axes=axes,
    ),
]
