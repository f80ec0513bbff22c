"""Newton-Schulz on the Gram matrix: the long side is touched a few times only.

With ``h(R) = a + b R + c R^2`` a step is ``X <- h(X X^H) X``, and the Gram matrix of
the result is ``h(R)^2 R``, so all steps can be taken in the short side's square:

    R <- X X^H, Q <- I
    Z <- b R + c R^2
    Q <- a Q + Q Z
    R <- (a + Z)(a + Z) R               for every row (a, b, c)
    X <- Q X

A restart applies Q to X and begins anew. It is needed because rounding makes R slightly
indefinite, and h, whose slope is near 8 in the first step, multiplies that error.

References:
  Zhang, Dao et al., `Gram Newton-Schulz
  <https://github.com/Dao-AILab/gram-newton-schulz>`_, 2026
"""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from optax_ortho.orthogonalizers.coefficients import Coefficients
from optax_ortho.orthogonalizers.iteration import Iteration
from optax_ortho.orthogonalizers.newton_schulz import complete, rows_of, started
from optax_ortho.orthogonalizers.prescale import Prescale, frobenius
from optax_ortho.orthogonalizers.products import Products
from optax_ortho.orthogonalizers.tables import KELLER_JORDAN


@dataclasses.dataclass(frozen=True)
class GramNewtonSchulz(Iteration):
    """`NewtonSchulz`, cheaper for a long side beyond 1.5 times the short one.

    In true float32 with one restart it equals `NewtonSchulz` to 1e-5, and to
    3e-4 at condition 1e4, since the Gram matrix has the condition squared. At
    lower precision errors of R are amplified: with bfloat16 and a single restart
    singular values up to 2.1 were measured (the table's largest is 1.14) and a relative
    error of 0.41 at condition 1e4; with restarts at 2 and 4, 1.21 and 0.10, as good as
    NewtonSchulz in bfloat16. In float32 at a TPU's default precision, 1.62 and 0.18.
    So float32 takes the highest precision here (free on a CPU, six passes on a TPU),
    and bfloat16 may not go more than two steps without a restart.

    Args:
      coefficients: a name in `COEFFICIENTS`, a `Coefficients`, or rows (a, b, c).
      steps: the number of steps; None is the choice of the table's authors.
      restarts: the steps, counted from 0, before which to restart. None is 2, 5, 8 and
        so on in float32, and every second step in half precision. With 2 alone the
        ten steps of ``deepseek_v4`` let singular values of 1e-4 grow to 1.36.
      dtype: the dtype to compute in; None is the input's own, float32 for half
        precision.
      precision: the precision of the products; None is the highest.
      eps: added to the norm, in the units of the input.
      prescale: the norm; see `optax_ortho.orthogonalizers.frobenius`.
      unsafe: take a table that its certificate does not call safe, or a combination of
        dtype, precision and restarts that is refused for the reason above.
      products: the implementation of the products, see
        `optax_ortho.orthogonalizers.kernels`.

    Raises:
      ValueError: as `NewtonSchulz`, or a combination that loses precision.

    Examples:
      >>> x = jax.random.normal(jax.random.key(0), (8, 64))
      >>> y = GramNewtonSchulz("polar_express_8").orthogonalize(x)
      >>> print(jnp.abs(y @ y.T - jnp.eye(8)).max() < 1e-3)
      True
    """

    coefficients: Coefficients | Any = KELLER_JORDAN
    steps: int | Any = None
    restarts: tuple[int, ...] | Any = None
    dtype: Any = None
    precision: Any = None
    eps: float = 0.0
    prescale: Prescale = frobenius
    unsafe: bool = False
    products: Products = Products()

    rounded_sums = False  # The iteration amplifies their errors.

    def __post_init__(self):
        complete(self)
        half = self.dtype is not None and self.dtype.itemsize < 4
        if self.restarts is None:
            restarts = tuple(range(2, self.steps, 2 if half else 3))
        else:
            restarts = tuple(sorted(self.restarts))
        object.__setattr__(self, "restarts", restarts)
        if self.precision is None:
            object.__setattr__(self, "precision", lax.Precision.HIGHEST)
        if self.unsafe:
            return
        edges = (0, *restarts, self.steps)
        if half and max(b - a for a, b in zip(edges, edges[1:], strict=False)) > 2:
            raise ValueError(
                f"GramNewtonSchulz: {self.dtype} needs a restart every two steps, got "
                f"restarts={restarts} for {self.steps} steps; or unsafe=True."
            )
        if not half and self.precision in (lax.Precision.DEFAULT, "default", "fastest"):
            raise ValueError(
                "GramNewtonSchulz: float32 needs products of high precision, got "
                f"{self.precision}; or unsafe=True."
            )

    def iterate(self, x: jax.Array, products: Products) -> jax.Array:
        """Orthogonalizes matrices by some products; as `Iteration.iterate`."""
        products = products.unrounded()
        y, r, inverse = started(self, x, products)
        # Sums are in float32, factors in the dtype to compute in.
        wide = jnp.promote_types(y.dtype, jnp.float32)
        on_diagonal = jnp.broadcast_to(jnp.eye(r.shape[-1], dtype=bool), r.shape)
        # Y is divided by its norm at the end, so that the division is no pass of its
        # own.
        of_gram = inverse.reshape((*r.shape[:-2], 1, 1)).astype(wide)

        def gram(y):
            r = products.gram(y, self.precision)
            return r.astype(wide) * of_gram * of_gram

        def plus(a, e, c, p, q):
            p, q = p.astype(y.dtype), q.astype(y.dtype)
            return products.polynomial(a, e, c, p, q, self.precision)

        def onto(q, y):
            return products.apply(q.astype(y.dtype), y, self.precision)

        r, q = r.astype(wide), None
        for step, (a, b, c) in enumerate(rows_of(self)):
            if step in self.restarts and q is not None:
                y = onto(q, y).astype(y.dtype)
                r, q = gram(y), None
            z = plus(b, r, c, r, r)
            q = jnp.where(on_diagonal, a + z, z) if q is None else plus(a, q, 1, q, z)
            if step + 1 < self.steps and step + 1 not in self.restarts:
                s = plus(a, r, 1, r, z)
                r = plus(a, s, 1, z, s)
        return (onto(q, y) * inverse).astype(x.dtype)

    def counts(self) -> tuple[int, int]:
        """The number of starts, and of products of squares between them."""
        starts = 1 + sum(0 < step < self.steps for step in self.restarts)
        return starts, 4 * self.steps - 3 * starts
