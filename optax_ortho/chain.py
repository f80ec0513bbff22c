"""The four-stage chain that every optimizer of the toolkit is.

gradient -> momentum -> orthogonalize -> normalize / clamp -> trust-region scale
"""

from typing import Any, NamedTuple

import jax
import optax

from optax_ortho.recording import record


class StageOutputs(NamedTuple):
    """What entered a chain, and what each of its stages gave; trees like the updates.

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
    """Runs four transformations in order, each aware of what came before it.

    It differs from `optax.chain` in two ways: the state names its stages, and every
    stage after the first is handed two extra arguments, ``gradient=`` (what entered
    the chain) and ``momentum=`` (what stage 1 gave). Other extra arguments pass
    through; a recipe adds ``learning_rate=``, the rate of the current step.

    Args:
      momentum: stage 1, from gradients to momentum. None is the identity.
      orthogonalize: stage 2, usually `optax_ortho.orthogonalize`.
      normalize: stage 3, from orthogonal to normalized or clamped.
      trust_region: stage 4, the scale of the step.

    Returns:
      The direction: a transformation without learning rate and sign.

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
        new_states, given = [], [updates]
        for name, stage, old in zip(OrthoState._fields, stages, state, strict=True):
            with jax.named_scope(name):
                updates, new = stage.update(updates, old, params, **extra)
            new_states.append(new)
            given.append(updates)
            if name == "momentum":
                extra["momentum"] = updates
        record(StageOutputs(*given))
        return updates, OrthoState(*new_states)

    return optax.GradientTransformationExtraArgs(init, update)
