"""ROOT: momentum without its outliers, orthogonalized by coefficients for its shape.

For every weight matrix W (fan_in x fan_out) with gradient G, one step is

    momentum        M <- beta M + G, and look ahead once: M' = G + beta M (Nesterov)
    outliers        t <- the 0.9 quantile of |M'|
                    B <- M' - sign(M') max(|M'| - t, 0), which is clip(M', -t, t)
    orthogonalize   O <- NewtonSchulz(B), five steps with (a, b, c) of the shape of W
    trust region    U <- 0.2 sqrt(max(fan_in, fan_out)) O
    step            W <- W - learning_rate (U + weight_decay W)

The stored momentum keeps its outliers. This is the authors' code. Their algorithm box
has no look-ahead and a constant threshold, ``nesterov=False, threshold=...``. Their
coefficients, of which one triple is not stable, are in
`optax_ortho.orthogonalizers.by_shape`, and the default here is our own fit; the
published code is

    root(learning_rate, weight_decay=0.1, eps=1e-9, orthogonalizer=ShapedNewtonSchulz(
        PUBLISHED, functools.partial(NewtonSchulz, eps=1e-7, unsafe=True)))

Both of its additions, 1e-9 to the threshold and 1e-7 to the norm, change the step for
small gradients.

References:
  He et al., `ROOT: Robust Orthogonalized Optimizer for Neural Network Training
  <https://arxiv.org/abs/2511.20626>`_, 2025
"""

from collections.abc import Callable
from typing import Any, Unpack

import optax

from optax_ortho.chain import OrthoState as RootState  # noqa: F401 (its public name)
from optax_ortho.chain import ortho_chain
from optax_ortho.checks import refuse_array
from optax_ortho.guard import guard, stacked_axes
from optax_ortho.layouts import Layout
from optax_ortho.matrices import AxesOf, Orthogonalizer, last_two
from optax_ortho.momentum import heavy_ball
from optax_ortho.orthogonalizers import Clipped, ShapedNewtonSchulz, orthogonalize
from optax_ortho.recipes import Common, recipe_of
from optax_ortho.trust_region import ShapeFactor, match_rms
from optax_ortho.trust_region.shape import as_stage


def scale_by_root(
    beta: Any = 0.95,
    *,
    nesterov: bool = True,
    quantile: Any = 0.9,
    threshold: Any = None,
    eps: Any = 0.0,
    orthogonalizer: Orthogonalizer | Callable | None = None,
    trust_region: ShapeFactor | optax.GradientTransformation | None = None,
    mu_dtype: Any = None,
    axes: AxesOf = last_two,
    layout: Layout | None = None,
    nonfinite: str | None = "skip_matrix",
) -> optax.GradientTransformationExtraArgs:
    """ROOT's direction, for a tree in which every leaf is a matrix (see `root`).

    Args:
      beta: decay of the momentum M, in [0, 1).
      nesterov: whether to look one step ahead.
      quantile: the share of a matrix's entries that is not clipped, in [0, 1).
      threshold: one constant threshold, in the units of the momentum, instead of a
        quantile. The step then depends on the size of the gradient.
      eps: added to the quantile, in the units of the momentum.
      orthogonalizer: the orthogonalizer of the clipped matrix; None is
        `ShapedNewtonSchulz`.
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
      >>> tx = optax.chain(scale_by_root(), optax.scale_by_learning_rate(0.02))
      >>> params = {"kernel": jnp.ones((4, 6))}
      >>> updates, state = tx.update(params, tx.init(params), params)
      >>> updates["kernel"].shape
      (4, 6)
    """
    refuse_array("mu_dtype", mu_dtype)
    if orthogonalizer is None:
        orthogonalizer = ShapedNewtonSchulz()
    if trust_region is None:
        trust_region = match_rms(0.2)
    clipped = Clipped(orthogonalizer, quantile, threshold, eps)
    direction = ortho_chain(
        momentum=heavy_ball(beta, nesterov, mu_dtype),
        orthogonalize=orthogonalize(clipped, axes, layout),
        trust_region=as_stage(trust_region, axes),
    )
    return guard(direction, nonfinite, stacked_axes(axes))


@recipe_of(scale_by_root)
def root(
    learning_rate: optax.ScalarOrSchedule,
    beta: Any = 0.95,
    *,
    nesterov: bool = True,
    quantile: Any = 0.9,
    threshold: Any = None,
    eps: Any = 0.0,
    orthogonalizer: Orthogonalizer | Callable | None = None,
    trust_region: ShapeFactor | optax.GradientTransformation | None = None,
    mu_dtype: Any = None,
    **common: Unpack[Common],
) -> optax.GradientTransformationExtraArgs:
    """ROOT for matrices, AdamW for everything else.

    Examples:
      >>> import jax.numpy as jnp
      >>> import optax_ortho
      >>> params = {"kernel": jnp.ones((4, 6)), "bias": jnp.zeros(6)}
      >>> tx = optax_ortho.root(learning_rate=0.02, weight_decay=0.1)
      >>> updates, state = tx.update(params, tx.init(params), params)
      >>> updates["kernel"].shape
      (4, 6)

      The algorithm box, with its constant threshold:

      >>> tx = optax_ortho.root(0.02, nesterov=False, threshold=0.01)
    """
    ...
