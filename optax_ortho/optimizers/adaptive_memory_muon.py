"""Adaptive-memory Muon: Muon whose momentum adapts its decay to the gradients.

For every weight matrix W (fan_in x fan_out) with gradient G, one step is

    momentum        beta <- (|G|^2 + 2 lam <G, D> - lam |D|^2) / |D - G|^2,
                    clipped to [0, beta_max]
                    D <- ((beta + lam) D + (1 - beta) G) / (1 + lam);  the first D is G
    orthogonalize   O <- NewtonSchulz(D), five steps
    trust region    U <- 0.2 sqrt(max(fan_in, fan_out)) O
    step            W <- W - learning_rate (U + weight_decay W)

The paper has this momentum in SGD and in AdamW (`am_sgd`, `am_adamw`). Each matrix has
its own beta here, because each is orthogonalized by itself: with ``scope="global"`` the
matrix with the largest gradient decides for all.

References:
  Topollai and Choromanska, `Adaptive Memory Momentum via a Model-Based Framework for
  Deep Learning Optimization <https://arxiv.org/abs/2510.04988>`_, 2025
"""

from collections.abc import Callable
from typing import Any, Unpack

import optax

from optax_ortho.chain import ortho_chain
from optax_ortho.checks import refuse_array
from optax_ortho.guard import guard, stacked_axes
from optax_ortho.layouts import Layout
from optax_ortho.matrices import AxesOf, Orthogonalizer, last_two
from optax_ortho.momentum import adaptive_memory
from optax_ortho.orthogonalizers import orthogonalize
from optax_ortho.recipes import Common, recipe_of
from optax_ortho.trust_region import ShapeFactor, match_rms
from optax_ortho.trust_region.shape import as_stage


def scale_by_adaptive_memory_muon(
    lam: Any = 0.1,
    beta_max: Any = 0.9,
    *,
    scope: str = "matrix",
    orthogonalizer: Orthogonalizer | Callable | None = None,
    trust_region: ShapeFactor | optax.GradientTransformation | None = None,
    mu_dtype: Any = None,
    axes: AxesOf = last_two,
    layout: Layout | None = None,
    nonfinite: str | None = "skip_matrix",
) -> optax.GradientTransformationExtraArgs:
    """The direction of `adaptive_memory_muon`, for a tree of matrices alone.

    Args:
      lam: the penalty for leaving the memory, at least 0.
      beta_max: the largest beta, in [0, 1).
      scope: the scope of one beta: "matrix", "leaf" or "global".
      orthogonalizer: another second stage; None is `Auto`.
      trust_region: another scale, a `ShapeFactor` or a whole fourth stage; None is
        ``match_rms(0.2)``.
      mu_dtype: dtype of the memory D; None is the parameter's own.
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
      >>> tx = optax.chain(
      ...     scale_by_adaptive_memory_muon(), optax.scale_by_learning_rate(0.02)
      ... )
      >>> params = {"kernel": jnp.ones((4, 6))}
      >>> updates, state = tx.update(params, tx.init(params), params)
      >>> updates["kernel"].shape
      (4, 6)
    """
    refuse_array("mu_dtype", mu_dtype)
    if trust_region is None:
        trust_region = match_rms(0.2)
    direction = ortho_chain(
        momentum=adaptive_memory(lam, beta_max, scope, mu_dtype, axes),
        orthogonalize=orthogonalize(orthogonalizer, axes, layout),
        trust_region=as_stage(trust_region, axes),
    )
    return guard(direction, nonfinite, stacked_axes(axes))


@recipe_of(scale_by_adaptive_memory_muon)
def adaptive_memory_muon(
    learning_rate: optax.ScalarOrSchedule,
    lam: Any = 0.1,
    beta_max: Any = 0.9,
    *,
    scope: str = "matrix",
    orthogonalizer: Orthogonalizer | Callable | None = None,
    trust_region: ShapeFactor | optax.GradientTransformation | None = None,
    mu_dtype: Any = None,
    **common: Unpack[Common],
) -> optax.GradientTransformationExtraArgs:
    """Muon with adaptive memory for matrices, AdamW for everything else.

    Examples:
      >>> import jax.numpy as jnp
      >>> import optax_ortho
      >>> params = {"kernel": jnp.ones((4, 6)), "bias": jnp.zeros(6)}
      >>> tx = optax_ortho.adaptive_memory_muon(learning_rate=0.02)
      >>> updates, state = tx.update(params, tx.init(params), params)
      >>> updates["kernel"].shape
      (4, 6)
    """
    ...
