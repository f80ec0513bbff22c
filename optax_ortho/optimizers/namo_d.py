"""NAMO-D: NAMO with a separate step size for every input of a matrix.

For every weight matrix W (fan_in x fan_out) with gradient G, step t is

    momentum        M <- beta M + (1 - beta) G, then look ahead once (Nesterov)
    orthogonalize   O <- NewtonSchulz(M), five steps
    second moments  v_j <- beta2 v_j + (1 - beta2) |G_j|^2
    ratios          d_j = |M_j| / (sqrt(v_j) + eps), clipped to [c mean(d), mean(d) / c]
                    a_j = d_j sqrt(1 - beta2^t) / (1 - beta^t)
    step            W_j <- W_j (1 - weight_decay min(learning_rate a_j, 1))
                    W_j <- W_j - min(learning_rate a_j s, 1) O_j

where j is one input: a row of W here, a column in PyTorch. See `namo` for s, the form
in the paper, the learning rate and the scale of gradients.

References:
  Zhang, Liu and Schaeffer, `Adam Improves Muon
  <https://arxiv.org/abs/2602.17080>`_, 2026
"""

from collections.abc import Callable
from functools import partial
from typing import Any, Unpack

import optax

from optax_ortho.chain import ortho_chain
from optax_ortho.checks import refuse_array
from optax_ortho.guard import guard, stacked_axes
from optax_ortho.layouts import Layout
from optax_ortho.matrices import AxesOf, Orthogonalizer, last_two
from optax_ortho.momentum import nesterov
from optax_ortho.normalizers import moment_norm
from optax_ortho.orthogonalizers import orthogonalize
from optax_ortho.recipes import Common, matrices_else_fallback, no_decay, recipe_of
from optax_ortho.trust_region import ShapeFactor, match_rms


def scale_by_namo_d(
    beta: Any = 0.95,
    beta2: Any = 0.99,
    eps: Any = 1e-8,
    c: Any = 0.75,
    *,
    per: str = "fan_in",
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
    """NAMO-D's direction, for a tree in which every leaf is a matrix (see `namo_d`).

    Args:
      beta: decay of the momentum M, and of its bias correction, in [0, 1).
      beta2: decay of the second moments, in [0, 1).
      eps: added to the roots of v, in the units of the norm of one input's gradient.
      c: the smallest ratio, and 1/c the largest, relative to the mean of its matrix,
        in [0, 1]; 0 sets no bound. The authors' class has 0.75, their sweeps 0.12 to
        0.9.
      per: the scope of one ratio: "fan_in", each input; "fan_out", each output; or the
        "matrix", which is NAMO.
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

    Examples:
      >>> import jax.numpy as jnp
      >>> state = scale_by_namo_d().init({"kernel": jnp.ones((4, 6))})
      >>> state.inner.normalize.moment_rms["kernel"].shape
      (4,)
    """
    refuse_array("mu_dtype", mu_dtype)
    refuse_array("trust_region", trust_region)
    factor = match_rms(0.2) if trust_region is None else trust_region
    if not isinstance(factor, ShapeFactor):
        raise TypeError(f"NAMO's trust_region is a ShapeFactor, got {factor!r}.")
    direction = ortho_chain(
        momentum=nesterov(beta, mu_dtype) if momentum is None else momentum,
        orthogonalize=orthogonalize(orthogonalizer, axes, layout),
        normalize=moment_norm(
            beta,
            beta2,
            eps,
            per=per,
            c=c,
            factor=factor.of,
            max_step=max_step,
            weight_decay=weight_decay,
            weight_decay_mask=weight_decay_mask,
            axes=axes,
        ),
    )
    return guard(direction, nonfinite, stacked_axes(axes))


# The third stage decays.
without_decay = partial(matrices_else_fallback, decay=no_decay)


@recipe_of(scale_by_namo_d, build=without_decay)
def namo_d(
    learning_rate: optax.ScalarOrSchedule,
    beta: Any = 0.95,
    beta2: Any = 0.99,
    eps: Any = 1e-8,
    c: Any = 0.75,
    *,
    per: str = "fan_in",
    momentum: optax.GradientTransformation | None = None,
    orthogonalizer: Orthogonalizer | Callable | None = None,
    trust_region: ShapeFactor | None = None,
    max_step: Any = 1.0,
    mu_dtype: Any = None,
    **common: Unpack[Common],
) -> optax.GradientTransformationExtraArgs:
    """NAMO-D for matrices, AdamW for everything else (see `namo`).

    Args:
      learning_rate: step size of the matrices, or a schedule of the step count. The
        update of a matrix has an RMS of about 0.2 a times it.

    Examples:
      >>> import jax.numpy as jnp
      >>> import optax_ortho
      >>> params = {"kernel": jnp.ones((4, 6)), "bias": jnp.zeros(6)}
      >>> tx = optax_ortho.namo_d(0.009, c=0.12, adamw_learning_rate=0.001)
      >>> updates, state = tx.update(params, tx.init(params), params)
      >>> updates["kernel"].shape
      (4, 6)
    """
    ...
