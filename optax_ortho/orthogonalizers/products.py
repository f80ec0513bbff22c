"""The products that iterations and factorizations are made of.

With k the shorter side of X, the Gram matrix and the factors applied to X are k x k. A
tall X is multiplied from the right, without a transposition, which would cost as much
memory traffic as a product. Products of half precision are summed, and returned, in
float32.
"""

import dataclasses

import jax
import jax.numpy as jnp
from jax import lax

from optax_ortho.orthogonalizers.prescale import is_tall, near_unit


@dataclasses.dataclass(frozen=True)
class Products:
    """The three products of a Newton-Schulz iteration, as XLA does them.

    A subclass may compute them in another way, or for matrices in another form;
    `optax_ortho.orthogonalizers.kernels` has two that compute one triangle of a
    symmetric result.

    Examples:
      >>> x = jnp.array([[1.0, 2.0]])
      >>> print(Products().gram(x, None), Products().gram(x.T, None))
      [[5.]] [[5.]]
    """

    # Whether the products of a matrix in column blocks may be `InBlocks`.
    by_columns = True

    def shape_of(self, x: jax.Array) -> tuple[int, int]:
        """The shape of one matrix."""
        return x.shape[-2], x.shape[-1]

    def unrounded(self) -> "Products":
        """The same products, with nothing rounded for communication."""
        return self

    def near_unit(self, x: jax.Array) -> tuple[jax.Array, jax.Array]:
        """X times a power of two, and the power; see `prescale.near_unit`."""
        return near_unit(x)

    def gram(self, x: jax.Array, precision: lax.PrecisionLike) -> jax.Array:
        """``X X^H``, or ``X^H X`` of a tall X, in the dtype of X."""
        spec, p, q = "...ik,...jk->...ij", x, x.conj()
        if is_tall(x):
            spec, p, q = "...ki,...kj->...ij", x.conj(), x
        wide = jnp.promote_types(x.dtype, jnp.float32)
        gram = jnp.einsum(spec, p, q, precision=precision, preferred_element_type=wide)
        return gram.astype(x.dtype)

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
          precision: the precision of the product.

        Returns:
          The sum, taken in float32 or better, in the dtype of E.
        """
        total = a * e.astype(jnp.promote_types(e.dtype, jnp.float32))
        if c != 0:
            wide = jnp.promote_types(p.dtype, jnp.float32)
            pq = jnp.matmul(p, q, precision=precision, preferred_element_type=wide)
            total += c * pq
        return total.astype(e.dtype)

    def apply(
        self, q: jax.Array, x: jax.Array, precision: lax.PrecisionLike
    ) -> jax.Array:
        """``Q X``, or ``X Q`` of a tall X, in float32 or better."""
        p, q = (x, q) if is_tall(x) else (q, x)
        wide = jnp.promote_types(x.dtype, jnp.float32)
        return jnp.matmul(p, q, precision=precision, preferred_element_type=wide)


class InBlocks(Products):
    """The products of matrices in column blocks, ``(s, m, k)`` for m x sk.

    Matrices arrive from several devices in this form; joining the blocks would cost as
    much memory traffic as a product.
    """

    def shape_of(self, x: jax.Array) -> tuple[int, int]:
        """The shape of the matrix."""
        s, m, k = x.shape
        return m, s * k

    def near_unit(self, x: jax.Array) -> tuple[jax.Array, jax.Array]:
        """All blocks times one power of two."""
        return near_unit(x, (-3, -2, -1))

    def gram(self, x: jax.Array, precision: lax.PrecisionLike) -> jax.Array:
        """``X X^H``, the sum of the blocks' own."""
        wide = jnp.promote_types(x.dtype, jnp.float32)
        gram = jnp.einsum(
            "smk,snk->mn", x, x.conj(), precision=precision, preferred_element_type=wide
        )
        return gram.astype(x.dtype)

    def apply(
        self, q: jax.Array, x: jax.Array, precision: lax.PrecisionLike
    ) -> jax.Array:
        """``Q X``, block by block."""
        wide = jnp.promote_types(q.dtype, jnp.float32)
        return jnp.einsum(
            "mn,snk->smk", q, x, precision=precision, preferred_element_type=wide
        )


def highest(x: jax.Array, y: jax.Array) -> jax.Array:
    """``X Y`` in the highest precision, for factors that errors would accumulate in."""
    return jnp.matmul(x, y, precision=lax.Precision.HIGHEST)
