"""The choice between methods, by shape, dtype and backend."""

import dataclasses
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp

from optax_ortho.orthogonalizers.coefficients import Coefficients
from optax_ortho.orthogonalizers.gram import GramNewtonSchulz
from optax_ortho.orthogonalizers.iteration import Iteration
from optax_ortho.orthogonalizers.newton_schulz import NewtonSchulz
from optax_ortho.orthogonalizers.products import Products
from optax_ortho.orthogonalizers.tables import KELLER_JORDAN

# A float32 matrix of this size stays in a TPU's vector memory through an iteration.
VMEM_BYTES = 2**25


@dataclasses.dataclass(frozen=True)
class Auto(Iteration):
    """Newton-Schulz by the method that suits shape, dtype and backend.

    ========  =====================================  =================================
    backend   matrix                                 method
    ========  =====================================  =================================
    CPU       long side above 1.5 times the short    `GramNewtonSchulz` in float32
    CPU       nearer to square                       `NewtonSchulz` in float32
    TPU       up to 32 MB in float32                 `NewtonSchulz`, float32 storage
    TPU       larger                                 `NewtonSchulz` in bfloat16
    others    any                                    `NewtonSchulz` in bfloat16
    any       float64 or complex                     `NewtonSchulz` in its own dtype
    ========  =====================================  =================================

    On a CPU, six layers of GPT-2 shapes at width 256 took 0.28 of the time of
    `optax.contrib.muon` with Gram and 0.44 without. On a TPU v5e (compiled, cycles in
    millions, float32 storage against bfloat16) 768x3072 takes 0.39 against 0.45 and
    2048x2048 2.11 against 2.16, and errs less where the condition is bad (0.007 against
    0.025 at 1e2); 2048x8192 no longer fits and takes 8.28 against 6.41. There Gram in
    bfloat16 with two restarts takes 5.08, but lets singular values reach 1.21, so it is
    no default.

    The backend is the one that the program is compiled for, not the one at hand.
    ``python -m benchmarks.device`` measures which method is best on yours.

    Args:
      coefficients: a name in `COEFFICIENTS`, a `Coefficients`, or rows (a, b, c).
      steps: the number of steps; None is the choice of the table's authors.

    Examples:
      >>> Auto().method((256, 1024), jnp.float32, "cpu").__class__.__name__
      'GramNewtonSchulz'
      >>> Auto().method((256, 256), jnp.float32, "cpu").__class__.__name__
      'NewtonSchulz'
    """

    coefficients: Coefficients | Any = KELLER_JORDAN
    steps: int | Any = None

    def __post_init__(self):
        # Checks the arguments, and finds the table of a name.
        table = NewtonSchulz(self.coefficients, self.steps).coefficients
        object.__setattr__(self, "coefficients", table)

    def method(
        self, shape: tuple[int, int], dtype: Any, platform: str
    ) -> NewtonSchulz | GramNewtonSchulz:
        """The method for matrices of a shape and dtype on a platform.

        Args:
          shape: ``(m, n)`` of one matrix.
          dtype: its dtype.
          platform: "cpu", "tpu", "cuda" or another, as in `jax.default_backend`.

        Returns:
          The method.

        Examples:
          >>> Auto().method((2048, 8192), jnp.float32, "tpu").dtype
          dtype(bfloat16)
        """
        given = (self.coefficients, self.steps)
        short, long = sorted(shape[-2:])
        if jnp.promote_types(dtype, jnp.float32) != jnp.float32:
            return NewtonSchulz(*given)
        if platform == "cpu":
            if long > 1.5 * short:
                return GramNewtonSchulz(*given)
            return NewtonSchulz(*given)
        if platform == "tpu" and 4 * short * long <= VMEM_BYTES:
            return NewtonSchulz(*given)
        return NewtonSchulz(*given, dtype=jnp.bfloat16)

    def iterate(self, x: jax.Array, products: Products) -> jax.Array:
        """Orthogonalizes by the method for the platform of the program."""
        shape = products.shape_of(x)
        methods = {
            platform: self.method(shape, x.dtype, platform)
            for platform in ("cpu", "tpu", "default")
        }
        if len(set(methods.values())) == 1:
            return methods["cpu"].iterate(x, products)
        branches = {
            platform: partial(method.iterate, products=products)
            for platform, method in methods.items()
        }
        return jax.lax.platform_dependent(x, **branches)

    def counts(self) -> tuple[int, int]:
        """The counts of `NewtonSchulz`, which a TPU or GPU runs."""
        return NewtonSchulz(self.coefficients, self.steps).counts()
