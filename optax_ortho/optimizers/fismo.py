"""FISMO: Muon in a basis whitened by Kronecker factors of the Fisher information.

For every weight matrix W (fan_in x fan_out) with gradient G, and with factors P of
fan_out and Q of fan_in that start at I, one step is

    factors         P <- gamma P + (1 - gamma) L,  Q <- gamma Q + (1 - gamma) R
    whiten          G~ <- Q^(-1/2) G P^(-1/2)
    momentum        M <- beta M + (1 - beta) G~
    orthogonalize   O <- Q^(-1/2) NewtonSchulz(M) P^(-1/2)
    trust region    U <- 0.2 O / rms(O)
    step            W <- W - learning_rate (U + weight_decay W)

with L and R as in `optax_ortho.bases.whitening`: the second moments of G whitened on
the other side, damped by mu, each factor scaled to a mean eigenvalue of 1. With gamma =
1 it is Muon. As published:

    FISMO           normalize_stats=False, trust_region=UNSCALED

As published, L has the size of G^2 while P keeps its trace, so the step depends on the
size of the gradient. After 20 random gradients of 32 x 128 with mu = 0.01, entries of
0.01 leave every condition number at 1.00, which is Muon; entries of 1 make it 3; and
entries of 100 make it 1e7, and the update 470 times Muon's. By default L and R are
scaled to the traces of P and Q, and the size of the gradient does not matter.

No source names beta, gamma or mu; the defaults are ours. A small mu turns the spectrum
of a steady gradient around: the step is longest where the gradient is smallest. From
zero to [[3, -2], [1, 4]] at rate 0.01 Muon takes 3,000 steps to come within 0.01, mu =
1 as many, 0.3 less than 10,000 and 0.1 less than 25,000; 0.01 is at 2.2 after 30,000.

On a CPU, for six layers of GPT-2 shapes at width 256, a step takes 26 times Muon's, and
2.5 times where the factors are not renewed: ``update_every=10`` makes that 4.8. There
`bases.NewtonRoot` takes 4 times as long as `bases.Eigh`.

References:
  Xu, Yan and Zhang, `FISMO: Fisher-Structured Momentum-Orthogonalized Optimizer
  <https://arxiv.org/abs/2601.21750>`_, 2026
"""

from collections.abc import Callable
from typing import Any, Unpack

import optax

from optax_ortho.bases import InverseRoot, whitening
from optax_ortho.chain import OrthoState as FismoState  # noqa: F401 (its public name)
from optax_ortho.chain import ortho_chain
from optax_ortho.checks import refuse_array
from optax_ortho.dtypes import keep_dtypes
from optax_ortho.frames import in_frame
from optax_ortho.guard import guard, stacked_axes
from optax_ortho.layouts import Layout, local
from optax_ortho.matrices import AxesOf, Orthogonalizer, last_two
from optax_ortho.momentum import ema
from optax_ortho.orthogonalizers import orthogonalize
from optax_ortho.recipes import Common, recipe_of
from optax_ortho.trust_region import ShapeFactor, normalized
from optax_ortho.trust_region.shape import as_stage


