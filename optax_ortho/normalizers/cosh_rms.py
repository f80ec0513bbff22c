"""AuON's brake: the update over the root mean square of its hyperbolic cosine.

    X = U / |U|_F
    r = sqrt(mean(cosh(gamma X)^2)) = sqrt(1 + mean(sinh(gamma X)^2))
    U <- X / r                        or U / r, with normalize=False

r is one number a matrix, so the brake changes no direction and no ratio of singular
values. With N entries it is between 1 and sqrt(1 + sinh(gamma)^2 / N). At the
published gamma of 1.5 and 64 x 64 entries r - 1 is 2.7e-4 for normal entries and 5.5e-4
for a single spike, the worst there is; at 512 x 512 it is 4.3e-6 and 8.6e-6. So the
normalized update equals momentum over its norm to 6e-4, and the other one equals plain
momentum.

References:
  `AuON <https://arxiv.org/abs/2509.24320>`_, 2025
"""

import math
from typing import Any

import jax
import jax.numpy as jnp
import optax

from optax_ortho.blocks import length, map_blocks, rms
from optax_ortho.checks import check_number
from optax_ortho.matrices import AxesOf, last_two

# The largest gamma |X| whose hyperbolic sine is squared and summed as it is.
LARGE = 20.0


def cosh_rms(
    gamma: Any = 1.0,
    *,
    normalize: bool = True,
    of_unit: bool = True,
    eps: float = 0.0,
    axes: AxesOf | None = last_two,
) -> optax.GradientTransformationExtraArgs:
    """Divides each matrix by the RMS of its hyperbolic cosine.

    Args:
      gamma: strength of the brake; the paper's first version has 1, the authors'
        current code 1.5.
      normalize: whether the update is divided by its Frobenius norm too. False keeps
        the size of the gradient, and is not scale-invariant.
      of_unit: whether r is computed from U over its norm; False takes U itself, for
        which the paper's hybrid needs no normalization.
      eps: added to the norm, in the units of U; with the published 1e-7 the result is
        not scale-invariant.
      axes: the `MatrixAxes` of a leaf, from its path and the leaf; None takes one norm
        and one r over each whole leaf, of any shape, as the authors' code does.

    Returns:
      A third stage without state.

    Raises:
      ValueError: an argument out of range.

    Examples:
      >>> tx = cosh_rms()
      >>> updates, _ = tx.update(jnp.array([[3.0, 4.0]]), tx.init(jnp.ones((1, 2))))
      >>> r = jnp.sqrt((jnp.cosh(0.6) ** 2 + jnp.cosh(0.8) ** 2) / 2)
      >>> bool(jnp.allclose(updates, jnp.array([[0.6, 0.8]]) / r))
      True
    """
    check_number("gamma", gamma)
    check_number("eps", eps)

    def on_axes(over, x):
        wide = x.astype(jnp.promote_types(x.dtype, jnp.float32))
        root = math.sqrt(length(x.shape, over))
        # The root mean square cannot overflow where the norm can.
        size = rms(wide, over) + eps / max(root, 1.0)
        unit = wide / (jnp.where(size > 0, size, 1) * root)
        size = gamma * jnp.abs(unit if of_unit else wide)
        r, shift = _cosh_rms(jnp.minimum(size, jnp.finfo(size.dtype).max), over)
        y = unit if normalize else wide
        return (y * jnp.exp(-shift) / r).astype(x.dtype)

    def on_block(block_axes, scale, x, state):
        del scale
        return on_axes(block_axes.fan_in + block_axes.fan_out, x), state

    def update(updates, state, params=None, **extra):
        del params, extra
        if axes is None:
            return jax.tree.map(lambda x: on_axes(range(x.ndim), x), updates), state
        return map_blocks(on_block, axes, None, updates)[0], state

    return optax.GradientTransformationExtraArgs(optax.init_empty_state, update)


def _cosh_rms(x: jax.Array, over: Any) -> tuple[jax.Array, jax.Array]:
    """``(r, shift)``: r exp(shift) is the RMS of cosh(x), for x of zero and above.

    cosh(x)^2 is 1 + sinh(x)^2, and the mean is taken of the second term, because a sum
    with the first would round it away.
    """
    over = tuple(over)
    largest = jnp.max(x, over, keepdims=True, initial=0)
    shift = jnp.maximum(largest - LARGE, 0)
    sinh = -jnp.expm1(-2 * x) * jnp.exp(x - shift) / 2
    mean = jnp.sum(sinh * sinh, over, keepdims=True) / max(length(x.shape, over), 1)
    return jnp.sqrt(jnp.exp(-2 * shift) + mean), shift
