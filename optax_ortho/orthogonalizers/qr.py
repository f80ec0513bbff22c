"""Orthonormal columns of a tall matrix: the Q of X = Q R, with R's diagonal positive.

    Householder           reflections; the reference, and slow on an accelerator
    ShiftedCholesky       L L^T = X^T X + shift |X|_F^2 I,  X <- X L^-T,  again
    RandomizedCholesky    R of the QR of a random S X,  X <- X R^-1,  then Cholesky

A Cholesky factorization squares the condition number, so it can fail where the columns
depend on each other; both Cholesky methods then take Householder's result.

References:
  Fukaya et al., `Shifted Cholesky QR for Computing the QR Factorization of
  Ill-Conditioned Matrices <https://arxiv.org/abs/1809.11085>`_, 2018
  Fan et al., `Novel Randomized Cholesky QR Algorithms
  <https://arxiv.org/abs/2111.11148>`_, 2021
"""

import dataclasses
import math
from typing import Protocol, runtime_checkable

import jax
import jax.numpy as jnp
from jax import lax

from optax_ortho.checks import check_number
from optax_ortho.orthogonalizers.prescale import to_unit
from optax_ortho.orthogonalizers.products import highest


@runtime_checkable
class QR(Protocol):
    """Any object that orthonormalizes the columns of a tall matrix.

    The result is finite whatever the rank of the matrix is, and zero gives something
    finite too. There is no ``__call__``, because `optax.inject_hyperparams` takes
    callables for schedules.
    """

    def qr(self, x: jax.Array) -> jax.Array:
        """The Q of one ``(m, n)`` matrix, m >= n, in float32 or better."""
        ...


@dataclasses.dataclass(frozen=True)
class Householder:
    """The QR decomposition of LAPACK.

    Where columns depend on others it completes them with orthonormal ones, which are
    made of rounding errors.

    Examples:
      >>> print(5 * Householder().qr(jnp.array([[3.0], [4.0]])))
      [[3.]
       [4.]]
    """

    def qr(self, x: jax.Array) -> jax.Array:
        """The Q of one ``(m, n)`` matrix, m >= n, in float32 or better."""
        x, _ = to_unit(x)
        q, r = jnp.linalg.qr(x)
        diagonal = jnp.diagonal(r)
        return q * jnp.where(diagonal < 0, -1, 1).astype(q.dtype)[None, :]


@dataclasses.dataclass(frozen=True)
class ShiftedCholesky:
    """QR by Cholesky factorizations of Gram matrices: products, and one small factor.

    Without a shift and with two passes it is Cholesky-QR2. Columns that depend on
    others come out shorter than 1, or, where a factorization failed, as Householder's.

    Args:
      passes: the number of passes; each squares what the one before left of the
        condition number. Two are orthonormal to 3e-6 for a condition number of 1e4 in
        float32, three to rounding for 1e6.
      shift: added to the Gram matrix of the first pass, in units of its trace.

    Raises:
      ValueError: no pass, or a negative shift.

    Examples:
      >>> print(5 * ShiftedCholesky().qr(jnp.array([[3.0], [4.0]])))
      [[3.]
       [4.]]
    """

    passes: int = 2
    shift: float = 1e-7

    def __post_init__(self):
        check_number("passes", self.passes, at_least=1)
        check_number("shift", self.shift)

    def qr(self, x: jax.Array) -> jax.Array:
        """The Q of one ``(m, n)`` matrix, m >= n, in float32 or better."""
        q, _ = to_unit(x)
        for i in range(self.passes):
            q = _cholesky_pass(q, self.shift, first=i == 0)
        return _or_householder(q, x)


@dataclasses.dataclass(frozen=True)
class RandomizedCholesky:
    """Randomized Cholesky-QR, Dion's own: a small QR of a sketch, then one Cholesky.

    A matrix with no more rows than its sketch would have is left to Householder. The
    published code does so only where it is not tall, and draws a new sketch each time;
    here the sketch is the same for one shape.

    Args:
      oversample: rows of the sketch for each column of the matrix, at least 1; the
        number of rows is rounded up to a multiple of 128.
      seed: the seed of the sketch.

    Raises:
      ValueError: `oversample` below 1.

    Examples:
      >>> print(5 * RandomizedCholesky().qr(jnp.array([[3.0], [4.0]])))
      [[3.]
       [4.]]
    """

    oversample: float = 1.25
    seed: int = 0

    def __post_init__(self):
        check_number("oversample", self.oversample, at_least=1.0)

    def qr(self, x: jax.Array) -> jax.Array:
        """The Q of one ``(m, n)`` matrix, m >= n, in float32 or better."""
        m, n = x.shape
        rows = 128 * math.ceil(self.oversample * n / 128)
        if m <= rows:
            return Householder().qr(x)
        q, _ = to_unit(x)
        sketch = jax.random.normal(jax.random.key(self.seed), (rows, m), x.dtype)
        r = jnp.linalg.qr(highest(sketch, q), mode="r")
        # Signs of rows, so that the diagonal is positive; zero is left as it is.
        r = r * jnp.where(jnp.diagonal(r) < 0, -1, 1).astype(r.dtype)[:, None]
        q = lax.linalg.triangular_solve(r, q, left_side=False)
        q = q * math.sqrt(rows)  # The sketch has entries of variance 1.
        return _or_householder(_cholesky_pass(q, 0.0, first=True), x)


def _cholesky_pass(x: jax.Array, shift: float, first: bool) -> jax.Array:
    """``X L^-T`` with L L^T = X^T X + a shift; NaN where there is no such L."""
    gram = highest(x.conj().T, x)
    diagonal = jnp.diagonal(gram)
    # After the first pass columns have length 1, and a trace would be n.
    size = jnp.sum(diagonal) if first else jnp.max(diagonal)
    gram = gram + shift * size * jnp.eye(x.shape[1], dtype=x.dtype)
    lower = lax.linalg.cholesky(gram, symmetrize_input=False)
    return lax.linalg.triangular_solve(
        lower, x, left_side=False, lower=True, transpose_a=True, conjugate_a=True
    )


def _or_householder(q: jax.Array, x: jax.Array) -> jax.Array:
    """Q, or Householder's where a factorization failed."""
    good = jnp.isfinite(q).all()
    return lax.cond(good, lambda: q, lambda: Householder().qr(x))