def scale_by_fismo(
    beta: Any = 0.95,
    gamma: Any = 0.95,
    mu: Any = 1.0,
    *,
    normalize_stats: bool = True,
    update_every: Any = 1,
    max_dim: int | None = None,
    inverse_root: InverseRoot | None = None,
    momentum: optax.GradientTransformation | None = None,
    orthogonalizer: Orthogonalizer | Callable | None = None,
    normalize: optax.GradientTransformation | None = None,
    trust_region: ShapeFactor | optax.GradientTransformation | None = None,
    mu_dtype: Any = None,
    axes: AxesOf = last_two,
    layout: Layout | None = None,
    nonfinite: str | None = "skip_matrix",
) -> optax.GradientTransformationExtraArgs:
    """FISMO's direction, for a tree in which every leaf is a matrix (see `fismo`).

    Args:
      beta: decay of the whitened momentum M, in [0, 1).
      gamma: decay of the factors P and Q, in [0, 1]; at 1 they stay I.
      mu: damping of the factors, in units of their mean eigenvalue, at least 0.
      normalize_stats: whether a gradient's second moments are scaled to the trace of
        the factor they go into; False is as published.
      update_every: the period, in steps, in which the factors and their roots are
        renewed, from the first step on, with the gradient of that step alone.
      max_dim: a side longer than this keeps the identity for its factor; None is no
        limit.
      inverse_root: the method for ``P^(-1/2)``, in float32; None is `bases.Eigh`, and
        `bases.NewtonRoot` needs products alone.
      momentum: another momentum, inside the basis; `beta` and `mu_dtype` are then
        ignored. Under `layouts.sharded` M is stored on the owners of the matrices;
        another momentum is sharded like the parameters and communicated, because it
        may couple matrices.
      orthogonalizer: the orthogonalizer of M; None is `Auto`.
      normalize: a third stage; FISMO has none.
      trust_region: another scale, a `ShapeFactor` or a whole fourth stage; None is
        ``normalized("matrix", target_rms=0.2)``.
      mu_dtype: dtype of M; None is float32 or the parameter's own, if that is wider.
      axes: the `MatrixAxes` of a leaf, from its path and the leaf.
      layout: the distribution of the matrices over devices; None is
        `layouts.local()`.
      nonfinite: "skip_matrix", "skip_step" or "off"; None is for a direction inside
        a guarded recipe.

    Returns:
      The direction, without learning rate and sign.

    Raises:
      ValueError: an argument out of range, or at init a leaf that is not a matrix.
      TypeError: `inverse_root` is no `InverseRoot`.

    Examples:
      >>> import jax.numpy as jnp
      >>> tx = optax.chain(scale_by_fismo(), optax.scale_by_learning_rate(0.02))
      >>> params = {"kernel": jnp.ones((4, 6))}
      >>> updates, state = tx.update(params, tx.init(params), params)
      >>> updates["kernel"].shape
      (4, 6)
    """
    refuse_array("mu_dtype", mu_dtype)
    # Another momentum may couple matrices, so it stays where it sees all of them.
    layout = local() if layout is None else layout
    stored_with_owners = momentum is None
    momentum = ema(beta, mu_dtype) if momentum is None else momentum
    if trust_region is None:
        trust_region = normalized("matrix", target_rms=0.2, axes=axes)

    def in_basis(axes, layout):
        basis = whitening(
            gamma,
            mu,
            normalize_stats=normalize_stats,
            update_every=update_every,
            max_dim=max_dim,
            inverse_root=inverse_root,
            axes=axes,
            layout=layout,
        )
        inside = optax.chain(momentum, orthogonalize(orthogonalizer, axes, layout))
        # The dtype inside is float32.
        return keep_dtypes(in_frame(basis, inside))

    direction = ortho_chain(
        # Stages 1 and 2 are both in the basis.
        orthogonalize=layout.resident(in_basis, axes)
        if stored_with_owners
        else in_basis(axes, layout),
        normalize=normalize,
        trust_region=as_stage(trust_region, axes),
    )
    return guard(direction, nonfinite, stacked_axes(axes))


@recipe_of(scale_by_fismo)
def fismo(
    learning_rate: optax.ScalarOrSchedule,
    beta: Any = 0.95,
    gamma: Any = 0.95,
    mu: Any = 1.0,
    *,
    normalize_stats: bool = True,
    update_every: Any = 1,
    max_dim: int | None = None,
    inverse_root: InverseRoot | None = None,
    momentum: optax.GradientTransformation | None = None,
    orthogonalizer: Orthogonalizer | Callable | None = None,
    normalize: optax.GradientTransformation | None = None,
    trust_region: ShapeFactor | optax.GradientTransformation | None = None,
    mu_dtype: Any = None,
    **common: Unpack[Common],
) -> optax.GradientTransformationExtraArgs:
    """FISMO for matrices, AdamW for everything else.

    Examples:
      >>> import jax.numpy as jnp
      >>> import optax_ortho
      >>> params = {"kernel": jnp.ones((4, 6)), "bias": jnp.zeros(6)}
      >>> tx = optax_ortho.fismo(learning_rate=0.02, update_every=10)
      >>> updates, state = tx.update(params, tx.init(params), params)
      >>> updates["kernel"].shape
      (4, 6)

      As published:

      >>> from optax_ortho.trust_region import UNSCALED
      >>> tx = optax_ortho.fismo(0.02, normalize_stats=False, trust_region=UNSCALED)
    """
    ...
