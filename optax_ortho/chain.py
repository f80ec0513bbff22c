"""The four-stage chain that every optimizer is made of.

gradient -> momentum -> orthogonalize -> normalize / clamp -> trust-region scale
"""

from typing import Any, NamedTuple

import jax
import optax

from optax_ortho.recording import record


class StageOutputs(NamedTuple):
    """The input of a chain and the output of each of its stages, as update trees.

    A chain records it in each update, for `optax_ortho.stage_outputs`.
    """

    gradient: Any
    momentum: Any
    orthogonalize: Any
    normalize: Any
    trust_region: Any


class OrthoState(NamedTuple):
    """The states of the four stages."""

    momentum: optax.OptState
    orthogonalize: optax.OptState
    normalize: optax.OptState
    trust_region: optax.OptState


def ortho_chain(
    *,
    momentum: optax.GradientTransformation | None = None,
    orthogonalize: optax.GradientTransformation | None = None,
    normalize: optax.GradientTransformation | None = None,
    trust_region: optax.GradientTransformation | None = None,
) -> optax.GradientTransformationExtraArgs:
    """Runs four transformations in order, each with access to earlier results.

    It differs from `optax.chain` in two ways: the state names its stages, and every
    stage after the first gets two extra arguments, ``gradient=`` (the input of the
    chain) and ``momentum=`` (the output of stage 1). Other extra arguments are passed
    on; a recipe adds ``learning_rate=``, the rate of the current step.

    Args:
      momentum: stage 1, maps gradients to momentum. None is the identity, as for all
        stages.
      orthogonalize: stage 2, usually `optax_ortho.orthogonalize`.
      normalize: stage 3, normalizes or clamps the orthogonalized momentum.
      trust_region: stage 4, scales the step.

    Returns:
      The direction: a transformation that applies no learning rate and no sign.

    Examples:
      >>> import jax.numpy as jnp
      >>> from optax_ortho import momentum, orthogonalize, trust_region
      >>> direction = ortho_chain(
      ...     momentum=momentum.nesterov(0.95),
      ...     orthogonalize=orthogonalize(),
      ...     trust_region=trust_region.by_shape(),
      ... )
      >>> tx = optax.chain(direction, optax.scale_by_learning_rate(0.02))
      >>> kernel = jnp.ones((4, 6))
      >>> updates, state = tx.update(kernel, tx.init(kernel), kernel)
      >>> updates.shape
      (4, 6)
    """
    stages = [
        optax.with_extra_args_support(optax.identity() if stage is None else stage)
        for stage in (momentum, orthogonalize, normalize, trust_region)
    ]

    def init(params):
        return OrthoState(*(stage.init(params) for stage in stages))

    def update(updates, state, params=None, **extra):
        extra["gradient"] = updates
        new_states, outputs = [], [updates]
        for name, stage, old in zip(OrthoState._fields, stages, state, strict=True):
            with jax.named_scope(name):
                updates, new = stage.update(updates, old, params, **extra)
            new_states.append(new)
            outputs.append(updates)
            if name == "momentum":
                extra["momentum"] = updates
        record(StageOutputs(*outputs))
        return updates, OrthoState(*new_states)

    return optax.GradientTransformationExtraArgs(init, update)
