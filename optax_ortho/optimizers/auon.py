"""AuON: momentum over its norm, and a brake.

For every weight matrix W (fan_in x fan_out) with gradient G, one step is

    momentum        M <- beta M + (1 - beta) G, then look ahead once (Nesterov)
    unit norm       X = M / |M|_F
    brake           r = sqrt(mean(cosh(gamma X)^2))
    trust region    U <- 0.2 sqrt(fan_in fan_out) X / r
    step            W <- W - learning_rate (U + weight_decay W)

The trust region gives the update the RMS of this package's other optimizers. The
published definitions differ in it and more:

    paper, version 1      trust_region=UNSCALED
    code for version 1    trust_region=JORDAN
    current code          gamma=1.5, unit_norm=False: the update is M / r, as large as
                          the gradient

The brake hardly changes a step: r is one number a matrix, between 1 and 1.00055 at
gamma 1.5 for 64 x 64 entries, and nearer to 1 for larger matrices. To a part in a
thousand AuON is the momentum of SGD over its norm, and without the norm plain momentum.
Neither is orthogonal, or better conditioned than the momentum.

References:
  `AuON <https://arxiv.org/abs/2509.24320>`_, 2025
"""

from typing import Any, Unpack

import optax

from optax_ortho.chain import ortho_chain
from optax_ortho.checks import refuse_array
from optax_ortho.guard import guard, stacked_axes
from optax_ortho.matrices import AxesOf, last_two
from optax_ortho.momentum import nesterov
from optax_ortho.normalizers import cosh_rms
from optax_ortho.recipes import Common, recipe_of
from optax_ortho.trust_region import UNSCALED, ShapeFactor, match_unit_norm
from optax_ortho.trust_region.shape import as_stage


def scale_by_auon(
    beta: Any = 0.95,
    gamma: Any = 1.0,
    *,
    momentum: optax.GradientTransformation | None = None,
    unit_norm: bool = True,
    normalize: optax.GradientTransformation | None = None,
    trust_region: ShapeFactor | optax.GradientTransformation | None = None,
    mu_dtype: Any = None,
    axes: AxesOf = last_two,
    nonfinite: str | None = "skip_matrix",
) -> optax.GradientTransformationExtraArgs:
    """AuON's direction, for a tree in which every leaf is a matrix (see `auon`).

    Args:
      beta: decay of the momentum M, in [0, 1).
      gamma: strength of the brake: 1 in the paper, 1.5 in the authors' current code.
      momentum: another first stage; `beta` and `mu_dtype` are then ignored.
      unit_norm: whether M is divided by its norm, as in the paper, which makes the step
        scale-invariant. Without it the step has the size of the gradient.
      normalize: another third stage, with axes of its own; None is `cosh_rms`, with
        `gamma`, `unit_norm` and `axes`.
      trust_region: another scale, a `ShapeFactor` or a whole fourth stage. None is
        ``match_unit_norm(0.2)``, and `UNSCALED` for ``unit_norm=False``.
      mu_dtype: dtype of M; None is the parameter's own.
      axes: the `MatrixAxes` of a leaf, from its path and the leaf.
      nonfinite: "skip_matrix", "skip_step" or "off"; None is for a direction inside
        a guarded recipe.

    Returns:
      The direction, without learning rate and sign.

    Raises:
      ValueError: an argument out of range, or an update of a leaf that is not a matrix.

    Examples:
      >>> import jax.numpy as jnp
      >>> tx = optax.chain(scale_by_auon(), optax.scale_by_learning_rate(0.02))
      >>> params = {"kernel": jnp.ones((4, 6))}
      >>> updates, state = tx.update(params, tx.init(params), params)
      >>> updates["kernel"].shape
      (4, 6)
    """
    refuse_array("mu_dtype", mu_dtype)
    if momentum is None:
        momentum = nesterov(beta, mu_dtype)
    if trust_region is None:
        trust_region = match_unit_norm(0.2) if unit_norm else UNSCALED
    if normalize is None:
        normalize = cosh_rms(gamma, normalize=unit_norm, axes=axes)
    direction = ortho_chain(
        momentum=momentum,
        normalize=normalize,
        trust_region=as_stage(trust_region, axes),
    )
    return guard(direction, nonfinite, stacked_axes(axes))


@recipe_of(scale_by_auon)
def auon(
    learning_rate: optax.ScalarOrSchedule,
    beta: Any = 0.95,
    gamma: Any = 1.0,
    *,
    momentum: optax.GradientTransformation | None = None,
    unit_norm: bool = True,
    normalize: optax.GradientTransformation | None = None,
    trust_region: ShapeFactor | optax.GradientTransformation | None = None,
    mu_dtype: Any = None,
    **common: Unpack[Common],
) -> optax.GradientTransformationExtraArgs:
    """AuON for matrices, AdamW for everything else.

    Args:
      learning_rate: step size of the matrices, or a schedule of the step count. The
        update of a matrix has an RMS of 0.2 times it, over the brake.

    Examples:
      >>> import jax.numpy as jnp
      >>> import optax_ortho
      >>> params = {"kernel": jnp.ones((4, 6)), "bias": jnp.zeros(6)}
      >>> tx = optax_ortho.auon(learning_rate=0.02, weight_decay=0.1)
      >>> updates, state = tx.update(params, tx.init(params), params)
      >>> updates["kernel"].shape
      (4, 6)

      The authors' current code, with its rate:

      >>> tx = optax_ortho.auon(0.24, gamma=1.5, unit_norm=False)
    """
    ...
