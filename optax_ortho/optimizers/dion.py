"""Dion: a low-rank orthonormal step, with the rest kept in the momentum.

For every weight matrix W (fan_in x fan_out) with gradient G, and B the momentum M or
its transpose, whichever is not wide, one step is

    accumulate      M <- M + G
    power step      P <- Q of the QR of B V,  R <- B^T P
    feedback        B <- B - (1 - beta) P R^T
    basis           V <- R, each column divided by its length
    trust region    U <- 0.2 sqrt(max(fan_in, fan_out)) P V^T
    step            W <- W - learning_rate (U + weight_decay W)

Stages 1 and 2 are one here, because the error of stage 2 goes back into the momentum.

P has rank r <= min(fan_in, fan_out). At full rank the momentum is a decaying sum of
gradients, and P V^T nears Muon's orthogonal matrix as V nears the singular vectors.
The authors scale by the shape, ``trust_region=SPECTRAL``, add ``eps=1e-8`` to the
lengths, and have no cut-off for noise, ``cutoff=0.0``.

References:
  Ahn et al., `Dion: Distributed Orthonormalized Updates
  <https://arxiv.org/abs/2504.05295>`_, 2025, algorithm 1
  Microsoft, `dion <https://github.com/microsoft/dion>`_, dion_reference.py
"""

from typing import Any, Unpack

import optax

from optax_ortho.chain import OrthoState as DionState  # noqa: F401 (its public name)
from optax_ortho.chain import ortho_chain
from optax_ortho.checks import refuse_array
from optax_ortho.guard import guard, stacked_axes
from optax_ortho.layouts import Layout
from optax_ortho.matrices import AxesOf, last_two
from optax_ortho.orthogonalizers import (
    QR,
    PowerIteration,
    RandomizedCholesky,
    low_rank,
)
from optax_ortho.recipes import Common, recipe_of
from optax_ortho.trust_region import ShapeFactor, match_rms
from optax_ortho.trust_region.shape import as_stage


def scale_by_dion(
    beta: Any = 0.95,
    *,
    rank_fraction: float | None = None,
    rank_multiple_of: int | None = None,
    power_iterations: int | None = None,
    qr: QR | None = None,
    eps: Any = 0.0,
    cutoff: Any = None,
    seed: int | None = None,
    normalize: optax.GradientTransformation | None = None,
    trust_region: ShapeFactor | optax.GradientTransformation | None = None,
    mu_dtype: Any = None,
    axes: AxesOf = last_two,
    layout: Layout | None = None,
    nonfinite: str | None = "skip_matrix",
) -> optax.GradientTransformationExtraArgs:
    """Dion's direction, for a tree in which every leaf is a matrix (see `dion`).

    Args:
      beta: the part of the applied momentum that stays in M, in [0, 1); the paper's mu.
      rank_fraction: rank of the step over the shorter side, in (0, 1]; None is 1. The
        authors find 1/4 nearly as good at 3B parameters. It shapes the program, as the
        next two do, so `optax.inject_hyperparams` must be told that it is static.
      rank_multiple_of: the rank is rounded up to a multiple of it; None is 1.
      power_iterations: power steps for each step; None is 1.
      qr: the orthonormalization of P: `Householder`, `ShiftedCholesky`, or None for
        `RandomizedCholesky`.
      eps: added to the lengths of R's columns, in units of the gradient; 1e-8 in the
        authors' code.
      cutoff: columns of R below this part of the longest are noise and not applied;
        None is float32's rounding. 0 is as published, see `low_rank`.
      seed: the seed of the first V; None is 0. V is the same for all matrices of one
        shape.
      normalize: a third stage; Dion has none.
      trust_region: another scale, a `ShapeFactor` or a whole fourth stage; None is
        ``match_rms(0.2)``.
      mu_dtype: dtype of M; None is the parameter's own. Float32 keeps the feedback that
        a 16-bit M would round away.
      axes: the `MatrixAxes` of a leaf, from its path and the leaf.
      layout: the distribution of the matrices over devices; None is
        `layouts.local()`.
      nonfinite: "skip_matrix", "skip_step" or "off"; None is for a direction inside
        a guarded recipe.

    Returns:
      The direction, without learning rate and sign.

    Raises:
      ValueError: an argument out of range, or at init a leaf that is not a matrix.
      TypeError: an array where `optax.inject_hyperparams` replaced a number that shapes
        the program.

    Examples:
      >>> import jax
      >>> import jax.numpy as jnp
      >>> tx = scale_by_dion(rank_fraction=0.5)
      >>> params = {"kernel": jnp.ones((4, 6))}
      >>> jax.tree.map(jnp.shape, tx.init(params).inner.orthogonalize)
      PowerState(mu={'kernel': (4, 6)}, basis={'kernel': (4, 2)})
    """
    refuse_array("mu_dtype", mu_dtype)
    power = PowerIteration(
        1.0 if rank_fraction is None else rank_fraction,
        1 if rank_multiple_of is None else rank_multiple_of,
        1 if power_iterations is None else power_iterations,
        RandomizedCholesky() if qr is None else qr,
    )
    seed = 0 if seed is None else seed
    if trust_region is None:
        trust_region = match_rms(0.2)
    direction = ortho_chain(
        orthogonalize=low_rank(beta, power, eps, cutoff, seed, mu_dtype, axes, layout),
        normalize=normalize,
        trust_region=as_stage(trust_region, axes),
    )
    return guard(direction, nonfinite, stacked_axes(axes))


@recipe_of(scale_by_dion)
def dion(
    learning_rate: optax.ScalarOrSchedule,
    beta: Any = 0.95,
    *,
    rank_fraction: float | None = None,
    rank_multiple_of: int | None = None,
    power_iterations: int | None = None,
    qr: QR | None = None,
    eps: Any = 0.0,
    cutoff: Any = None,
    seed: int | None = None,
    normalize: optax.GradientTransformation | None = None,
    trust_region: ShapeFactor | optax.GradientTransformation | None = None,
    mu_dtype: Any = None,
    **common: Unpack[Common],
) -> optax.GradientTransformationExtraArgs:
    """Dion for matrices, AdamW for everything else.

    Args:
      learning_rate: step size of the matrices, or a schedule of the step count. The
        update of a matrix has an RMS of about 0.2 times it at full rank, and
        ``sqrt(rank_fraction)`` of that below.

    Examples:
      >>> import jax.numpy as jnp
      >>> import optax_ortho
      >>> params = {"kernel": jnp.ones((4, 6)), "bias": jnp.zeros(6)}
      >>> tx = optax_ortho.dion(learning_rate=0.02, rank_fraction=0.25)
      >>> updates, state = tx.update(params, tx.init(params), params)
      >>> updates["kernel"].shape
      (4, 6)

      As the authors run it:

      >>> from optax_ortho.trust_region import SPECTRAL
      >>> tx = optax_ortho.dion(
      ...     0.01, eps=1e-8, cutoff=0.0, trust_region=SPECTRAL, weight_decay=0.01
      ... )
    """
    ...
