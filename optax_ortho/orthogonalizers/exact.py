"""The polar factor itself: U V^H of X = U S V^H."""

import dataclasses
from collections.abc import Callable

import jax
import jax.numpy as jnp

from optax_ortho.orthogonalizers.method import Method, check_matrix
from optax_ortho.orthogonalizers.prescale import is_tall, to_unit


def svd_polar(x: jax.Array, cutoff: float | None = None) -> jax.Array:
    """The partial isometry of an SVD: U V^H without the smallest singular values.

    Args:
      x: ``(..., m, n)`` in float32 or better.
      cutoff: singular values below this part of the largest count as zero; None is the
        rounding of the SVD, ``eps * max(m, n)``.

    Returns:
      ``(..., m, n)``.

    Examples:
      >>> print(svd_polar(jnp.diag(jnp.array([2.0, 1e-9]))))
      [[1. 0.]
       [0. 0.]]
    """
    if cutoff is None:
        cutoff = float(jnp.finfo(x.dtype).eps) * max(x.shape[-2:])
    u, s, vh = jnp.linalg.svd(x, full_matrices=False)
    kept = s > cutoff * s.max(-1, keepdims=True)
    u = jnp.where(kept[..., None, :], u, 0)
    return jnp.matmul(u, vh, precision=jax.lax.Precision.HIGHEST)


def qdwh_polar(x: jax.Array) -> jax.Array:
    """The polar factor by QR-based dynamically weighted Halley iteration.

    It needs matrix products and QR alone, which suits a TPU better than an SVD. It is a
    loop of an unknown number of turns, so it cannot be differentiated in reverse.

    Args:
      x: ``(..., m, n)`` in float32 or better.

    Returns:
      ``(..., m, n)``.

    Examples:
      >>> print(abs(qdwh_polar(jnp.array([[0.0, 2.0, 0.0], [0.5, 0.0, 0.0]])).round(5)))
      [[0. 1. 0.]
       [1. 0. 0.]]

    References:
      Nakatsukasa, Bai and Gygi, `Optimizing Halley's Iteration
      <https://doi.org/10.1137/090774999>`_, 2010
    """

    def polar(y):
        if is_tall(y):
            return jax.lax.linalg.qdwh(y)[0]
        return jax.lax.linalg.qdwh(y.T.conj())[0].T.conj()

    for _ in x.shape[:-2]:
        polar = jax.vmap(polar)
    return polar(x)


@dataclasses.dataclass(frozen=True)
class Exact(Method):
    """Orthogonalizes by a decomposition: an oracle, and for small matrices.

    A TPU does an SVD in float32 many times slower than five products; half precision
    is decomposed in float32. Singular values at rounding level are where it differs
    from an iteration: `svd_polar` maps those below its cut-off to zero, `qdwh_polar`
    maps them to one, as noise (a null space is not kept). The derivative of an SVD is
    not finite where singular values meet, as they do at zero.

    Args:
      polar: the decomposition, a function of ``(..., m, n)`` matrices of order one in
        float32 or better.

    Examples:
      >>> print(Exact().orthogonalize(jnp.array([[0.0, -2.0], [0.5, 0.0]])))
      [[ 0. -1.]
       [ 1.  0.]]
    """

    polar: Callable[[jax.Array], jax.Array] = svd_polar

    def orthogonalize(self, x: jax.Array) -> jax.Array:
        """Orthogonalizes ``(..., m, n)`` matrices, keeping shape and dtype.

        Raises:
          ValueError: fewer than two axes.
        """
        check_matrix(x)
        if x.size == 0:
            return x
        y, _ = to_unit(x.astype(jnp.promote_types(x.dtype, jnp.float32)))
        nonzero = (y != 0).any((-2, -1), keepdims=True)
        return jnp.where(nonzero, self.polar(y), 0).astype(x.dtype)
