"""A whitened basis: a Kronecker factor of the gradient's covariance for each side.

For one gradient G (fan_in x fan_out), with P for fan_out and Q for fan_in, I at first:

    L <- G^T Q^-1 G / fan_in + mu tr(P) / fan_out I
    P <- gamma P + (1 - gamma) L,  scaled to trace fan_out
    R <- G P^-1 G^T / fan_out + mu tr(Q) / fan_in I        with the new P
    Q <- gamma Q + (1 - gamma) R,  scaled to trace fan_in
    enter: Q^(-1/2) X P^(-1/2),  and leave: the same

That is one Gauss-Seidel sweep a step. By default the first term of L is scaled to trace
fan_out and the first term of R to trace fan_in; as published, neither is.

References:
  Xu, Yan and Zhang, `FISMO <https://arxiv.org/abs/2601.21750>`_, 2026, algorithm 1
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax import lax

from optax_ortho import layouts
from optax_ortho.bases.inverse_roots import Eigh, InverseRoot
from optax_ortho.checks import check_number, refuse_array
from optax_ortho.frames import Frame
from optax_ortho.layouts import Layout
from optax_ortho.matrices import AxesOf, last_two
from optax_ortho.orthogonalizers.prescale import to_unit
from optax_ortho.orthogonalizers.products import highest


class Factors(NamedTuple):
    """The factors, and their inverse square roots, of one matrix or of a tree of them.

    Attributes:
      p: fan_out x fan_out, or 1 x 1 if it is kept at the identity.
      q: fan_in x fan_in, or 1 x 1.
      p_root: ``P^(-1/2)``.
      q_root: ``Q^(-1/2)``.
    """

    p: Any
    q: Any
    p_root: Any
    q_root: Any


class WhiteningState(NamedTuple):
    """The step count, and the factors as trees like the parameters."""

    whitening_count: jax.typing.ArrayLike
    factors: Factors


def whitening(
    gamma: Any = 0.95,
    mu: Any = 1.0,
    *,
    normalize_stats: bool = True,
    update_every: Any = 1,
    max_dim: int | None = None,
    inverse_root: InverseRoot | None = None,
    axes: AxesOf = last_two,
    layout: Layout | None = None,
) -> Frame:
    """The whitened frame, as in the box above, for `in_frame`.

    Args:
      gamma: decay of the factors, in [0, 1].
      mu: damping, in units of the mean eigenvalue of a factor.
      normalize_stats: whether the gradient's term is scaled to the trace of the factor,
        which makes it scale-invariant; False is as published.
      update_every: period, in steps, of updates of the factors, from the first step on.
        An update uses the gradient of its step alone.
      max_dim: sides longer than this keep the identity; None is no limit.
      inverse_root: the method that computes inverse roots; None is `Eigh`.
      axes: the `MatrixAxes` of a leaf, from its path and the leaf.
      layout: how the matrices are spread over devices; None is `layouts.local()`.

    Returns:
      A frame with a `WhiteningState`. States and updates in the frame are in float32 or
      better.

    Raises:
      ValueError: a number out of range.
      TypeError: `inverse_root` has no method `inverse_root`.

    Examples:
      >>> from optax_ortho.frames import in_frame
      >>> tx = in_frame(whitening(gamma=0.0, mu=1e-6), optax.identity())
      >>> x = jnp.diag(jnp.array([1.0, 1e3]))
      >>> updates, _ = tx.update(x, tx.init(x))
      >>> print(float(updates[1, 1] / updates[0, 0]) < 10)
      True
    """
    check_number("gamma", gamma, below=1.0 + 1e-9)
    check_number("mu", mu)
    check_number("update_every", update_every, at_least=1)
    refuse_array("normalize_stats", normalize_stats)
    refuse_array("max_dim", max_dim)
    inverse_root = Eigh() if inverse_root is None else inverse_root
    if not isinstance(inverse_root, InverseRoot):
        raise TypeError(
            f"inverse_root is an object with that method, got {inverse_root!r}."
        )
    layout = layouts.local() if layout is None else layout

    def identity(length, dtype):
        held = max_dim is not None and length > max_dim
        return jnp.eye(1 if held else length, dtype=_wide(dtype))

    def init(params):
        p = layout.init(lambda x: identity(x.shape[1], x.dtype), axes, params)
        q = layout.init(lambda x: identity(x.shape[0], x.dtype), axes, params)
        return WhiteningState(jnp.zeros([], jnp.int32), Factors(p, q, p, q))

    def moved(old, half, trace, power):
        """A factor updated with the statistics half^T half / trace."""
        n = old.shape[0]
        eye = jnp.eye(n, dtype=old.dtype)
        keep = jnp.asarray(gamma, old.dtype)
        stats = highest(half.T, half)
        if normalize_stats:
            size = jnp.trace(stats) / n
            stats, shrink = stats / jnp.where(size > 0, size, 1), 1.0
        else:
            # The gradient was scaled by a power of two. Undoing that could overflow,
            # so for a large gradient all other terms are made smaller instead.
            stats = stats * (jnp.minimum(1, 1 / power) ** 2 / trace)
            shrink = jnp.minimum(1, power) ** 2
        damping = jnp.asarray(mu, old.dtype) * jnp.trace(old) / n * eye
        new = shrink * (keep * old + (1 - keep) * damping) + (1 - keep) * stats
        size = jnp.trace(new) / n
        return jnp.where(size > 0, new / jnp.where(size > 0, size, 1), old)

    def sweep(g, factors):
        p, q, p_root, q_root = factors
        x, power = to_unit(g.astype(_wide(g.dtype)))
        power = power[0, 0]
        # A 1 x 1 factor is the identity, held there or because its trace is 1.
        if p.size > 1:
            p = moved(p, _on_the_left(q_root, x), g.shape[0], power)
            p_root = inverse_root.inverse_root(p)
        if q.size > 1:
            q = moved(q, _on_the_right(x, p_root).T, g.shape[1], power)
            q_root = inverse_root.inverse_root(q)
        return x, Factors(p, q, p_root, q_root)

    def renew(updates, factors):
        return layout.map(sweep, axes, updates, state=factors)[1]

    def update(updates, state, params=None, **extra):
        del params, extra
        if isinstance(update_every, int) and update_every == 1:
            factors = renew(updates, state.factors)
        else:
            due = state.whitening_count % jnp.asarray(update_every, jnp.int32) == 0
            factors = lax.cond(
                due, renew, lambda updates, factors: factors, updates, state.factors
            )
        count = optax.safe_increment(state.whitening_count)
        return WhiteningState(count, factors)

    def whiten(x, roots):
        unit, power = to_unit(x.astype(_wide(x.dtype)))
        y = _on_the_right(_on_the_left(roots[1], unit), roots[0])
        return y / power, roots

    def through(updates, state):
        roots = state.factors.p_root, state.factors.q_root
        return layout.map(whiten, axes, updates, state=roots)[0]

    return Frame(init, update, enter=through, leave=through)


def _on_the_left(root: jax.Array, x: jax.Array) -> jax.Array:
    return x if root.size == 1 else highest(root, x)


def _on_the_right(x: jax.Array, root: jax.Array) -> jax.Array:
    return x if root.size == 1 else highest(x, root)


def _wide(dtype: Any) -> Any:
    return jnp.promote_types(dtype, jnp.float32)
