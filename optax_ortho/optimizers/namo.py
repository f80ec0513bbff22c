"""NAMO: Muon's direction, with Adam's step size.

For every weight matrix W (fan_in x fan_out) with gradient G, step t is

    momentum        M <- beta M + (1 - beta) G, then look ahead once (Nesterov)
    orthogonalize   O <- NewtonSchulz(M), five steps
    second moment   v <- beta2 v + (1 - beta2) |G|_F^2
    ratio           a = sqrt(1 - beta2^t) / (1 - beta^t) |M|_F / (sqrt(v) + eps)
    step            W <- W (1 - weight_decay min(learning_rate a, 1))
                    W <- W - min(learning_rate a s, 1) O

with s = 0.2 sqrt(max(fan_in, fan_out)).

The box is the authors' code. Their paper has no look-ahead, no shape factor and
no limit of 1: ``momentum=ema(0.95), trust_region=UNSCALED, max_step=None``.

Where gradients agree from step to step a is near 1; where they are noise it goes down
to sqrt((1 - beta) / (1 + beta)) = 0.16 without the look-ahead, so the learning rate is
higher than Muon's (the authors: about ten times). At the first step it is 1.95.

The ratio is scale-invariant up to eps = 1e-8: where sqrt(v) is 1e-6 the step is 1 %
shorter, where it is 1e-8 half as long. With ``eps=0`` it is scale-invariant.

References:
  Zhang, Liu and Schaeffer, `Adam Improves Muon
  <https://arxiv.org/abs/2602.17080>`_, 2026
"""

from collections.abc import Callable
from typing import Any, Unpack

import optax

from optax_ortho.layouts import Layout
from optax_ortho.matrices import AxesOf, Orthogonalizer, last_two
from optax_ortho.optimizers.namo_d import scale_by_namo_d, without_decay
from optax_ortho.recipes import Common, recipe_of
from optax_ortho.trust_region import ShapeFactor


def scale_by_namo(
    beta: Any = 0.95,
    beta2: Any = 0.99,
    eps: Any = 1e-8,
    *,
    momentum: optax.GradientTransformation | None = None,
    orthogonalizer: Orthogonalizer | Callable | None = None,
    trust_region: ShapeFactor | None = None,
    max_step: Any = 1.0,
    weight_decay: Any = 0.0,
    weight_decay_mask: Any = None,
    mu_dtype: Any = None,
    axes: AxesOf = last_two,
    layout: Layout | None = None,
    nonfinite: str | None = "skip_matrix",
) -> optax.GradientTransformationExtraArgs:
    """NAMO's direction, for a tree in which every leaf is a matrix (see `namo`).

    Its limits need the rate: ``update(..., learning_rate=rate)``. Without it there are
    none.

    Args:
      beta: decay of the momentum M, and of its bias correction, in [0, 1).
      beta2: decay of the second moment v, in [0, 1).
      eps: added to the root of v, in the units of the norm of a gradient.
      momentum: another first stage; `beta` is still used in the bias correction.
      orthogonalizer: another second stage; None is `Auto`.
      trust_region: the factor s; None is ``match_rms(0.2)``.
      max_step: the largest ``learning_rate a s``, and the largest ``learning_rate a``
        of the decay; None sets no limit.
      weight_decay: the decay of the weights, per unit of ``learning_rate a``.
      weight_decay_mask: the leaves that decay; None is all.
      mu_dtype: dtype of M; None is the parameter's own.
      axes: the `MatrixAxes` of a leaf, from its path and the leaf.
      layout: the distribution of the matrices over devices; None is
        `layouts.local()`.
      nonfinite: "skip_matrix", "skip_step" or "off"; None is for a direction inside
        a guarded recipe.

    Returns:
      The direction, decay included, without learning rate and sign.

    Raises:
      ValueError: an argument out of range, or at init a leaf that is not a matrix.

    Examples:
      >>> import jax.numpy as jnp
      >>> tx = optax.chain(scale_by_namo(), optax.scale_by_learning_rate(0.01))
      >>> params = {"kernel": jnp.ones((4, 6))}
      >>> updates, state = tx.update(params, tx.init(params), params)
      >>> updates["kernel"].shape
      (4, 6)
    """
    return scale_by_namo_d(
        beta,
        beta2,
        eps,
        per="matrix",
        momentum=momentum,
        orthogonalizer=orthogonalizer,
        trust_region=trust_region,
        max_step=max_step,
        weight_decay=weight_decay,
        weight_decay_mask=weight_decay_mask,
        mu_dtype=mu_dtype,
        axes=axes,
        layout=layout,
        nonfinite=nonfinite,
    )


@recipe_of(scale_by_namo, build=without_decay)
def namo(
    learning_rate: optax.ScalarOrSchedule,
    beta: Any = 0.95,
    beta2: Any = 0.99,
    eps: Any = 1e-8,
    *,
    momentum: optax.GradientTransformation | None = None,
    orthogonalizer: Orthogonalizer | Callable | None = None,
    trust_region: ShapeFactor | None = None,
    max_step: Any = 1.0,
    mu_dtype: Any = None,
    **common: Unpack[Common],
) -> optax.GradientTransformationExtraArgs:
    """NAMO for matrices, AdamW for everything else.

    Matrices decay by ``learning_rate a weight_decay``, and not by the rate alone.

    Args:
      learning_rate: step size of the matrices, or a schedule of the step count. The
        update of a matrix has an RMS of about 0.2 a times it.

    Examples:
      >>> import jax.numpy as jnp
      >>> import optax_ortho
      >>> params = {"kernel": jnp.ones((4, 6)), "bias": jnp.zeros(6)}
      >>> tx = optax_ortho.namo(0.012, weight_decay=0.1, adamw_learning_rate=0.001)
      >>> updates, state = tx.update(params, tx.init(params), params)
      >>> updates["kernel"].shape
      (4, 6)
    """
    ...
