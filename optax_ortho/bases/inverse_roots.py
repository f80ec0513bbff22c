"""The inverse square root of a symmetric matrix without negative eigenvalues.

    Eigh          V diag(w)^(-1/2) V^T of the eigendecomposition V diag(w) V^T
    NewtonRoot    Y <- A, Z <- I, and for every row (a, b, c) of a table
                  T <- a I + b ZY + c (ZY)^2,  Y <- YT,  Z <- TZ: Z nears A^(-1/2)

The second is Newton-Schulz for the root: a table acts here on the square roots of the
eigenvalues as it acts there on the singular values. It needs matrix products only.

References:
  Higham, `Functions of Matrices <https://doi.org/10.1137/1.9780898717778>`_, 2008,
  section 6.7
"""

import dataclasses
from typing import Any, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
from jax import lax

from optax_ortho.checks import check_number
from optax_ortho.orthogonalizers.coefficients import Coefficients
from optax_ortho.orthogonalizers.newton_schulz import NewtonSchulz
from optax_ortho.orthogonalizers.products import highest


@runtime_checkable
class InverseRoot(Protocol):
    """The protocol of objects that compute inverse square roots.

    The result is finite and symmetric for singular matrices too. There is no
    ``__call__``, because `optax.inject_hyperparams` treats callables as schedules.
    """

    def inverse_root(self, a: jax.Array) -> jax.Array:
        """``A^(-1/2)`` of one symmetric ``(n, n)`` matrix in float32 or better."""
        ...


@dataclasses.dataclass(frozen=True)
class Eigh:
    """Inverse square roots from LAPACK's eigendecomposition, the reference.

    In float32 the result is accurate to 1e-6 times the condition number of A^(1/2).

    Args:
      floor: the smallest eigenvalue, in units of the largest; smaller ones are raised
        to it. float32 rounds at 1e-7.

    Raises:
      ValueError: a negative floor.

    Examples:
      >>> print(Eigh().inverse_root(jnp.diag(jnp.array([4.0, 0.25]))).round(5))
      [[0.5 0. ]
       [0.  2. ]]
    """

    floor: float = 1e-7

    def __post_init__(self):
        check_number("floor", self.floor)

    def inverse_root(self, a: jax.Array) -> jax.Array:
        """``A^(-1/2)`` of one symmetric ``(n, n)`` matrix in float32 or better."""
        w, v = jnp.linalg.eigh(a)
        w = jnp.maximum(w, self.floor * w[-1:])
        root = jnp.where(w > 0, lax.rsqrt(jnp.where(w > 0, w, 1)), 0)
        # Half of the root on either side, so that the product is symmetric.
        half = v * jnp.sqrt(root)[None, :]
        return highest(half, half.T)


@dataclasses.dataclass(frozen=True)
class NewtonRoot:
    """Inverse square roots by matrix products alone, for backends with a slow `eigh`.

    Args:
      coefficients: a table of `NewtonSchulz`, by name or as `Coefficients`.
      steps: number of steps of four products each; None is the table's own number.
      floor: a term added to the eigenvalues, in units of their mean.

    Raises:
      ValueError: an unknown table, or a number out of range.

    Examples:
      >>> print(NewtonRoot().inverse_root(jnp.diag(jnp.array([4.0, 0.25]))).round(3))
      [[0.5 0. ]
       [0.  2. ]]
    """

    coefficients: Coefficients | Any = "polar_express_8"
    steps: int | Any = None
    floor: float = 1e-6

    def __post_init__(self):
        check_number("floor", self.floor)
        # Validates the arguments and resolves the name of a table.
        table = NewtonSchulz(self.coefficients, self.steps).coefficients
        object.__setattr__(self, "coefficients", table)

    def inverse_root(self, a: jax.Array) -> jax.Array:
        """``A^(-1/2)`` of one symmetric ``(n, n)`` matrix in float32 or better."""
        identity = jnp.eye(a.shape[0], dtype=a.dtype)
        a = a + self.floor * jnp.trace(a) / a.shape[0] * identity
        size = self.coefficients.bound * jnp.linalg.norm(a)
        size = jnp.where(size > 0, size, 1)
        y, z = a / size, identity
        steps = self.coefficients.steps if self.steps is None else self.steps
        for a1, b, c in self.coefficients.for_steps(steps):
            zy = highest(z, y)
            t = a1 * identity + b * zy + c * highest(zy, zy)
            y, z = highest(y, t), highest(t, z)
        return (z + z.T) / (2 * jnp.sqrt(size))
