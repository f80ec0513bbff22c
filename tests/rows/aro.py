"""ARO, what can be rotated, and the steepest descents by themselves."""

import optax_ortho
from optax_ortho import bases, momentum, normalizers, ortho_chain
from optax_ortho.orthogonalizers import ShiftedCholesky
from optax_ortho.trust_region import UNSCALED
from tests.rows.row import ONE_STEP, Row, axes, direction, recipe

# The Q of a nearly square product has columns that rounding turns.
TURNED = {"tolerance": 1e-4}


def variant(name: str, row: dict | None = None, **arguments) -> Row:
    row = {"variant": True, **TURNED, **({} if row is None else row)}
    return recipe(name, optax_ortho.aro, row, **arguments)


ROWS = [
    recipe("aro", optax_ortho.aro, TURNED),
    variant(
        "aro_adam",
        base=normalizers.second_moment(0.95),
        qr=ShiftedCholesky(),
        side=bases.ResidualStream(),
    ),
    variant(
        "aro_published",
        {"decays": True},
        base=normalizers.sinkhorn(4, simultaneous=True),
        trust_region=UNSCALED,
        side="fan_in",
        weight_decay=0.1,
    ),
    direction(
        "scale_by_aro",
        optax_ortho.scale_by_aro,
        {"nonfinite": "skip_matrix", "variant": True, **TURNED},
        base=optax_ortho.orthogonalize(ONE_STEP),
        axes=axes,
    ),
    direction(
        "sinkhorn",
        ortho_chain,
        {"variant": True},
        momentum=momentum.ema(0.9),
        normalize=normalizers.sinkhorn(axes=axes),
    ),
]
