"""Large entries of a momentum, cut before it is orthogonalized (ROOT).

With a threshold t, the outliers of M are its soft threshold T_t, and the rest is M with
every entry clipped:

    T_t[M] = sign(M) max(|M| - t, 0)
    B = M - T_t[M] = clip(M, -t, t)

References:
  He et al., `ROOT <https://arxiv.org/abs/2511.20626>`_, 2025
"""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp

from optax_ortho.checks import check_number
from optax_ortho.orthogonalizers.method import Method, check_matrix, flops_of, method_of
from optax_ortho.orthogonalizers.quantile import quantile_of_magnitudes
from optax_ortho.orthogonalizers.transform import as_function


@dataclasses.dataclass(frozen=True)
class Clipped(Method):
    """An orthogonalizer of the matrix whose outliers are cut.

    Every matrix has a threshold of its own, a quantile of the magnitudes of its
    entries, so the result is scale-invariant if the orthogonalizer is. A tenth of the
    entries is clipped at each step, outliers or not.

    Where more than nine tenths of the entries are zero that quantile is zero, and
    clipping at zero would leave nothing: such a matrix is not clipped. The authors'
    code adds 1e-9 to the threshold (`eps`), and then orthogonalizes the signs of the
    entries that are not zero.

    Args:
      orthogonalizer: the orthogonalizer of the clipped matrix; any function or object
        that `orthogonalize` takes.
      quantile: the share of entries that are not clipped, in [0, 1).
      threshold: one constant threshold for all matrices, in the units of the momentum,
        instead of a quantile. The result is then not scale-invariant.
      eps: added to the quantile, in the units of the momentum.

    Raises:
      ValueError: a number out of range.

    Examples:
      >>> from optax_ortho.orthogonalizers import svd_polar
      >>> x = jnp.array([[1.0, 0.0], [0.0, 100.0]])
      >>> print(Clipped(lambda x: x, quantile=2 / 3).orthogonalize(x))
      [[1. 0.]
       [0. 1.]]
    """

    orthogonalizer: Any
    # Traced numbers have no hash.
    quantile: Any = dataclasses.field(default=0.9, hash=False)
    threshold: Any = dataclasses.field(default=None, hash=False)
    eps: Any = dataclasses.field(default=0.0, hash=False)

    def __post_init__(self):
        as_function(self.orthogonalizer)
        check_number("quantile", self.quantile, below=1.0)
        check_number("eps", self.eps)
        if self.threshold is not None:
            check_number("threshold", self.threshold)

    def orthogonalize(self, x: jax.Array) -> jax.Array:
        """Clips and orthogonalizes ``(..., m, n)`` matrices, keeping shape and dtype.

        Raises:
          ValueError: fewer than two axes.
        """
        check_matrix(x)
        if x.ndim > 2:
            return jax.vmap(self.orthogonalize)(x)
        if self.threshold is None:
            threshold = quantile_of_magnitudes(x, self.quantile) + self.eps
            threshold = jnp.where(threshold > 0, threshold, jnp.inf)
        else:
            threshold = self.threshold
        return as_function(self.orthogonalizer)(clip(x, threshold))

    def method(self, shape: tuple[int, int], dtype: Any, platform: str) -> Any:
        """The method for the clipped matrix."""
        return method_of(self.orthogonalizer, shape, dtype, platform)

    def flops(self, m: int, n: int) -> int | None:
        """FLOPs for one m x n matrix, without the threshold."""
        return flops_of(self.orthogonalizer, m, n)


def clip(x: jax.Array, threshold: Any) -> jax.Array:
    """``x`` with magnitudes up to a threshold; a larger entry keeps its sign or phase.

    Args:
      x: an array of any shape and dtype.
      threshold: at least 0.

    Examples:
      >>> print(clip(jnp.array([-3.0, 1.0]), 2.0))
      [-2.  1.]
    """
    wide = x.astype(jnp.promote_types(x.dtype, jnp.float32))
    threshold = jnp.asarray(threshold, jnp.finfo(wide.dtype).dtype)
    if jnp.iscomplexobj(x):
        size = jnp.abs(wide)
        large = size > threshold
        wide *= jnp.where(large, threshold / jnp.where(large, size, 1), 1)
    else:
        wide = jnp.clip(wide, -threshold, threshold)
    return wide.astype(x.dtype)
