"""Matrices that stay on the sphere of the Frobenius norm they began with.

For every weight matrix W with norm R at the start and direction U, one step is

    step       W <- W - learning_rate R U / |U|_F
    project    W <- R W / |W|_F

so the learning rate is the length of the step over that of the weights, whatever their
shape. There is no weight decay: it points to the center, and is projected away.

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
    """The norms R at the start, a leaf's shape without its fan-in and fan-out axes."""

    radius: Any


def hyperball(axes: AxesOf = last_two) -> optax.GradientTransformationExtraArgs:
    """Makes steps relative to the norm of a matrix, and keeps that norm.

    It stands last, after the learning rate. What comes in is taken for the step over R,
    so the direction has to have norm 1: `trust_region.normalized` with "matrix" does
    that. Of a fused leaf each block has a sphere of its own.

    A step of zero, one that is not finite, or one that ends in the center leaves its
    matrix as it is. **A matrix that is zero at init stays zero**: its sphere is a
    point. Leave it out with `optax.masked`, as vectors. In half precision the norm is
    kept to the rounding of the sum of parameters and updates.

    Args:
      axes: the `MatrixAxes` of a leaf, from its path and the leaf.

    Returns:
      The transformation, whose state is in float32 or better.

    Raises:
      ValueError: at init a leaf that is not a matrix, and an update without parameters.

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

    def radius_of(one, block):
        over = one.fan_in + one.fan_out
        return jnp.squeeze(_norm(block, one), over)

    def measure(one, scale, block, zero):
        del scale, zero
        return block, radius_of(one, block)

    def project(one, scale, step, w, radius):
        del scale  # Of the step, which has it already.
        over = one.fan_in + one.fan_out
        r = jnp.expand_dims(radius, over)
        old = w.astype(r.dtype)
        new = old + r * step.astype(r.dtype)
        norm = _norm(new, one)
        moves = jnp.any(step != 0, over, keepdims=True)
        moves &= (norm > 0) & jnp.isfinite(norm)
        new = new * (r / jnp.where(moves, norm, 1))
        return jnp.where(moves, new - old, 0).astype(step.dtype), radius

    def init(params):
        # A tree of the right structure, and then what is in it.
        zeros = init_blocks(radius_of, axes, params)
        return HyperballState(map_blocks(measure, axes, zeros, params)[1])

    def update(updates, state, params=None, **extra):
        del extra
        if params is None:
            raise ValueError("hyperball needs params in update.")
        updates, radius = map_blocks(project, axes, state.radius, updates, params)
        return updates, HyperballState(radius)

    return optax.GradientTransformationExtraArgs(init, update)


def _norm(x: jax.Array, one: MatrixAxes) -> jax.Array:
    """Frobenius norms, by way of the RMS, so that no square overflows."""
    over = one.fan_in + one.fan_out
    return rms(x, over) * math.sqrt(length(x.shape, over))
