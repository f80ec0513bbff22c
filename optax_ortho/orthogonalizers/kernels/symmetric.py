"""Products whose result is symmetric, from its blocks on and above the diagonal.

For polynomials P, Q of one symmetric matrix, ``(P Q)_ij`` is the product of block row i
of P and block row j of Q; with ``P = Q = X`` it is a block of the Gram matrix. So one
kernel serves both. It computes the blocks with ``i <= j`` and stores each of them and
its transpose, which makes the result exactly symmetric.
"""

import dataclasses
from collections.abc import Callable
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
from jax import lax

from optax_ortho.orthogonalizers.prescale import is_tall
from optax_ortho.orthogonalizers.products import Products


@dataclasses.dataclass(frozen=True)
class Symmetric(Products):
    """`Products` whose two symmetric products are computed by a subclass's kernel."""

    by_columns = False

    takes: ClassVar[tuple[Any, ...]]

    def kernel(
        self,
        a: float,
        e: jax.Array | None,
        c: float,
        p: jax.Array,
        q: jax.Array,
        axis: int,
        precision: lax.PrecisionLike,
    ) -> jax.Array:
        """``a E + c P Q^T``, or ``a E + c P^T Q``, from one triangle.

        Args:
          a: a number.
          e: ``(k, k)``, symmetric; None is zero, in the dtype of P.
          c: a number.
          p: ``(k, n)`` or ``(n, k)``.
          q: as P.
          axis: the axis of P and Q that is summed over.
          precision: the precision of the products.

        Returns:
          ``(k, k)``, in the dtype of E.
        """
        raise NotImplementedError

    def gram(self, x: jax.Array, precision: lax.PrecisionLike) -> jax.Array:
        """``X X^T``, or ``X^T X`` of a tall X, in the dtype of X.

        Raises:
          TypeError: a dtype that the kernel does not take.
        """
        if x.size == 0:
            return super().gram(x, precision)
        precision = self._check(x, precision)

        def product(x):
            axis = 0 if is_tall(x) else 1
            return self.kernel(0, None, 1, x, x, axis, precision)

        return _batched(product)(x)

    def polynomial(
        self,
        a: float,
        e: jax.Array,
        c: float,
        p: jax.Array,
        q: jax.Array,
        precision: lax.PrecisionLike,
    ) -> jax.Array:
        """``a E + c P Q`` of three polynomials of one symmetric matrix.

        Raises:
          TypeError: a dtype that the kernel does not take.
        """
        if c == 0 or e.size == 0:
            return super().polynomial(a, e, c, p, q, precision)
        precision = self._check(p, precision)

        def product(e, p, q):
            return self.kernel(a, e, c, p, q, 1, precision)

        return _batched(product)(e, p, q)

    def _check(self, x: jax.Array, precision: lax.PrecisionLike) -> lax.PrecisionLike:
        """Refuses a dtype; the precision, which only float32 has."""
        if x.dtype not in self.takes:
            names = " and ".join(jnp.dtype(dtype).name for dtype in self.takes)
            raise TypeError(
                f"{type(self).__name__} multiplies {names} matrices, got {x.dtype}. "
                "Give the orthogonalizer one of these as dtype=, or no products=."
            )
        return precision if x.dtype == jnp.float32 else None


def pairs(blocks: int) -> list[tuple[int, int]]:
    """The blocks (i, j) on and above the diagonal, row by row in alternating order.

    Examples:
      >>> pairs(3)
      [(0, 0), (0, 1), (0, 2), (1, 2), (1, 1), (2, 2)]
    """
    rows = [[(i, j) for j in range(i, blocks)] for i in range(blocks)]
    return [pair for i, row in enumerate(rows) for pair in row[:: 1 - 2 * (i % 2)]]


def symmetrized(x: jax.Array) -> jax.Array:
    """A block with its upper triangle in both, for blocks on the diagonal."""
    row, column = (lax.broadcasted_iota(jnp.int32, x.shape, axis) for axis in (0, 1))
    return jnp.where(row <= column, x, x.T)


def padded(x: jax.Array, multiples: tuple[int, int]) -> jax.Array:
    """``x`` with zeros after it, up to multiples of these sizes."""
    pads = [(0, -n % k) for n, k in zip(x.shape, multiples, strict=True)]
    return jnp.pad(x, pads) if any(after for _, after in pads) else x


def placed(axis: int, along: Any, across: Any) -> tuple[Any, Any]:
    """One entry for the axis of the sum, and one for the other.

    Examples:
      >>> placed(1, "sum", "result")
      ('result', 'sum')
    """
    return (along, across) if axis == 0 else (across, along)


def square_like(x: jax.Array, side: int) -> jax.ShapeDtypeStruct:
    """A square in the dtype of an operand, that varies over a mesh as that does."""
    varies = jax.typeof(x).manual_axis_type
    return jax.ShapeDtypeStruct((side, side), x.dtype, manual_axis_type=varies)


def _batched(f: Callable[..., jax.Array]) -> Callable[..., jax.Array]:
    """A function of matrices over all leading axes."""

    def over(*xs):
        return jax.vmap(over)(*xs) if xs[0].ndim > 2 else f(*xs)

    return over
