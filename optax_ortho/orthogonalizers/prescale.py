"""Norms that bring singular values into the interval of a table.

A prescaling is a function of a batch of matrices and an `eps` in their units; it gives
the divisor, which broadcasts against the matrices. Its result should be at least their
largest singular value.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

Prescale = Callable[[jax.Array, Any], jax.Array]
"""``(x, eps) -> divisor``."""


def frobenius(x: jax.Array, eps: float | jax.Array = 0.0) -> jax.Array:
    """The Frobenius norm, plus eps: always enough, and loose by sqrt(stable rank).

    Args:
      x: ``(..., m, n)``.
      eps: added to the norm, as most reference implementations do.

    Returns:
      ``(..., 1, 1)``.

    Examples:
      >>> print(frobenius(jnp.array([[3.0, 4.0]])))
      [[5.]]
    """
    return _norm(x) + eps


def clamped_frobenius(x: jax.Array, eps: float | jax.Array = 0.0) -> jax.Array:
    """The Frobenius norm, at least eps, as in torch.optim.Muon.

    Args:
      x: ``(..., m, n)``.
      eps: the least divisor.

    Returns:
      ``(..., 1, 1)``.

    Examples:
      >>> print(clamped_frobenius(jnp.array([[3.0, 4.0]]), 10.0))
      [[10.]]
    """
    return jnp.maximum(_norm(x), eps)


def schatten4(x: jax.Array, eps: float | jax.Array = 0.0) -> jax.Array:
    """The Schatten-4 norm, ``||X X^H||_F^(1/2)``, plus eps.

    It is never below the spectral norm, and closer to it than Frobenius: on a flat
    spectrum of n values by n^(1/4) and not n^(1/2). It costs one more Gram product.

    Args:
      x: ``(..., m, n)``.
      eps: added to the norm.

    Returns:
      ``(..., 1, 1)``.

    Examples:
      >>> print(schatten4(jnp.eye(16)))
      [[2.]]
    """
    return _sqrt(_norm(_gram(x))) + eps


def aol(x: jax.Array, eps: float | jax.Array = 0.0) -> jax.Array:
    """A divisor for each row or column on the short side (almost orthogonal layers).

    Row i is divided by ``(sum_j |X X^H|_ij)^(1/2)``, which brings all singular values
    to 1 or below. The rows are divided by different numbers, so the result is the
    polar factor of another matrix.

    Args:
      x: ``(..., m, n)``.
      eps: added to the divisors.

    Returns:
      ``(..., m, 1)`` for wide and square matrices, ``(..., 1, n)`` for tall ones.

    Examples:
      >>> aol(jnp.ones((2, 5))).shape, aol(jnp.ones((5, 2))).shape
      ((2, 1), (1, 2))

    References:
      Boissin et al., `Turbo-Muon <https://arxiv.org/abs/2512.04632>`_, 2025
    """
    sums = jnp.abs(_gram(x)).sum(-1)
    axis = -2 if is_tall(x) else -1
    return jnp.expand_dims(_sqrt(sums), axis) + eps


def to_unit(x: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Multiplies each matrix by the power of two that brings its largest entry near 1.

    A power of two changes no digit, so the result is scale-invariant to the last bit,
    and the squares in a norm neither overflow nor vanish.

    Args:
      x: ``(..., m, n)`` in float32, float64 or a complex dtype.

    Returns:
      The scaled matrices, and the powers as ``(..., 1, 1)``.

    Examples:
      >>> x, power = to_unit(jnp.array([[3e37, 6.0]]))
      >>> print(x[0, 0], power[0, 0] == 2.0**-124)
      1.4105933 True
    """
    real = jnp.finfo(x.dtype).dtype
    if x.size == 0:
        return x, jnp.ones((*x.shape[:-2], 1, 1), real)
    size = jnp.abs(x.real) + jnp.abs(x.imag) if jnp.iscomplexobj(x) else jnp.abs(x)
    # The result is scale-invariant, so its derivative in the scale is zero.
    power = _inverse_power_of_two(lax.stop_gradient(size.max((-2, -1), keepdims=True)))
    return x * power, power


