"""MKOR, with statistics that stay the same from step to step."""

import jax
import jax.numpy as jnp

import optax_ortho
from optax_ortho.kronecker import LossRate
from optax_ortho.testing import random_like
from tests.rows.row import axes, direction, recipe

# A bias is one matrix with its kernel, so masking it alone is another step: the bias
# here has no kernel, and tests/optimizers/test_mkor.py has those that do.
SHAPES = {
    "bias": (6,),
    "conv": (2, 2, 1, 6),
    "dense": {"kernel": (4, 6)},
    "gain": (),
    "stack": (3, 4, 6),
    "table": (5, 4),
}
LABELS = {
    "bias": "bias",
    "conv": axes("conv", None),
    "dense/kernel": "matrix",
    "gain": "scalar",
    "stack": axes("stack", None),
    "table": "embedding",
}


def vectors(*batch: int):
    """The statistics of a layer of shape (4, 6)."""
    shapes = {"a": (*batch, 4), "g": (*batch, 6)}
    return {k: jax.ShapeDtypeStruct(s, jnp.float32) for k, s in shapes.items()}


STATISTICS = random_like(
    {"conv": vectors(), "dense": vectors(), "stack": vectors(3)}, seed=7
)
EXTRA = {"extra": {"statistics": STATISTICS}}
MKOR = {**EXTRA, "shapes": SHAPES}
SMALL_STEPS = LossRate(window=1, fraction=0.5, patience=2)

ROWS = [
    recipe(
        "mkor",
        optax_ortho.mkor,
        MKOR,
        labels=LABELS,
        update_every=1,
    ),
    recipe(
        "mkor_h",
        optax_ortho.mkor,
        {
            "extra": {"statistics": STATISTICS, "value": 1.0},
            "shapes": SHAPES,
            "static_args": ("factor_dtype",),
            "variant": True,
        },
        labels=LABELS,
        rule="ema",
        factor_dtype=jnp.bfloat16,
        switch=SMALL_STEPS,
        update_every=1,
    ),
    direction(
        "scale_by_mkor",
        optax_ortho.scale_by_mkor,
        {**EXTRA, "nonfinite": "skip_matrix", "variant": True},
        axes=axes,
        update_every=2,
    ),
]
