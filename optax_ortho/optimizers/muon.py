"""Muon: momentum, orthogonalized.

For every weight matrix W (fan_in x fan_out) with gradient G, one step is

    momentum        M <- beta M + (1 - beta) G, then look ahead once (Nesterov)
    orthogonalize   O <- NewtonSchulz(M), five steps
    trust region    U <- 0.2 sqrt(max(fan_in, fan_out)) O
    step            W <- W - learning_rate (U + weight_decay W)

That is Moonlight's form, whose update has AdamW's usual RMS, so that one learning rate
serves both groups. The other published forms differ in one stage or two:

    Keller Jordan   trust_region=JORDAN
    torch.optim     trust_region=JORDAN, or the default for adjust_lr_fn=
                    "match_rms_adamw"; orthogonalizer=NewtonSchulz(eps=1e-7,
                    prescale=clamped_frobenius)
    dion            momentum=heavy_ball(beta), trust_region=SPECTRAL,
                    orthogonalizer=NewtonSchulz("polar_express", eps=1e-8)
    optax.contrib   momentum=bias_corrected(beta), trust_region=JORDAN,
                    orthogonalizer=NewtonSchulz(eps=1e-8)

For convolutions `JORDAN` is not Keller Jordan's code. It has the factor of
the window, sqrt(max(1, kh / kw)), in place of sqrt(max(1, out / (in kh kw))) for the
matrix (in kh kw) x out: they differ where out > in kh kw, and where kh > kw.
``by_shape(JORDAN, axes)`` with the axes of the window for a convolution is his.

References:
  Jordan et al., `Muon <https://kellerjordan.github.io/posts/muon/>`_, 2024
  Liu et al., `Muon is Scalable for LLM Training <https://arxiv.org/abs/2502.16982>`_,
  2025
"""

from collections.abc import Callable
from typing import Any, Unpack

import optax

from optax_ortho.chain import OrthoState as MuonState  # noqa: F401 (its public name)
from optax_ortho.chain import ortho_chain
from optax_ortho.checks import refuse_array
from optax_ortho.guard import guard, stacked_axes
from optax_ortho.layouts import Layout
from optax_ortho.matrices import AxesOf, Orthogonalizer, last_two
from optax_ortho.momentum import nesterov
from optax_ortho.orthogonalizers import orthogonalize
from optax_ortho.recipes import Common, recipe_of
from optax_ortho.trust_region import ShapeFactor, match_rms
from optax_ortho.trust_region.shape import as_stage


def scale_by_muon(
    beta: Any = 0.95,
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
    """Muon's direction, for a tree in which every leaf is a matrix (see `muon`).

    Args:
      beta: decay of the momentum M, in [0, 1).
      momentum: another first stage, such as ``heavy_ball(0.95)``; `beta` and `mu_dtype`
        are then ignored.
      orthogonalizer: another second stage; None is `Auto`.
      normalize: a third stage; Muon has none.
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
      >>> tx = optax.chain(scale_by_muon(), optax.scale_by_learning_rate(0.02))
      >>> params = {"kernel": jnp.ones((4, 6))}
      >>> updates, state = tx.update(params, tx.init(params), params)
      >>> updates["kernel"].shape
      (4, 6)
    """
    refuse_array("mu_dtype", mu_dtype)
    if momentum is None:
        momentum = nesterov(beta, mu_dtype)
    if trust_region is None:
        trust_region = match_rms(0.2)
    direction = ortho_chain(
        momentum=momentum,
        orthogonalize=orthogonalize(orthogonalizer, axes, layout),
        normalize=normalize,
        trust_region=as_stage(trust_region, axes),
    )
    return guard(direction, nonfinite, stacked_axes(axes))


@recipe_of(scale_by_muon)
def muon(
    learning_rate: optax.ScalarOrSchedule,
    beta: Any = 0.95,
    *,
    momentum: optax.GradientTransformation | None = None,
    orthogonalizer: Orthogonalizer | Callable | None = None,
    normalize: optax.GradientTransformation | None = None,
    trust_region: ShapeFactor | optax.GradientTransformation | None = None,
    mu_dtype: Any = None,
    **common: Unpack[Common],
) -> optax.GradientTransformationExtraArgs:
    """Muon for matrices, AdamW for everything else.

    Examples:
      >>> import jax.numpy as jnp
      >>> import optax_ortho
      >>> params = {"kernel": jnp.ones((4, 6)), "bias": jnp.zeros(6)}
      >>> tx = optax_ortho.muon(learning_rate=0.02, weight_decay=0.1)
      >>> updates, state = tx.update(params, tx.init(params), params)
      >>> updates["kernel"].shape
      (4, 6)

      Keller Jordan's form, with his rates:

      >>> from optax_ortho.trust_region import JORDAN
      >>> tx = optax_ortho.muon(0.02, trust_region=JORDAN, adamw_learning_rate=3e-4)
    """
    ...
