"""Steepest descent under the spectral norm, with the length of its step.

    U <- <M, O> O

where O is the orthogonalized momentum M. <M, O> is near the nuclear norm of M, the dual
of the spectral norm, so the step grows and shrinks with the momentum as a gradient
step does. It is Muon's ``adaptive=True`` in `optax.contrib`.

References:
  Bernstein and Newhouse, `Old Optimizer, New Norm
  <https://arxiv.org/abs/2409.20325>`_, 2024, proposition 5
"""

from typing import Any

import jax.numpy as jnp
import optax

from optax_ortho import layouts
from optax_ortho.matrices import AxesOf, last_two


def by_dual_norm(
    axes: AxesOf = last_two, layout: Any = None
) -> optax.GradientTransformationExtraArgs:
    """Multiplies each matrix by its inner product with the momentum.

    It undoes the scale freedom of the orthogonalizer: twice the gradient takes twice
    the step.

    Args:
      axes: the `MatrixAxes` of a leaf, from its path and the leaf.
      layout: how the matrices are spread over devices; None is `layouts.local()`.

    Returns:
      A third stage, which needs the ``momentum=`` that `ortho_chain` hands on.

    Examples:
      >>> tx = by_dual_norm()
      >>> eye = jnp.eye(2)
      >>> updates, _ = tx.update(eye, tx.init(eye), momentum=3 * eye)
      >>> print(updates)
      [[6. 0.]
       [0. 6.]]
    """
    layout = layouts.local() if layout is None else layout

    def times_dual_norm(m, o):
        return jnp.sum(m.conj() * o) * o

    def update(updates, state, params=None, **extra):
        del params
        return layout.map(times_dual_norm, axes, extra["momentum"], updates), state

    return optax.GradientTransformationExtraArgs(optax.init_empty_state, update)
