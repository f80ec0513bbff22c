"""Length of an orthogonal update from the norms of Adam's two moments (NAMO).

With G the gradient, M the momentum that became O, and norms of a whole matrix (NAMO) or
of the weights of each input j (NAMO-D), after t steps:

    v <- beta2 v + (1 - beta2) |G|^2
    d = |M| / (sqrt(v) + eps)
    d_j <- clip(d_j, c mean(d), mean(d) / c)                   NAMO-D only
    a = d sqrt(1 - beta2^t) / (1 - beta^t)
    U = min(a s, 1 / rate) O + weight_decay min(a, 1 / rate) W

s is a factor of the matrix's shape. The learning rate comes back after this stage, so
the step is rate a s O, at most O, and it decays the weights by rate a, at most 1.

References:
  Zhang, Liu and Schaeffer, `Adam Improves Muon
  <https://arxiv.org/abs/2602.17080>`_, 2026
"""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from optax_ortho.blocks import init_blocks, length, map_blocks, quotient, rms
from optax_ortho.checks import check_number, is_zero, refuse_array
from optax_ortho.matrices import AxesOf, MatrixAxes, last_two


class MomentNormState(NamedTuple):
    """Steps taken, and the second moment of the gradients.

    Attributes:
      moment_steps: number of steps.
      moment_rms: ``sqrt(v / N)``, v being the running mean of squared norms and N the
        number of entries in one norm: the root mean square of an entry, which neither
        overflows nor vanishes where v does. A leaf's shape without the axes of a norm.
    """

    moment_steps: jax.typing.ArrayLike
    moment_rms: Any


def moment_norm(
    beta: Any = 0.95,
    beta2: Any = 0.99,
    eps: Any = 1e-8,
    *,
    per: str = "matrix",
    c: Any = None,
    factor: Callable[[int, int], float] | None = None,
    max_step: Any = 1.0,
    weight_decay: Any = 0.0,
    weight_decay_mask: Any = None,
    axes: AxesOf = last_two,
) -> optax.GradientTransformationExtraArgs:
    """Scales an orthogonal update by the ratio of two moments' norms, and decays.

    Args:
      beta: decay of the momentum, for its bias correction, in [0, 1).
      beta2: decay of the second moment, in [0, 1).
      eps: added to the root of the second moment, in the units of the gradient's norm.
      per: the weights under one norm: ``"matrix"``, ``"fan_in"`` (all weights of one
        input, a column in PyTorch) or ``"fan_out"`` (all weights of one output).
      c: in [0, 1], the least ratio in units of the mean of its matrix; 1/c is the
        largest. 0 or None sets no bounds.
      factor: s from ``(fan_in, fan_out)``; None is 1.
      max_step: the largest ``rate a s``, and the largest ``rate a`` of the decay; None
        sets no limit. Without a ``learning_rate=`` there is none either.
      weight_decay: of the weights W, per unit of ``rate a``.
      weight_decay_mask: a tree of booleans, or a function of the parameters that gives
        one: which leaves decay. None is all.
      axes: the `MatrixAxes` of a leaf, from its path and the leaf.

    Returns:
      A third stage, which needs the ``gradient=`` and ``momentum=`` that `ortho_chain`
      passes. Its state is in float32 or better.

    Raises:
      ValueError: an argument out of range, or an update without parameters to decay.

    Examples:
      >>> tx = moment_norm(beta=0.0)
      >>> g = jnp.array([[3e25, 4e25]])
      >>> seen = {"gradient": g, "momentum": g}
      >>> updates, state = tx.update(jnp.ones((1, 2)), tx.init(g), **seen)
      >>> print(updates.round(5))
      [[1. 1.]]
    """
    check_number("beta", beta, below=1.0)
    check_number("beta2", beta2, below=1.0)
    check_number("eps", eps)
    check_number("weight_decay", weight_decay)
    refuse_array("weight_decay_mask", weight_decay_mask)
    if c is not None:
        check_number("c", c, below=math.nextafter(1, 2))
    if max_step is not None:
        check_number("max_step", max_step, at_least=math.nextafter(0, 1))
    if per not in ("matrix", "fan_in", "fan_out"):
        raise ValueError(f"per must be 'matrix', 'fan_in' or 'fan_out', got {per!r}.")
    decays = not is_zero(weight_decay)

    def normed(block_axes: MatrixAxes) -> tuple[int, ...]:
        """The axes of one norm."""
        return {
            "matrix": block_axes.fan_in + block_axes.fan_out,
            "fan_in": block_axes.fan_out,
            "fan_out": block_axes.fan_in,
        }[per]

    def zero(block_axes, block):
        return jnp.squeeze(rms(block, normed(block_axes)), normed(block_axes))

    def init(params):
        return MomentNormState(
            jnp.zeros([], jnp.int32), init_blocks(zero, axes, params)
        )

    def update(updates, state, params=None, **extra):
        t = optax.safe_increment(state.moment_steps)
        limit = jnp.asarray(jnp.inf, jnp.float32)
        if max_step is not None and extra.get("learning_rate") is not None:
            limit = max_step / jnp.asarray(extra["learning_rate"], jnp.float32)
        keep, take = _root(beta2), _root(1 - beta2)
        correction = _root(1 - beta2**t) / (1 - beta**t)
        operands = [updates, extra["gradient"], extra["momentum"]]
        if decays:
            if params is None:
                raise ValueError("The weight decay needs params in update.")
            operands.append(_masked(weight_decay_mask, params))

        def step(block_axes, scale, o, g, m, *rest):
            *weights, old = rest
            along = normed(block_axes)
            now = jnp.squeeze(rms(g, along), along).astype(old.dtype)
            root = jnp.hypot(keep * old, take * now)
            small = eps / math.sqrt(max(length(o.shape, along), 1))
            d = quotient(rms(m, along), jnp.expand_dims(root, along) + small)
            if c is not None:
                d = _clamped(d, c, block_axes.fan_in + block_axes.fan_out)
            a = d * correction
            if factor is not None:
                scale = scale * factor(*block_axes.matrix_shape(o.shape))
            wide = o.astype(jnp.promote_types(o.dtype, jnp.float32))
            u = jnp.minimum(a * scale, limit) * wide
            for w in weights:
                # Its product with the rate is at most 1 too, whatever weight_decay is.
                u = u + jnp.minimum(weight_decay * jnp.minimum(a, limit), limit) * w
            return u.astype(o.dtype), root

        updates, root = map_blocks(step, axes, state.moment_rms, *operands)
        return updates, MomentNormState(t, root)

    return optax.GradientTransformationExtraArgs(init, update)


def _root(x: Any) -> jax.Array:
    return jnp.sqrt(jnp.asarray(x, jnp.float32))


def _clamped(d: jax.Array, c: Any, matrix: tuple[int, ...]) -> jax.Array:
    """Ratios no further from their mean than a factor c; c = 0 leaves them."""
    mean = jnp.mean(d, matrix, keepdims=True)
    c = jnp.asarray(c, d.dtype)
    bounded = jnp.clip(d, c * mean, mean / jnp.where(c > 0, c, 1))
    return jnp.where(c > 0, bounded, d)


def _masked(mask: Any, params: Any) -> Any:
    """The parameters, zero where nothing decays."""
    if mask is None:
        return params
    mask = mask(params) if callable(mask) else mask

    def keep(decayed, subtree):
        return jax.tree.map(lambda w: w if decayed else jnp.zeros_like(w), subtree)

    return jax.tree.map(keep, mask, params)
