"""The base of the orthogonalizers: the part that a summary asks for."""

from typing import Any

import jax
import jax.numpy as jnp


class Method:
    """The base of orthogonalizers that appear in a summary, with usual answers."""

    def method(self, shape: tuple[int, int], dtype: Any, platform: str) -> Any:
        """The orthogonalizer that runs for matrices of a shape and dtype.

        Args:
          shape: ``(m, n)`` of one matrix.
          dtype: its dtype.
          platform: "cpu", "tpu", "cuda" or another, as in `jax.default_backend`.
        """
        del shape, dtype, platform
        return self

    def flops(self, m: int, n: int) -> int | None:
        """Floating-point operations for one real m x n matrix; None if unknown."""
        del m, n
        return None


def method_of(
    orthogonalizer: Any, shape: tuple[int, int], dtype: Any, platform: str
) -> Any:
    """The method behind any orthogonalizer: itself, unless it is a `Method`."""
    if isinstance(orthogonalizer, Method):
        return orthogonalizer.method(shape, dtype, platform)
    return orthogonalizer


def flops_of(method: Any, m: int, n: int) -> int | None:
    """The FLOPs of any orthogonalizer for one m x n matrix; None if unknown."""
    return method.flops(m, n) if isinstance(method, Method) else None


def check_matrix(x: jax.Array) -> None:
    """Refuses an array with fewer than two axes.

    Raises:
      ValueError: it has fewer.
    """
    if jnp.ndim(x) < 2:
        raise ValueError(
            f"An orthogonalizer takes (..., m, n) arrays, got shape {jnp.shape(x)}."
        )
