"""Newton-Schulz iteration: an odd polynomial of the matrix, applied again and again.

    X <- X / ||X||
    A <- X X^H
    X <- a X + (b A + c A^2) X        for every row (a, b, c) of a table

References:
  Jordan et al., `Muon <https://kellerjordan.github.io/posts/muon/>`_, 2024
"""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp

from optax_ortho.checks import check_number, refuse_array
from optax_ortho.orthogonalizers.coefficients import Coefficients, Row
from optax_ortho.orthogonalizers.iteration import Iteration
from optax_ortho.orthogonalizers.prescale import (
    FROM_SQUARES,
    Prescale,
    frobenius,
    has_range,
    inverse_of,
    normalized,
)
from optax_ortho.orthogonalizers.products import Products
from optax_ortho.orthogonalizers.tables import COEFFICIENTS, KELLER_JORDAN


@dataclasses.dataclass(frozen=True)
class NewtonSchulz(Iteration):
    """Orthogonalizes by a table of quintic (or cubic) steps.

    The result is scale-invariant (with ``eps=0``), zero stays exactly zero, and the
    transpose of a matrix gives the transpose of its result. With five-step tables and
    float32 compute the null space of a rank-deficient matrix is kept: rounding errors
    in it are multiplied by the table's slope, 485 for Keller Jordan's, and stay below
    1e-3 of the largest singular value. In bfloat16 it is not: rounding errors of 2^-8
    come out as large as all else.

    Args:
      coefficients: a name in `COEFFICIENTS`, a `Coefficients`, or rows (a, b, c).
      steps: the number of steps; None is the choice of the table's authors.
      dtype: the dtype to compute in; None is the input's own, float32 for half
        precision. On a TPU the default precision of a float32 product is one bfloat16
        pass, so there float32 means float32 storage.
      precision: the precision of the products; None is the backend's default.
      eps: added to the norm, in the units of the input; reference implementations have
        1e-7 or 1e-8. The result is then not scale-invariant.
      prescale: the norm; see `optax_ortho.orthogonalizers.frobenius`.
      unsafe: take a table that its certificate does not call safe.
      products: the implementation of the products, see
        `optax_ortho.orthogonalizers.kernels`.

    Raises:
      ValueError: an unknown name, a number out of range, or an unsafe table.

    Examples:
      >>> x = jnp.array([[3.0, 0.0, 0.0], [0.0, 0.3, 0.0]])
      >>> print(NewtonSchulz("polar_express_8").orthogonalize(x).round(4))
      [[1. 0. 0.]
       [0. 1. 0.]]
    """

    coefficients: Coefficients | Any = KELLER_JORDAN
    steps: int | Any = None
    dtype: Any = None
    precision: Any = None
    eps: float = 0.0
    prescale: Prescale = frobenius
    unsafe: bool = False
    products: Products = Products()

    def __post_init__(self):
        complete(self)

    def iterate(self, x: jax.Array, products: Products) -> jax.Array:
        """Orthogonalizes matrices by some products; as `Iteration.iterate`."""
        y, p, inverse = started(self, x, products)
        # Not in half precision, which would round the coefficients too.
        wide = jnp.promote_types(y.dtype, jnp.float32)
        for i, (a, b, c) in enumerate(rows_of(self)):
            p = products.gram(y, self.precision) if i else p
            q = products.polynomial(b, p, c, p, p, self.precision)
            y_wide = a * y.astype(wide) + products.apply(q, y, self.precision)
            y = (y_wide if i else y_wide * inverse).astype(y.dtype)
        return y.astype(x.dtype)

    def counts(self) -> tuple[int, int]:
        """The number of steps, and of those that square the Gram matrix."""
        return len(rows_of(self)), sum(c != 0 for _, _, c in rows_of(self))


