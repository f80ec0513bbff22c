"""NorMuon: Muon with a separate step size for every neuron.

For every weight matrix W (fan_in x fan_out) with gradient G, one step is

    momentum        M <- beta M + (1 - beta) G
    orthogonalize   O <- NewtonSchulz(M), five steps
    neurons         v_j <- beta2 v_j + (1 - beta2) mean_i O_ij^2
                    O_ij <- O_ij / (sqrt(v_j) + eps)
    trust region    U <- 0.2 sqrt(fan_in fan_out) / |O|_F O
    step            W <- W - learning_rate (U + weight_decay W)

A neuron j is an output: a column of W here, a row in PyTorch. This is the paper's form,
in which the RMS of every update is 0.2 exactly. The implementations keep the Frobenius
norm of O, and differ in more:

    authors         momentum=nesterov(beta), trust_region=JORDAN
    dion            momentum=heavy_ball(beta), trust_region=SPECTRAL, eps=1e-8,
                    orthogonalizer=NewtonSchulz("polar_express", eps=1e-8)
    modded-nanogpt  momentum=nesterov(beta), trust_region=JORDAN, cautious=True,
                    orthogonalizer=NewtonSchulz("polar_express"),
                    normalize=neuron_rms(0.9, 0, floor=1e-5, over="short")

It equalizes the norms of neurons, which an inexact Newton-Schulz leaves uneven. With an
exact one it does not change a matrix of full rank whose fan_out is the shorter side,
where each neuron of O has norm 1.

References:
  Li et al., `NorMuon <https://arxiv.org/abs/2510.05491>`_, 2025
"""

from collections.abc import Callable
from functools import partial
from typing import Any, Unpack

import optax

from optax_ortho.chain import ortho_chain
from optax_ortho.checks import refuse_array
from optax_ortho.constraints import cautious_decay
from optax_ortho.guard import guard, stacked_axes
from optax_ortho.layouts import Layout
from optax_ortho.matrices import AxesOf, Orthogonalizer, last_two
from optax_ortho.momentum import ema
from optax_ortho.normalizers import neuron_rms
from optax_ortho.orthogonalizers import orthogonalize
from optax_ortho.recipes import (
    Common,
    decoupled_decay,
    matrices_else_fallback,
    recipe_of,
)
from optax_ortho.trust_region import ShapeFactor, normalized
from optax_ortho.trust_region.shape import as_stage


def scale_by_normuon(
    beta: Any = 0.95,
    beta2: Any = 0.95,
    eps: Any = 1e-10,
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
    """NorMuon's direction, for a tree in which every leaf is a matrix (see `normuon`).

    Args:
      beta: decay of the momentum M, in [0, 1).
      beta2: decay of the mean squares v, in [0, 1).
      eps: added to the root of v.
      momentum: another first stage, such as ``nesterov(0.95)``; `beta` and `mu_dtype`
        are then ignored.
      orthogonalizer: another second stage; None is `Auto`.
      normalize: another third stage, with axes of its own; None is `neuron_rms`, with
        `beta2`, `eps` and `axes`.
      trust_region: another scale, a `ShapeFactor` or a whole fourth stage; None is
        ``normalized("matrix", target_rms=0.2)``.
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
      >>> tx = optax.chain(scale_by_normuon(), optax.scale_by_learning_rate(0.02))
      >>> params = {"kernel": jnp.ones((4, 6))}
      >>> updates, state = tx.update(params, tx.init(params), params)
      >>> state[0].inner.normalize.neuron_variance["kernel"].shape
      (6,)
    """
    refuse_array("mu_dtype", mu_dtype)
    if momentum is None:
        momentum = ema(beta, mu_dtype)
    if normalize is None:
        normalize = neuron_rms(beta2, eps, axes=axes)
    if trust_region is None:
        trust_region = normalized("matrix", target_rms=0.2, axes=axes)
    direction = ortho_chain(
        momentum=momentum,
        orthogonalize=orthogonalize(orthogonalizer, axes, layout),
        normalize=normalize,
        trust_region=as_stage(trust_region, axes),
    )
    return guard(direction, nonfinite, stacked_axes(axes))


def _build(name, direction, learning_rate, *, cautious: bool, **common):
    add = cautious_decay if cautious else optax.add_decayed_weights
    decay = partial(decoupled_decay, add=add)
    return matrices_else_fallback(name, direction, learning_rate, decay, **common)


@recipe_of(scale_by_normuon, build=_build)
def normuon(
    learning_rate: optax.ScalarOrSchedule,
    beta: Any = 0.95,
    beta2: Any = 0.95,
    eps: Any = 1e-10,
    *,
    momentum: optax.GradientTransformation | None = None,
    orthogonalizer: Orthogonalizer | Callable | None = None,
    normalize: optax.GradientTransformation | None = None,
    trust_region: ShapeFactor | optax.GradientTransformation | None = None,
    cautious: bool = False,
    mu_dtype: Any = None,
    **common: Unpack[Common],
) -> optax.GradientTransformationExtraArgs:
    """NorMuon for matrices, AdamW for everything else.

    Args:
      cautious: whether a weight of a matrix decays only where the update makes it
        smaller too.

    Examples:
      >>> import jax.numpy as jnp
      >>> import optax_ortho
      >>> params = {"kernel": jnp.ones((4, 6)), "bias": jnp.zeros(6)}
      >>> tx = optax_ortho.normuon(learning_rate=0.02, weight_decay=0.1)
      >>> updates, state = tx.update(params, tx.init(params), params)
      >>> updates["kernel"].shape
      (4, 6)

      The authors' code, with its rates:

      >>> from optax_ortho.trust_region import JORDAN
      >>> ahead = optax_ortho.momentum.nesterov(0.95)
      >>> tx = optax_ortho.normuon(
      ...     0.02, momentum=ahead, trust_region=JORDAN, adamw_learning_rate=3e-4
      ... )
    """
    ...