def near_unit(
    x: jax.Array, axes: tuple[int, ...] = (-2, -1), mesh_axes: tuple[str, ...] = ()
) -> Any:
    """`to_unit` by a few projections, to entries from 2^-30 to 2^30.

    Each row of a tall matrix, or column of a wide one, is projected on sixteen fixed
    vectors, cosines of incommensurable frequencies, and the largest projection is
    brought near 1. With n the shorter side it is between the largest entry and a
    small part of it, typically an n-th. On a TPU such a product is nearly
    free beside a Gram matrix, and a maximum over all entries is not. Sixteen compile to
    fewer programs on a CPU than eight, and vectors of the shorter side to one for all
    shapes.

    Args:
      x: ``(..., m, n)``.
      axes: the axes of one matrix; ``(-3, -2, -1)`` for ``(s, m, k)`` blocks.
      mesh_axes: the mesh axes whose devices have the other blocks.

    Returns:
      The scaled matrices, and the powers, with length 1 along `axes`.
    """
    real = jnp.finfo(x.dtype).dtype
    n = min(x.shape[-2:])
    if x.size == 0:
        shape = [1 if i - x.ndim in axes else k for i, k in enumerate(x.shape)]
        return x, jnp.ones(shape, real)
    angles = jnp.outer(jnp.arange(n, dtype=real), jnp.arange(1, 17, dtype=real))
    vectors = (jnp.cos(angles) / n).astype(x.dtype)
    projections = x @ vectors if is_tall(x) else vectors.T @ x
    size = jnp.abs(projections.real) + jnp.abs(projections.imag)
    largest = lax.stop_gradient(size.max(axes, keepdims=True))
    largest = lax.pmax(largest, mesh_axes) if mesh_axes else largest
    power = _inverse_power_of_two(largest)
    return x * power, power


def is_tall(x: jax.Array) -> bool:
    """Whether the Gram matrix of the columns is the smaller one."""
    return x.shape[-2] > x.shape[-1]


def _inverse_power_of_two(x: jax.Array) -> jax.Array:
    """2^-k for x in [2^k, 2^(k+1)), exactly, and always a normal number."""
    float_ = jnp.finfo(x.dtype)
    unsigned = jnp.dtype(f"uint{float_.bits}")
    lowest = 1 << float_.nmant  # The lowest bit of the exponent.
    largest = 2 * (float_.maxexp - 1)  # The exponent field of the largest numbers.
    field = lax.bitcast_convert_type(x, unsigned) // unsigned.type(lowest)
    inverse = unsigned.type(largest) - jnp.minimum(field, unsigned.type(largest - 1))
    return lax.bitcast_convert_type(inverse * unsigned.type(lowest), x.dtype)


def _norm(x: jax.Array) -> jax.Array:
    """Frobenius norms, (..., 1, 1)."""
    return _sqrt(jnp.sum(jnp.real(x * x.conj()), (-2, -1), keepdims=True))


def _sqrt(x: jax.Array) -> jax.Array:
    """Square roots, with derivative zero and not infinite at zero."""
    positive = x > 0
    return jnp.where(positive, jnp.sqrt(jnp.where(positive, x, 1)), 0)


def _gram(x: jax.Array) -> jax.Array:
    highest = lax.Precision.HIGHEST
    if is_tall(x):
        return jnp.einsum("...ki,...kj->...ij", x.conj(), x, precision=highest)
    return jnp.einsum("...ik,...jk->...ij", x, x.conj(), precision=highest)


FROM_SQUARES = {
    frobenius: lambda squares, eps: _sqrt(squares) + eps,
    clamped_frobenius: lambda squares, eps: jnp.maximum(_sqrt(squares), eps),
}
"""Prescalings that need the sum of squares alone: the trace of the Gram matrix."""


def inverse_of(divisor: jax.Array, positive: jax.Array) -> jax.Array:
    """One over a norm where that is positive; else zero, so a zero matrix stays so."""
    return jnp.where(positive, 1 / jnp.where(positive, divisor, 1), 0)


def normalized(
    x: jax.Array, prescale: Prescale, eps: float, bound: float, dtype: Any
) -> jax.Array:
    """Matrices divided by ``bound * norm + eps``, in the dtype to compute in.

    The division happens in float32 or better, whatever the dtypes before and after. A
    zero matrix stays zero.
    """
    wide = jnp.promote_types(x.dtype, jnp.float32)
    x, power = to_unit(x.astype(wide))
    divisor = bound * prescale(x, eps * power / bound)
    return (x * inverse_of(divisor, divisor > 0)).astype(dtype)


def has_range(dtype: Any) -> bool:
    """Whether squares of numbers near 1 are safe in a dtype; not in float16."""
    return jnp.finfo(dtype).maxexp >= jnp.finfo(jnp.float32).maxexp
