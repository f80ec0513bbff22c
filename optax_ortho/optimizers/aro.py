"""ARO: steepest descent in a basis that rotates with the momentum.

For every weight matrix W (fan_in x fan_out) with gradient G, where the rotation R, I at
first, acts on the shorter side (here fan_in) and f is a step of steepest descent, one
step is

    momentum        M <- beta M + (1 - beta) G
    rotation        R <- Q of QR(M f(R^T M)^T)
    descent         O <- R f(R^T M)
    trust region    U <- 0.2 O / rms(O)
    step            W <- W - learning_rate (U + weight_decay W)

f is `base`, a transformation of one matrix, by default five rounds of Sinkhorn. With an
f that does not depend on the basis, such as `optax_ortho.orthogonalize`, ARO is Muon;
with ``row_norm`` each step is one of power iteration towards Muon. The published forms:

    ARO-Sinkhorn    base=sinkhorn(5, simultaneous=True), side=ResidualStream(), cutoff=0
    ARO-RowNorm     base=row_norm()
    ARO-Sign        base=optax.scale_by_sign()
    ARO-Adam        base=second_moment(0.95)
    dion (branch)   trust_region=match_rms(0.2) or UNSCALED, side="fan_out", cutoff=0

The defaults differ from these for three reasons. Sinkhorn with rows and columns at once
does not converge on small or nearly diagonal matrices: with an odd number of rounds it
stops on a 2 x 2 parabola at an error of 1.43 (see `normalizers.sinkhorn`). Where the
rotated side is longer, or the momentum has low rank, M f^T has a null space, the last
columns of R are rounding errors, and f brings their rows to full size: on 128 x 32 a
change of the gradient by 1e-7 changes the update by 110 %. `cutoff` drops such rows,
which makes that 1e-6; the shorter side has none in general. dion's branch scales an O
of RMS 1 as if its spectral norm were 1, so the RMS of its update is 0.2
sqrt(max(fan_in, fan_out)).

On a CPU, for six layers of GPT-2 shapes at width 256, a step takes 1.4 times Muon's
with LAPACK's threads off (OPENBLAS_NUM_THREADS=1). With them on two cores it takes 2
times at best, and far more where other programs compete for the cores.

References:
  Gong et al., `ARO: A New Lens On Matrix Optimization For Large Models
  <https://arxiv.org/abs/2602.09006>`_, 2026
"""

from typing import Any, Unpack

import optax

from optax_ortho.bases import in_rotation
from optax_ortho.bases.sides import Side
from optax_ortho.chain import OrthoState as AroState  # noqa: F401 (its public name)
from optax_ortho.chain import ortho_chain
from optax_ortho.checks import refuse_array
from optax_ortho.guard import guard, stacked_axes
from optax_ortho.layouts import Layout
from optax_ortho.matrices import AxesOf, last_two
from optax_ortho.momentum import ema
from optax_ortho.normalizers import sinkhorn
from optax_ortho.orthogonalizers import QR
from optax_ortho.recipes import Common, recipe_of
from optax_ortho.trust_region import ShapeFactor, normalized
from optax_ortho.trust_region.shape import as_stage


def scale_by_aro(
    beta: Any = 0.95,
    *,
    momentum: optax.GradientTransformation | None = None,
    base: optax.GradientTransformation | None = None,
    qr: QR | None = None,
    side: Side = "short",
    cutoff: Any = 1e-5,
    normalize: optax.GradientTransformation | None = None,
    trust_region: ShapeFactor | optax.GradientTransformation | None = None,
    mu_dtype: Any = None,
    axes: AxesOf = last_two,
    layout: Layout | None = None,
    nonfinite: str | None = "skip_matrix",
) -> optax.GradientTransformationExtraArgs:
    """ARO's direction, for a tree in which every leaf is a matrix (see `aro`).

    Args:
      beta: decay of the momentum M, in [0, 1).
      momentum: another first stage; `beta` and `mu_dtype` are then ignored.
      base: the step f in the rotated basis: a transformation of one matrix whose rows
        are the rotated side, with state or without; None is ``sinkhorn(5)``.
      qr: the orthonormalization of columns, in float32; None is `Householder`, and
        ``ShiftedCholesky()`` is for accelerators.
      side: the side that is rotated: "short" (fan_in of a square matrix), "fan_in",
        "fan_out", or ``bases.ResidualStream()``, the paper's choice.
      cutoff: rows of R^T M below this part of the largest count as zero; 0 is as
        published.
      normalize: a third stage; ARO has none.
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
      TypeError: `base`, `qr` or `side` is of another type.

    Examples:
      >>> import jax.numpy as jnp
      >>> tx = optax.chain(scale_by_aro(), optax.scale_by_learning_rate(0.02))
      >>> params = {"kernel": jnp.ones((4, 6))}
      >>> updates, state = tx.update(params, tx.init(params), params)
      >>> updates["kernel"].shape
      (4, 6)

      A step of your own in the basis:

      >>> def soft_sign(updates, params):
      ...     return updates / (1 + abs(updates))
      >>> tx = scale_by_aro(base=optax.stateless(soft_sign))
    """
    refuse_array("mu_dtype", mu_dtype)
    refuse_array("base", base)
    if momentum is None:
        momentum = ema(beta, mu_dtype)
    if base is None:
        base = sinkhorn(5)
    if trust_region is None:
        trust_region = normalized("matrix", target_rms=0.2, axes=axes)
    direction = ortho_chain(
        momentum=momentum,
        orthogonalize=in_rotation(base, qr, side, cutoff, axes, layout),
        normalize=normalize,
        trust_region=as_stage(trust_region, axes),
    )
    return guard(direction, nonfinite, stacked_axes(axes))


@recipe_of(scale_by_aro)
def aro(
    learning_rate: optax.ScalarOrSchedule,
    beta: Any = 0.95,
    *,
    momentum: optax.GradientTransformation | None = None,
    base: optax.GradientTransformation | None = None,
    qr: QR | None = None,
    side: Side = "short",
    cutoff: Any = 1e-5,
    normalize: optax.GradientTransformation | None = None,
    trust_region: ShapeFactor | optax.GradientTransformation | None = None,
    mu_dtype: Any = None,
    **common: Unpack[Common],
) -> optax.GradientTransformationExtraArgs:
    """ARO for matrices, AdamW for everything else.

    Examples:
      >>> import jax.numpy as jnp
      >>> import optax_ortho
      >>> params = {"kernel": jnp.ones((4, 6)), "bias": jnp.zeros(6)}
      >>> tx = optax_ortho.aro(learning_rate=0.003, weight_decay=0.1)
      >>> updates, state = tx.update(params, tx.init(params), params)
      >>> updates["kernel"].shape
      (4, 6)

      ARO-Adam:

      >>> from optax_ortho.normalizers import second_moment
      >>> tx = optax_ortho.aro(learning_rate=0.003, base=second_moment(0.95))
    """
    ...
