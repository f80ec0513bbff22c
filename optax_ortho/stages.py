"""The output of each stage of an optimizer for one gradient."""

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
    """Runs one update and returns the output of every stage of every `ortho_chain`.

    It takes the arguments of ``tx.update`` and discards the new state: it is meant for
    inspection. Remove wrappers that update under a condition, as `optax.MultiSteps`
    does.

    Args:
      tx: an optimizer that contains an `ortho_chain`.
      updates: the gradients.
      state: the state from ``tx.init`` or from any step.
      params: the parameters.
      **extra: extra arguments of the update.

    Returns:
      For each chain in ``tx``, in order, its input and the output of each of its
      stages. Leaves of other groups are `optax.MaskedNode`.

    Raises:
      ValueError: ``tx`` contains no `ortho_chain`.

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

    # The recorded values are tracers, so they have to be results of the program.
    @jax.jit
    def run(updates, state, params):
        with recording() as events:
            tx.update(updates, state, params, **extra)
        return tuple(event for event in events if isinstance(event, StageOutputs))

    outputs = run(updates, state, params)
    if not outputs:
        raise ValueError("stage_outputs needs an optimizer with an ortho_chain in it.")
    return outputs