def complete(iteration: Any) -> None:
    """Checks the fields of a frozen iteration, and fills those that follow from others.

    Raises:
      ValueError: an unknown name, a number out of range, or an unsafe table.
      TypeError: `products` is no `Products`.
    """
    name = type(iteration).__name__
    if not isinstance(iteration.products, Products):
        raise TypeError(
            f"{name}: products is an object such as kernels.Mosaic(), got "
            f"{iteration.products!r}."
        )
    table = iteration.coefficients
    refuse_array("coefficients", table)
    if isinstance(table, str):
        if table not in COEFFICIENTS:
            known = ", ".join(COEFFICIENTS)
            raise ValueError(f"{name}: no table {table!r}; there are {known}.")
        table = COEFFICIENTS[table]
    elif not isinstance(table, Coefficients):
        table = Coefficients("custom", tuple(table))
    steps = table.steps if iteration.steps is None else iteration.steps
    refuse_array("steps", steps)
    check_number("steps", steps, at_least=1)
    check_number("eps", iteration.eps)
    dtype = None if iteration.dtype is None else jnp.dtype(iteration.dtype)
    object.__setattr__(iteration, "coefficients", table)
    object.__setattr__(iteration, "steps", steps)
    object.__setattr__(iteration, "dtype", dtype)
    if not iteration.unsafe:
        _refuse_unsafe(name, table, steps, dtype)


def _refuse_unsafe(name: str, table: Coefficients, steps: int, dtype: Any) -> None:
    certificate = table.certificate(steps)
    if not certificate.bounded:
        raise ValueError(
            f"{name}: {table.name!r} is not safe: singular values in [0, 1] leave (0, "
            f"2), to {certificate.minimum:.3g} .. {certificate.maximum:.3g} after "
            f"{steps} steps or further after more. unsafe=True takes it all the same."
        )
    room = certificate.diverges_at * table.bound
    if dtype is not None and dtype.itemsize < 4 and room < 1.005:
        raise ValueError(
            f"{name}: {table.name!r} diverges from {certificate.diverges_at:.5f} on, "
            f"which {dtype} rounds to. Compute in float32, or unsafe=True."
        )


def rows_of(iteration: Any) -> tuple[Row, ...]:
    """The coefficients (a, b, c) of each step."""
    return iteration.coefficients.for_steps(iteration.steps)


def started(
    iteration: Any, x: jax.Array, products: Products
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """The operands of the first step of an iteration.

    Args:
      iteration: its dtype, precision, prescaling and eps.
      x: ``(..., m, n)``, or ``(s, m, k)`` for products in blocks.
      products: the implementation of the products.

    Returns:
      The matrix Y in the dtype to compute in, the Gram matrix of Y over its norm, and
      one over the norm, which the first step is to be multiplied by. The norm is taken
      from the trace of the Gram matrix where that is enough.
    """
    wide = jnp.promote_types(x.dtype, jnp.float32)
    dtype = wide if iteration.dtype is None else iteration.dtype
    if jnp.iscomplexobj(x):
        dtype = jnp.promote_types(dtype, jnp.complex64)
    bound, eps = iteration.coefficients.bound, iteration.eps
    of_squares = FROM_SQUARES.get(iteration.prescale)
    if of_squares is None or not has_range(dtype):
        y = normalized(x, iteration.prescale, eps, bound, dtype)
        return y, products.gram(y, iteration.precision), jnp.ones([1] * x.ndim)
    y, power = products.near_unit(x.astype(wide))
    y = y.astype(dtype)
    gram = products.gram(y, iteration.precision)
    squares = jnp.trace(gram.real.astype(power.dtype), axis1=-2, axis2=-1)
    squares = squares.reshape(power.shape)
    # Without eps the power does not count, and need not be computed again.
    norm = of_squares(squares, eps * power / bound if eps else 0.0)
    inverse = inverse_of(bound * norm, squares > 0)
    of_gram = inverse.reshape((*gram.shape[:-2], 1, 1))
    gram = (gram.astype(wide) * of_gram * of_gram).astype(gram.dtype)
    return y, gram, inverse
