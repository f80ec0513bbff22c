"""Steps of one length: the momentum over its norm.

    global    U <- M / (|M| + eps), |M| over all leaves together (BO-REP)
    matrix    U <- M / (|M|_F + eps), each matrix by itself

It is what orthogonalization is for the spectral norm, with the Frobenius norm in its
place, and it costs one reduction. BO-REP takes its bilevel hypergradient for the
gradient, and needs nothing else here.

References:
  Hao, Gong and Liu, `Bilevel Optimization under Unbounded Smoothness
  <https://arxiv.org/abs/2401.09587>`_, 2024, algorithm 1
"""

import math
from typing import Any

import jax
import jax.numpy as jnp
import optax

from optax_ortho.blocks import map_blocks, normalize, quotient, rms
from optax_ortho.checks import check_number, refuse_one_owner
from optax_ortho.matrices import AxesOf, last_two


def normalized(
    scope: str = "global",
    eps: Any = 0.0,
    target_rms: Any = None,
    axes: AxesOf = last_two,
) -> optax.GradientTransformationExtraArgs:
    """Divides by a norm, so that every step has the same length.

    By itself it gives steps of norm 1 times the learning rate. ``target_rms=0.2`` gives
    them the size that the steps of this package's optimizers have. Zero stays zero, and
    with `eps` at 0 the size of what comes in changes nothing.

    Args:
      scope: "global" divides all leaves, of any number of axes, by one norm; "matrix"
        divides each matrix by its own.
      eps: added to the norm, in its units; 1e-10 in BO-REP's code.
      target_rms: root mean square of the result, of all entries under one norm; None
        leaves the norm at 1, as published.
      axes: the `MatrixAxes` of a leaf, from its path and the leaf, for "matrix".

    Returns:
      A transformation without state.

    Raises:
      ValueError: an unknown `scope`, or a negative number.

    Examples:
      >>> tx = normalized()
      >>> updates, _ = tx.update([jnp.array(3e30), jnp.array(4e30)], tx.init([]))
      >>> [round(float(u), 3) for u in updates]
      [0.6, 0.8]

      BO-REP's upper level:

      >>> from optax_ortho.momentum import ema
      >>> rate = optax.scale_by_learning_rate(0.01)
      >>> tx = optax.chain(ema(0.9), normalized(eps=1e-10), rate)
    """
    if scope not in ("global", "matrix"):
        raise ValueError(f"scope must be 'global' or 'matrix', got {scope!r}.")
    check_number("eps", eps)
    if target_rms is not None:
        check_number("target_rms", target_rms)

    def on_block(block_axes, factor, x, state):
        y = normalize(x, block_axes.fan_in + block_axes.fan_out, eps, target_rms)
        return y if factor == 1 else y * jnp.asarray(factor, y.dtype), state

    def update(updates, state, params=None, **extra):
        del params
        if scope == "matrix":
            return map_blocks(on_block, axes, None, updates)[0], state
        refuse_one_owner("normalized(scope='global')", extra)
        size, number = _rms_of_all(updates)
        root = math.sqrt(number)
        divisor = size + jnp.asarray(eps, size.dtype) / root
        gain = 1 / root if target_rms is None else target_rms

        def divide(x):
            # By the RMS and then by a constant, so that no norm overflows.
            y = quotient(x.astype(divisor.dtype), divisor)
            return (y * jnp.asarray(gain, y.dtype)).astype(x.dtype)

        return jax.tree.map(divide, updates), state

    return optax.GradientTransformationExtraArgs(optax.init_empty_state, update)


def _rms_of_all(tree: Any) -> tuple[jax.Array, int]:
    """The root mean square of all entries, and how many there are."""
    leaves = jax.tree.leaves(tree)
    number = max(sum(x.size for x in leaves), 1)
    parts = [
        math.sqrt(x.size / number) * rms(x, range(x.ndim)).reshape(()) for x in leaves
    ]
    if not parts:
        return jnp.zeros([], jnp.float32), number
    together = rms(jnp.stack(parts), (0,)).squeeze()
    return together * math.sqrt(len(parts)), number
