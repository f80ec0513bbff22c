"""The products that iterations and factorizations are made of.

With k the shorter side of X, the Gram matrix and what is applied to X are k x k. A tall
X is multiplied from the right, as it lies, because a transposition would cost as much
memory traffic as a product.
"""

import dataclasses

import jax
import jax.numpy as jnp
from jax import lax

from optax_ortho.orthogonalizers.prescale import is_tall, near_unit


@dataclasses.dataclass(frozen=True)
class Products:
    """The three products of a Newton-Schulz iteration, as XLA does them.

    What comes before them, the scaling, depends as they do on how a matrix lies.

    A subclass may do them in another way; `optax_ortho.orthogonalizers.kernels` has two
    that compute one triangle of a symmetric result.

    Examples:
      >>> x = jnp.array([[1.0, 2.0]])
      >>> print(Products().gram(x, None), Products().gram(x.T, None))
      [[5.]] [[5.]]
    """

    def near_unit(self, x: jax.Array) -> tuple[jax.Array, jax.Array]:
        """X times a power of two, and the power; see `prescale.near_unit`."""
        return near_unit(x)

    def gram(self, x: jax.Array, precision: lax.PrecisionLike) -> jax.Array:
        """``X X^H``, or ``X^H X`` of a tall X, in the dtype of X."""
        if is_tall(x):
            return _einsum("...ki,...kj->...ij", x.conj(), x, precision).astype(x.dtype)
        return _einsum("...ik,...jk->...ij", x, x.conj(), precision).astype(x.dtype)

    def polynomial(
        self,
        a: float,
        e: jax.Array,
        c: float,
        p: jax.Array,
        q: jax.Array,
        precision: lax.PrecisionLike,
    ) -> jax.Array:
        """``a E + c P Q`` of three polynomials of one Hermitian matrix, so Hermitian.

        Args:
          a: a number.
          e: ``(..., k, k)``.
          c: a number; with 0 there is no product.
          p: ``(..., k, k)``, in the dtype to multiply in.
          q: ``(..., k, k)``, in the dtype to multiply in.
          precision: of the product.

        Returns:
          The sum, taken in float32 or better, in the dtype of E.
        """
        total = a * e.astype(jnp.promote_types(e.dtype, jnp.float32))
        if c != 0:
            total += c * _multiply(p, q, precision)
        return total.astype(e.dtype)

    def apply(
        self, q: jax.Array, x: jax.Array, precision: lax.PrecisionLike
    ) -> jax.Array:
        """``Q X``, or ``X Q`` of a tall X, in float32 or better."""
        if is_tall(x):
            return _multiply(x, q, precision)
        return _multiply(q, x, precision)


class InBlocks(Products):
    """The products of matrices that lie in column blocks, ``(s, m, k)`` for m x sk.

    What several devices have sent is such an array; joining the blocks would cost as
    much memory traffic as a product.
    """

    def near_unit(self, x: jax.Array) -> tuple[jax.Array, jax.Array]:
        """All blocks times one power of two."""
        return near_unit(x, (-3, -2, -1))

    def gram(self, x: jax.Array, precision: lax.PrecisionLike) -> jax.Array:
        """``X X^H``, the sum of the blocks' own."""
        return _einsum("smk,snk->mn", x, x.conj(), precision).astype(x.dtype)

    def apply(
        self, q: jax.Array, x: jax.Array, precision: lax.PrecisionLike
    ) -> jax.Array:
        """``Q X``, block by block."""
        return _einsum("mn,snk->smk", q, x, precision)


def highest(x: jax.Array, y: jax.Array) -> jax.Array:
    """``X Y`` in the highest precision, for factors that errors would accumulate in."""
    return jnp.matmul(x, y, precision=lax.Precision.HIGHEST)


def _multiply(p: jax.Array, q: jax.Array, precision: lax.PrecisionLike) -> jax.Array:
    return _einsum("...ij,...jk->...ik", p, q, precision)


def _einsum(spec: str, p: jax.Array, q: jax.Array, precision: lax.PrecisionLike):
    # Half precision is summed, and handed on, in float32.
    wide = jnp.promote_types(p.dtype, jnp.float32)
    return jnp.einsum(spec, p, q, precision=precision, preferred_element_type=wide)
