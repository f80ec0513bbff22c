"""What each stage of an optimizer makes of a gradient."""

from typing import Any

import jax
import optax

from optax_ortho.chain import StageOutputs
from optax_ortho.recording import recording


def stage_outputs(
    tx: optax.GradientTransformation,
    updates: Any,
    state: optax.OptState,
    params: Any = None,
    **extra: Any,
) -> tuple[StageOutputs, ...]:
    """Runs one update, and gives what came out of every stage of every `ortho_chain`.

    It takes what ``tx.update`` takes, and what it gives is for looking at: the new
    state is left behind. A wrapper that updates under a condition, as
    `optax.MultiSteps` does, has to be taken off.

    Args:
      tx: an optimizer that holds one of ours.
      updates: the gradients.
      state: as of ``tx.init``, or of any step.
      params: the parameters.
      **extra: extra arguments of the update.

    Returns:
      For each chain in ``tx``, in their order, what entered it and what left each of
      its stages. Leaves of other groups are `optax.MaskedNode`.

    Raises:
      ValueError: there is no chain of ours in ``tx``.

    Examples:
      >>> import jax.numpy as jnp
      >>> import optax_ortho
      >>> params = {"kernel": jnp.array([[3.0, 0.0], [0.0, 4.0]]), "bias": jnp.ones(2)}
      >>> tx = optax_ortho.muon(0.01)
      >>> (stages,) = stage_outputs(tx, params, tx.init(params), params)
      >>> print(stages.momentum["kernel"].round(2), stages.momentum["bias"])
      [[0.29 0.  ]
       [0.   0.39]] MaskedNode()
      >>> print(jnp.linalg.norm(stages.orthogonalize["kernel"], axis=0).round(1))
      [0.7 1.1]
    """

    # In one program, whose results the records are: outside of it they are tracers.
    @jax.jit
    def run(updates, state, params):
        with recording() as events:
            tx.update(updates, state, params, **extra)
        return tuple(event for event in events if isinstance(event, StageOutputs))

    found = run(updates, state, params)
    if not found:
        raise ValueError("stage_outputs needs an optimizer with an ortho_chain in it.")
    return found
