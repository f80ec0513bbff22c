"""Orthogonalizers made of matrix products: one iteration, for one device or several."""

from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from optax_ortho.orthogonalizers.method import Method, check_matrix
from optax_ortho.orthogonalizers.prescale import (
    FROM_SQUARES,
    Prescale,
    frobenius,
    has_range,
)
from optax_ortho.orthogonalizers.products import InBlocks, Products
from optax_ortho.orthogonalizers.sharing import (
    Shared,
    cost_of_gather,
    cost_of_sums,
    in_rows,
)


class Iteration(Method):
    """An orthogonalizer that takes its matrix products from outside.

    A subclass writes `iterate` and `counts`, and has the attributes below. Whole
    matrices, matrices in column blocks, and matrices of which several devices have
    columns differ in their products alone.

    Attributes:
      dtype: the dtype to compute in; None is the input's own, float32 for half
        precision.
      prescale: the norm that a matrix is divided by.
      products: the implementation of the products of whole matrices.
      rounded_sums: whether the iteration tolerates Gram matrices that are rounded to
        the dtype of communication.

    Examples:
      >>> class Cubic(Iteration):
      ...     def iterate(self, x, products):
      ...         y = x / jnp.sqrt(jnp.trace(products.gram(x, None)))
      ...         for _ in range(15):
      ...             gram = products.gram(y, None)
      ...             y = 1.5 * y - 0.5 * products.apply(gram, y, None)
      ...         return y
      ...
      ...     def counts(self):
      ...         return 16, 0
      >>> x = jnp.array([[3.0, 0.0, 0.0], [0.0, 0.5, 0.0]])
      >>> print(Cubic().orthogonalize(x).round(4))
      [[1. 0. 0.]
       [0. 1. 0.]]
      >>> columns = x.T.reshape(3, 2, 1)
      >>> print(Cubic().orthogonalize_blocks(columns)[:, :, 0].T.round(4))
      [[1. 0. 0.]
       [0. 1. 0.]]
    """

    dtype: Any = None
    prescale: Prescale = staticmethod(frobenius)
    products: Products = Products()
    rounded_sums: bool = True

    def iterate(self, x: jax.Array, products: Products) -> jax.Array:
        """Orthogonalizes matrices by some products.

        Args:
          x: ``(..., m, n)`` matrices, or one matrix in the form that `products` takes.
          products: the implementation of the matrix products.

        Returns:
          The result, with the shape and dtype of x.
        """
        raise NotImplementedError

    def counts(self) -> tuple[int, int]:
        """The number of Gram matrices, and of products of Gram matrices.

        With each Gram matrix goes one product of a Gram matrix and the matrix itself.
        """
        raise NotImplementedError

    def orthogonalize(self, x: jax.Array) -> jax.Array:
        """Orthogonalizes ``(..., m, n)`` matrices, keeping shape and dtype.

        Raises:
          ValueError: fewer than two axes.
        """
        check_matrix(x)
        return self.iterate(x, self.products)

    def orthogonalize_blocks(self, x: jax.Array) -> jax.Array:
        """Orthogonalizes one matrix in column blocks, ``(s, m, k)`` for m x sk.

        The order of the columns, and so of the blocks, makes no difference.
        """
        s, m, k = x.shape
        if s == 1:
            return self.orthogonalize(x[0])[None]
        if m <= s * k and self._by_sums(x.dtype):
            return self.iterate(x, InBlocks())
        whole = x.transpose((1, 0, 2)).reshape((m, s * k))
        return self.orthogonalize(whole).reshape((m, s, k)).transpose((1, 0, 2))

    def orthogonalize_shared(
        self, x: jax.Array, axes: tuple[str, ...], wire_dtype: Any
    ) -> jax.Array:
        """Orthogonalizes one matrix of which this device has the blocks ``(s, m, k)``.

        Where the iteration needs more than sums of Gram matrices, all devices gather
        the whole matrix, and each does all the work.

        Args:
          x: the blocks on this device.
          axes: the mesh axes whose devices have the other blocks.
          wire_dtype: the dtype in which Gram matrices are communicated, where the
            iteration tolerates it.
        """
        if self._by_sums(x.dtype):
            rows = in_rows(x.shape[1], lax.axis_size(axes))
            return self.iterate(x, Shared(axes, wire_dtype, rows))
        blocks = lax.all_gather(x, axes)
        y = self.orthogonalize_blocks(blocks.reshape((-1, *x.shape[1:])))
        index = lax.axis_index(axes)
        return lax.dynamic_index_in_dim(y.reshape(blocks.shape), index, keepdims=False)

    def flops(self, m: int, n: int) -> int:
        """Floating-point operations for one real m x n matrix."""
        short, long = sorted((m, n))
        sums, squares = self.counts()
        return 4 * sums * short**2 * long + 2 * squares * short**3

    def shared_cost(
        self, m: int, n: int, devices: int, wire_dtype: Any
    ) -> tuple[float, float]:
        """FLOPs, and bytes sent, of each device that shares an m x n matrix."""
        compute = jnp.dtype(jnp.float32 if self.dtype is None else self.dtype)
        itemsize = jnp.dtype(wire_dtype if self.rounded_sums else compute).itemsize
        if not self._by_sums(compute):
            return self.flops(m, n), itemsize * cost_of_gather(m, n, devices)
        rows = self.rounded_sums and in_rows(m, devices)
        flops, sent = cost_of_sums(*self.counts(), m, n, devices, rows)
        return flops, itemsize * sent

    def _by_sums(self, dtype: Any) -> bool:
        """Whether the iteration needs nothing of a matrix but its Gram matrix."""
        wide = jnp.promote_types(dtype, jnp.float32)
        compute = wide if self.dtype is None else self.dtype
        by_square = self.prescale in FROM_SQUARES and has_range(compute)
        return self.products.by_columns and by_square
