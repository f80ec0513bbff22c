"""The products that iterations and factorizations are made of.

With k the shorter side of X, the Gram matrix and what is applied to X are k x k. A tall
X is multiplied from the right, as it lies, because a transposition would cost as much
memory traffic as a product.
"""

import jax
import jax.numpy as jnp
from jax import lax

from optax_ortho.orthogonalizers.prescale import is_tall


def gram(x: jax.Array, precision: lax.PrecisionLike) -> jax.Array:
    """``X X^H``, or ``X^H X`` of a tall X."""
    if is_tall(x):
        return _einsum("...ki,...kj->...ij", x.conj(), x, precision).astype(x.dtype)
    return _einsum("...ik,...jk->...ij", x, x.conj(), precision).astype(x.dtype)


def multiply(p: jax.Array, q: jax.Array, precision: lax.PrecisionLike) -> jax.Array:
    """``P Q`` of two square matrices."""
    return _einsum("...ij,...jk->...ik", p, q, precision)


def apply(q: jax.Array, x: jax.Array, precision: lax.PrecisionLike) -> jax.Array:
    """``Q X``, or ``X Q`` of a tall X."""
    return multiply(x, q, precision) if is_tall(x) else multiply(q, x, precision)


def highest(x: jax.Array, y: jax.Array) -> jax.Array:
    """``X Y`` in the highest precision, for factors that errors would accumulate in."""
    return jnp.matmul(x, y, precision=lax.Precision.HIGHEST)


def _einsum(spec: str, p: jax.Array, q: jax.Array, precision: lax.PrecisionLike):
    # Half precision is summed, and handed on, in float32.
    wide = jnp.promote_types(p.dtype, jnp.float32)
    return jnp.einsum(spec, p, q, precision=precision, preferred_element_type=wide)
