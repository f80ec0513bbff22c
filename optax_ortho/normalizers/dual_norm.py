"""Steepest descent under the spectral norm, with the length of its step.

    U <- <M, O> O

where O is the orthogonalized momentum M. <M, O> is near the nuclear norm of M, the dual
of the spectral norm, so the step grows and shrinks with the momentum as a gradient
step does. It is Muon's ``adaptive=True`` in `optax.contrib`.

References:
  Bernstein and Newhouse, `Old Optimizer, New Norm
  <https://arxiv.org/abs/2409.20325>`_, 2024, proposition 5
"""

import jax.numpy as jnp
import optax

from optax_ortho.blocks import map_blocks
from optax_ortho.matrices import AxesOf, last_two


def by_dual_norm(axes: AxesOf = last_two) -> optax.GradientTransformationExtraArgs:
    """Multiplies each matrix by its inner product with the momentum.

    Unlike the orthogonalizer, it is not scale-invariant: twice the gradient takes twice
    the step.

    Args:
      axes: the `MatrixAxes` of a leaf, from its path and the leaf.

    Returns:
      A third stage, which needs the ``momentum=`` that `ortho_chain` passes.

    Examples:
      >>> tx = by_dual_norm()
      >>> eye = jnp.eye(2)
      >>> updates, _ = tx.update(eye, tx.init(eye), momentum=3 * eye)
      >>> print(updates)
      [[6. 0.]
       [0. 6.]]
    """

    def times_dual_norm(block_axes, factor, o, m, state):
        del factor
        over = block_axes.fan_in + block_axes.fan_out
        inner = jnp.sum(m.conj() * o, over, keepdims=True)
        return inner * o, state

    def update(updates, state, params=None, **extra):
        del params
        updates, _ = map_blocks(times_dual_norm, axes, None, updates, extra["momentum"])
        return updates, state

    return optax.GradientTransformationExtraArgs(optax.init_empty_state, update)
