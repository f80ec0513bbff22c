"""Hybrid AuON: Muon with AuON's brake.

For every weight matrix W (fan_in x fan_out) with gradient G, one step is

    momentum        M <- beta M + (1 - beta) G, then look ahead once (Nesterov)
    orthogonalize   O <- NewtonSchulz(M), five steps
    brake           r = sqrt(mean(cosh(gamma O / |O|_F)^2))
    trust region    U <- 0.2 sqrt(max(fan_in, fan_out)) O / r
    step            W <- W - learning_rate (U + weight_decay W)

The published definitions differ in it and more:

    current code        trust_region=UNSCALED, orthogonalizer=NewtonSchulz(eps=1e-7)
    paper, version 1    trust_region=UNSCALED,
                        orthogonalizer=NewtonSchulz(steps=1, unsafe=True),
                        normalize=cosh_rms(normalize=False, of_unit=False)

The paper prints r without its root, which is here. Either way r is one number a
matrix, between 1 and 1.00055 at gamma 1.5 for 64 x 64 entries, and nearer to 1 for
larger matrices: Hybrid AuON is Muon to a part in a thousand. After one step of
Newton-Schulz the update is neither orthogonal, nor is its RMS near 0.2.

References:
  `AuON <https://arxiv.org/abs/2509.24320>`_, 2025
"""

from collections.abc import Callable
from typing import Any, Unpack

import optax

from optax_ortho.chain import ortho_chain
from optax_ortho.checks import refuse_array
from optax_ortho.guard import guard, stacked_axes
from optax_ortho.layouts import Layout
from optax_ortho.matrices import AxesOf, Orthogonalizer, last_two
from optax_ortho.momentum import nesterov
from optax_ortho.normalizers import cosh_rms
from optax_ortho.orthogonalizers import orthogonalize
from optax_ortho.recipes import Common, recipe_of
from optax_ortho.trust_region import ShapeFactor, match_rms
from optax_ortho.trust_region.shape import as_stage


def scale_by_hybrid_auon(
    beta: Any = 0.95,
    gamma: Any = 1.5,
    *,
    momentum: optax.GradientTransformation | None = None,
    orthogonalizer: Orthogonalizer | Callable | None = None,
    normalize: optax.GradientTransformation | None = None,
    trust_region: ShapeFactor | optax.GradientTransformation | None = None,
    mu_dtype: Any = None,
    axes: AxesOf = last_two,
    layout: Layout | None = None,
    nonfinite: str | None = "skip_matrix",
) -> optax.GradientTransformationExtraArgs:
    """Hybrid AuON's direction, for a tree in which every leaf is a matrix.

    Args:
      beta: decay of the momentum M, in [0, 1).
      gamma: strength of the brake.
      momentum: another first stage; `beta` and `mu_dtype` are then ignored.
      orthogonalizer: another second stage; None is `Auto`.
      normalize: another third stage, with axes of its own; None is `cosh_rms`, which
        leaves the norm of X as it is.
      trust_region: another scale, a `ShapeFactor` or a whole fourth stage; None is
        ``match_rms(0.2)``.
      mu_dtype: dtype of M; None is the parameter's own.
      axes: the `MatrixAxes` of a leaf, from its path and the leaf.
      layout: the distribution of the matrices over devices; None is
        `layouts.local()`.
      nonfinite: "skip_matrix", "skip_step" or "off"; None is for a direction inside
        a guarded recipe.

    Returns:
      The direction, without learning rate and sign.

    Raises:
      ValueError: an argument out of range, or at init a leaf that is not a matrix.

    Examples:
      >>> import jax.numpy as jnp
      >>> tx = scale_by_hybrid_auon()
      >>> kernel = jnp.ones((4, 6))
      >>> updates, state = tx.update(kernel, tx.init(kernel))
      >>> updates.shape
      (4, 6)
    """
    refuse_array("mu_dtype", mu_dtype)
    if momentum is None:
        momentum = nesterov(beta, mu_dtype)
    if normalize is None:
        normalize = cosh_rms(gamma, normalize=False, axes=axes)
    if trust_region is None:
        trust_region = match_rms(0.2)
    direction = ortho_chain(
        momentum=momentum,
        orthogonalize=orthogonalize(orthogonalizer, axes, layout),
        normalize=normalize,
        trust_region=as_stage(trust_region, axes),
    )
    return guard(direction, nonfinite, stacked_axes(axes))


@recipe_of(scale_by_hybrid_auon)
def hybrid_auon(
    learning_rate: optax.ScalarOrSchedule,
    beta: Any = 0.95,
    gamma: Any = 1.5,
    *,
    momentum: optax.GradientTransformation | None = None,
    orthogonalizer: Orthogonalizer | Callable | None = None,
    normalize: optax.GradientTransformation | None = None,
    trust_region: ShapeFactor | optax.GradientTransformation | None = None,
    mu_dtype: Any = None,
    **common: Unpack[Common],
) -> optax.GradientTransformationExtraArgs:
    """Hybrid AuON for matrices, AdamW for everything else.

    Examples:
      >>> import jax.numpy as jnp
      >>> import optax_ortho
      >>> params = {"kernel": jnp.ones((4, 6)), "bias": jnp.zeros(6)}
      >>> tx = optax_ortho.hybrid_auon(learning_rate=0.02, weight_decay=0.1)
      >>> updates, state = tx.update(params, tx.init(params), params)
      >>> updates["kernel"].shape
      (4, 6)
    """
    ...
