"""A check that a restored state fits the parameters."""

from typing import Any

import jax
import optax

from optax_ortho.inputs import misfit


def check_state(tx: optax.GradientTransformation, params: Any, state: Any) -> None:
    """Raises an error unless `tx` could have made the state for these parameters.

    It compares paths and shapes only. Use it after restoring, before the first step.

    Args:
      tx: the optimizer.
      params: the parameters, or their shapes as `jax.ShapeDtypeStruct`.
      state: the state, in any containers with the same paths.

    Raises:
      ValueError: a leaf is missing, unexpected or of another shape; the message names
        it.

    Examples:
      >>> import jax.numpy as jnp
      >>> import optax_ortho
      >>> tx = optax_ortho.muon(0.02)
      >>> scanned = {"layers": {"kernel": jnp.ones((2, 4, 4))}}
      >>> one_by_one = {f"layer_{i}": {"kernel": jnp.ones((4, 4))} for i in range(2)}
      >>> check_state(tx, scanned, tx.init(one_by_one))
      Traceback (most recent call last):
      ValueError: The state is not of these parameters: at ...
    """
    problem = misfit(state, jax.eval_shape(tx.init, params))
    if problem:
        raise ValueError(problem)
