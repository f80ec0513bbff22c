"""One step size for every neuron, from a running mean of its squared updates (NorMuon).

With O the orthogonal update and a mean over the fan-in of each output neuron j:

    v_j <- beta2 v_j + (1 - beta2) mean_i O_ij^2
    U_ij = O_ij / (sqrt(v_j) + eps)
    U <- U |O|_F / |U|_F

Newton-Schulz leaves some neurons with several times the update of others; this evens
them out and keeps the Frobenius norm. There is no bias correction, because the last
line cancels any factor that all neurons share.

References:
  Li et al., `NorMuon <https://arxiv.org/abs/2510.05491>`_, 2025
"""

import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from optax_ortho.blocks import init_blocks, length, map_blocks, quotient, rms
from optax_ortho.checks import check_number
from optax_ortho.matrices import AxesOf, MatrixAxes, last_two


class NeuronRmsState(NamedTuple):
    """Running means v, of a leaf's shape without the axes that are averaged over."""

    neuron_variance: Any


def neuron_rms(
    beta2: Any = 0.95,
    eps: Any = 1e-10,
    *,
    floor: Any = 0.0,
    over: str = "fan_in",
    axes: AxesOf = last_two,
) -> optax.GradientTransformationExtraArgs:
    """Divides the update of each neuron by its running root mean square.

    The published codes differ in what keeps the divisor from zero::

        NorMuon's authors   sqrt(v) + 1e-10           eps=1e-10
        dion                sqrt(v) + 1e-8            eps=1e-8
        modded-nanogpt      sqrt(max(v, 1e-10))       eps=0, floor=1e-5, over="short"

    A neuron with an update of zero keeps it. One with a tiny update gets the same RMS
    as any other, at most ``1 / sqrt(1 - beta2)`` times the mean of all, because its own
    square is part of the mean that divides it. Squares are taken in float32, so a
    neuron below 1e-19, beside the 0.01 of an orthogonal update, counts as zero.

    Args:
      beta2: decay of the running mean, in [0, 1).
      eps: added to the root of v.
      floor: the least root of v.
      over: the side that is averaged over: ``"fan_in"``, one number an output neuron,
        or ``"short"``, the shorter side of the matrix (fan_in if it is square).
      axes: the `MatrixAxes` of a leaf, from its path and the leaf. They may differ from
        the axes of the orthogonalizer, where neurons are not columns of its matrix.

    Returns:
      A third stage, whose state is in float32 or better.

    Raises:
      ValueError: an argument out of range.

    Examples:
      >>> tx = neuron_rms()
      >>> o = jnp.array([[0.8, 0.0], [0.6, 0.1]])
      >>> updates, state = tx.update(o, tx.init(o))
      >>> print((updates**2).sum(0).round(3), state.neuron_variance.shape)
      [0.505 0.505] (2,)
    """
    check_number("beta2", beta2, below=1.0)
    check_number("eps", eps)
    check_number("floor", floor)
    if over not in ("fan_in", "short"):
        raise ValueError(f"over must be 'fan_in' or 'short', got {over!r}.")

    def averaged(block_axes: MatrixAxes, shape: tuple[int, ...]) -> tuple[int, ...]:
        tall = length(shape, block_axes.fan_in) > length(shape, block_axes.fan_out)
        return block_axes.fan_out if over == "short" and tall else block_axes.fan_in

    def zero(block_axes, block):
        along = averaged(block_axes, block.shape)
        return jnp.squeeze(rms(block, along), along)

    def even_out(block_axes, scale, o, v):
        del scale  # Used by the last stage; here the norm of a block is kept.
        along = averaged(block_axes, o.shape)
        wide = o.astype(jnp.promote_types(o.dtype, jnp.float32))
        share = 1 / math.sqrt(max(length(o.shape, along), 1))
        b = beta2 if isinstance(beta2, float) else jnp.asarray(beta2, v.dtype)
        now = jnp.squeeze(_sum_of_squares(share * wide, along), along)
        v = b * v + (1 - b) * now.astype(v.dtype)
        root = jnp.maximum(jnp.sqrt(jnp.expand_dims(v, along)), floor) + eps
        inverse = quotient(jnp.ones_like(root), root)
        matrix = block_axes.fan_in + block_axes.fan_out
        before = _sum_of_squares(wide, matrix)
        after = _sum_of_squares(wide * inverse, matrix)
        factor = jnp.sqrt(quotient(before, after))
        return (wide * (factor * inverse)).astype(o.dtype), v

    def init(params):
        return NeuronRmsState(init_blocks(zero, axes, params))

    def update(updates, state, params=None, **extra):
        del params, extra
        updates, v = map_blocks(even_out, axes, state.neuron_variance, updates)
        return updates, NeuronRmsState(v)

    return optax.GradientTransformationExtraArgs(init, update)


def _sum_of_squares(x: jax.Array, over: tuple[int, ...]) -> jax.Array:
    return jnp.sum(jnp.real(x * x.conj()), over, keepdims=True)
