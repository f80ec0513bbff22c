"""Matrices constrained to the Frobenius norm that they were initialized with.

For every weight matrix W with norm R at the start and direction U, one step is

    step       W <- W - learning_rate R U / |U|_F
    project    W <- R W / |W|_F

so the learning rate is the norm of the step relative to the norm of the weights,
whatever their shape. Weight decay would have no effect: it is radial, and projected
away.

References:
  Wen et al., `Fantastic Pretraining Optimizers and Where to Find Them II: Hyperball
  Optimization <https://arxiv.org/abs/2606.16899>`_, 2026
"""

import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from optax_ortho.blocks import init_blocks, length, map_blocks, rms
from optax_ortho.matrices import AxesOf, MatrixAxes, last_two


class HyperballState(NamedTuple):
    """The initial norms R, in a leaf's shape without its fan-in and fan-out axes."""

    radius: Any


def hyperball(axes: AxesOf = last_two) -> optax.GradientTransformationExtraArgs:
    """Takes steps relative to the norm of a matrix, and restores that norm after each.

    Put it last in a chain, after the learning rate. Incoming updates are in units of R,
    so the direction has to have norm 1, which `trust_region.normalized` with "matrix"
    ensures. Each block of a fused leaf has its own norm.

    A matrix does not move if its step is zero, is not finite, or ends at the origin.
    **A matrix that is zero at init stays zero**: its norm is kept at zero. Exclude such
    matrices, and vectors, with `optax.masked`. In half precision the norm is accurate
    to the rounding of the sum of parameters and updates.

    Args:
      axes: the `MatrixAxes` of a leaf, from its path and the leaf.

    Returns:
      The transformation, whose state is in float32 or better.

    Raises:
      ValueError: at init, a leaf that is not a matrix; in ``update``, no parameters.

    Examples:
      >>> w = jnp.array([[3.0, 0.0], [0.0, 4.0]])
      >>> tx = hyperball()
      >>> updates, state = tx.update(jnp.array([[0.0, 1.0], [0.0, 0.0]]), tx.init(w), w)
      >>> print(jnp.linalg.norm(w + updates).round(4), state.radius)
      5.0 5.0

      MuonH:

      >>> from optax_ortho import scale_by_muon
      >>> from optax_ortho.trust_region import normalized
      >>> direction = scale_by_muon(trust_region=normalized("matrix"))
      >>> tx = optax.chain(direction, optax.scale_by_learning_rate(0.01), hyperball())
    """

    def radius_of(axes, block):
        return jnp.squeeze(_norm(block, axes), axes.fan_in + axes.fan_out)

    def measure(axes, scale, block, zero):
        del scale, zero
        return block, radius_of(axes, block)

    def project(axes, scale, step, w, radius):
        del scale  # The step is scaled already.
        over = axes.fan_in + axes.fan_out
        r = jnp.expand_dims(radius, over)
        old = w.astype(r.dtype)
        new = old + r * step.astype(r.dtype)
        norm = _norm(new, axes)
        moves = jnp.any(step != 0, over, keepdims=True)
        moves &= (norm > 0) & jnp.isfinite(norm)
        new = new * (r / jnp.where(moves, norm, 1))
        return jnp.where(moves, new - old, 0).astype(step.dtype), radius

    def init(params):
        # First a tree of the right structure, then its values.
        zeros = init_blocks(radius_of, axes, params)
        return HyperballState(map_blocks(measure, axes, zeros, params)[1])

    def update(updates, state, params=None, **extra):
        del extra
        if params is None:
            raise ValueError("hyperball needs params in update.")
        updates, radius = map_blocks(project, axes, state.radius, updates, params)
        return updates, HyperballState(radius)

    return optax.GradientTransformationExtraArgs(init, update)


def _norm(x: jax.Array, axes: MatrixAxes) -> jax.Array:
    """Frobenius norms, computed from the RMS, so that no square overflows."""
    over = axes.fan_in + axes.fan_out
    return rms(x, over) * math.sqrt(length(x.shape, over))
