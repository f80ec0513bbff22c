"""A low-rank orthonormal factor of the momentum, with feedback of the rest.

With gradient G, momentum M (0 at the start), and B = M or its transpose, whichever is
not wide:

    accumulate      M <- M + G
    power step      P <- Q of the QR of B V,  R <- B^T P
    feedback        B <- B - (1 - beta) P R^T
    basis           V <- R, each column divided by its length

and the result is P V^T. It is the first and the second stage of `optax_ortho.dion` in
one, because the feedback goes from the second to the first.

References:
  Ahn et al., `Dion: Distributed Orthonormalized Updates
  <https://arxiv.org/abs/2504.05295>`_, 2025
  Vogels et al., `PowerSGD <https://arxiv.org/abs/1905.13727>`_, 2019
"""

import dataclasses
import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from optax_ortho import layouts
from optax_ortho.checks import check_number, refuse_array
from optax_ortho.layouts import Layout
from optax_ortho.matrices import AxesOf, last_two
from optax_ortho.orthogonalizers.method import Method
from optax_ortho.orthogonalizers.prescale import is_tall, to_unit
from optax_ortho.orthogonalizers.products import highest
from optax_ortho.orthogonalizers.qr import QR, RandomizedCholesky
from optax_ortho.orthogonalizers.transform import record_matrices


class PowerState(NamedTuple):
    """The momentum M and the basis V of every matrix.

    Attributes:
      mu: at each leaf, M folded to ``(*batch, fan_in, fan_out)``.
      basis: at each leaf, V as ``(*batch, min(fan_in, fan_out), rank)`` in float32.
    """

    mu: Any
    basis: Any


@dataclasses.dataclass(frozen=True)
class PowerIteration(Method):
    """The low-rank factors of a matrix, improved from step to step.

    Args:
      rank_fraction: the rank over the shorter side, in (0, 1].
      rank_multiple_of: the rank is rounded up to a multiple of it, but not above the
        shorter side.
      steps: power steps for each step of the optimizer.
      qr: the orthonormalization of columns.

    Raises:
      ValueError: a number out of range.
      TypeError: an array where `optax.inject_hyperparams` replaced a number.

    Examples:
      >>> PowerIteration(rank_fraction=0.25, rank_multiple_of=8).rank(100, 400)
      32
    """

    rank_fraction: float = 1.0
    rank_multiple_of: int = 1
    steps: int = 1
    qr: QR = RandomizedCholesky()

    def __post_init__(self):
        for field in dataclasses.fields(self):
            refuse_array(field.name, getattr(self, field.name))
        if not 0 < self.rank_fraction <= 1:
            raise ValueError(f"rank_fraction must be in (0, 1]: {self.rank_fraction}.")
        check_number("rank_multiple_of", self.rank_multiple_of, at_least=1)
        check_number("power_iterations", self.steps, at_least=1)
        if not isinstance(self.qr, QR):
            raise TypeError(f"qr needs a method `qr`; got {self.qr!r}.")

    def rank(self, fan_in: int, fan_out: int) -> int:
        """The rank of the step of a matrix of that shape."""
        short, multiple = min(fan_in, fan_out), self.rank_multiple_of
        return min(multiple * math.ceil(self.rank_fraction * short / multiple), short)

    def flops(self, m: int, n: int) -> int:
        """FLOPs for one matrix: the products, and the QR as if by reflections."""
        rank = self.rank(m, n)
        products = 4 * (self.steps + 1) * m * n * rank
        return products + 4 * self.steps * max(m, n) * rank**2

    def factors(self, b: jax.Array, v: jax.Array) -> tuple[jax.Array, jax.Array]:
        """P and R with P R^T near B, from the V of the step before."""
        r = v
        for _ in range(self.steps):
            p = self.qr.qr(highest(b, r))
            r = highest(b.T, p)
        return p, r  # pyright: ignore[reportPossiblyUnbound]


def low_rank(
    beta: Any,
    power: PowerIteration | None = None,
    eps: Any = 0.0,
    cutoff: Any = None,
    seed: int = 0,
    mu_dtype: Any = None,
    axes: AxesOf = last_two,
    layout: Layout | None = None,
) -> optax.GradientTransformationExtraArgs:
    """Orthonormalizes the leading part of the momentum; the rest stays for later steps.

    The momentum is inside, so a chain with this second stage has no first one.

    Args:
      beta: the part of the applied momentum that stays in M, in [0, 1).
      power: the method for the leading part; None is full rank.
      eps: added to the lengths of R's columns, in units of the gradient.
      cutoff: columns of R below this part of the longest are roundings: nothing is
        applied along them, and their V stays. None is ``eps * max(fan_in, fan_out)`` of
        float32. The authors' code has no cut-off: three steps with one 64 x 32 gradient
        of rank one then give P V^T a spectral norm of 3 and a Frobenius norm of 5.6,
        not 1.
      seed: the seed of the first V, which is the same for all matrices of one shape.
      mu_dtype: dtype of M; None is the parameter's own.
      axes: the `MatrixAxes` of a leaf, from its path and the leaf.
      layout: the distribution of the matrices over devices; None is `layouts.local()`.

    Returns:
      A transformation from gradients to P V^T, with a `PowerState`.

    Raises:
      ValueError: an argument out of range, or at init a leaf that is not a matrix.

    Examples:
      >>> tx = low_rank(0.95, PowerIteration(rank_fraction=0.5))
      >>> x = jnp.diag(jnp.array([8.0, 1.0]))
      >>> updates, state = tx.update(x, tx.init(x))
      >>> print(jnp.linalg.svd(updates, compute_uv=False).round(3))
      [1. 0.]
    """
    power = PowerIteration() if power is None else power
    check_number("beta", beta, below=1.0)
    check_number("eps", eps)
    if cutoff is not None:
        check_number("cutoff", cutoff)
    refuse_array("seed", seed)
    layout = layouts.local() if layout is None else layout

    def of_matrix(w):
        wide = jnp.promote_types(w.dtype, jnp.float32)
        shape = min(w.shape), power.rank(*w.shape)
        # One start for all matrices of a shape, be they stacked or not.
        basis = jax.random.normal(jax.random.key(seed), shape, wide)
        return PowerState(jnp.zeros_like(w, dtype=mu_dtype), basis)

    def init(params):
        record_matrices(params, axes, power, layout)
        return layout.init(of_matrix, axes, params)

    def step(g, state):
        old, v = state
        wide = v.dtype
        m, unit = to_unit(old.astype(wide) + g.astype(wide))
        b = m if is_tall(m) else m.T
        p, r = power.factors(b, v)

        lengths = jnp.sqrt(jnp.sum(r * r, 0, keepdims=True))
        noise = jnp.finfo(wide).eps * max(m.shape) if cutoff is None else cutoff
        signal = lengths > noise * jnp.max(lengths, initial=0)
        p = jnp.where(signal, p, 0)
        divisor = lengths + jnp.asarray(eps, wide) * unit
        v = jnp.where(signal, r / jnp.where(signal, divisor, 1), v)

        applied = highest(p, jnp.where(signal, r, 0).T)
        b = b - (1 - jnp.asarray(beta, wide)) * applied
        u = highest(p, v.T)
        m, u = (b, u) if is_tall(m) else (b.T, u.T)
        return u.astype(g.dtype), PowerState((m / unit).astype(old.dtype), v)

    def update(updates, state, params=None, **extra):
        del params, extra
        return layout.map(step, axes, updates, state=state)

    return optax.GradientTransformationExtraArgs(init, update)
