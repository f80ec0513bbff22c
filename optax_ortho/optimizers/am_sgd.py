"""AM-SGD: gradient descent with adaptive memory.

For all parameters x together, with gradient g, one step is

    decay           g <- g + weight_decay x, except of vectors and scalars
    momentum        beta <- (|g|^2 + 2 lam <g, d> - lam |d|^2) / |d - g|^2,
                    clipped to [0, beta_max]
                    d <- ((beta + lam) d + (1 - beta) g) / (1 + lam);  the first d is g
    step            x <- x - learning_rate d

The inner products are over all leaves, so there is one beta. Nothing is orthogonalized:
it is here because `adaptive_memory_muon` takes its momentum from it. No code of the
authors is public; this is their algorithm 1 as others have implemented it, which takes
the loss to have changed by -learning_rate <g, d> with the present rate, and so does not
look at a schedule.

References:
  Topollai and Choromanska, `Adaptive Memory Momentum via a Model-Based Framework for
  Deep Learning Optimization <https://arxiv.org/abs/2510.04988>`_, 2025, algorithm 1
"""

from typing import Any

import optax

from optax_ortho.checks import refuse_array
from optax_ortho.guard import guard
from optax_ortho.momentum import adaptive_memory
from optax_ortho.optimizers._arguments import picklable
from optax_ortho.optimizers._whole_tree import decay_of, whole_tree


def scale_by_am_sgd(
    lam: Any = 0.1,
    beta_max: Any = 0.9,
    *,
    scope: str = "global",
    mu_dtype: Any = None,
    nonfinite: str = "skip_matrix",
) -> optax.GradientTransformationExtraArgs:
    """The direction of `am_sgd`: guarded `momentum.adaptive_memory`.

    Args:
      lam: the penalty for leaving the memory, at least 0.
      beta_max: the largest beta, in [0, 1).
      scope: what shares one beta: "global" is all leaves, as published; "leaf" is one.
      mu_dtype: dtype of the memory d; None is the parameter's own.
      nonfinite: "skip_matrix", which skips a leaf, "skip_step" or "off".

    Returns:
      The direction, without learning rate and sign.

    Raises:
      ValueError: an argument out of range.

    Examples:
      >>> import jax.numpy as jnp
      >>> tx = scale_by_am_sgd()
      >>> updates, state = tx.update(jnp.ones(2), tx.init(jnp.ones(2)))
      >>> print(updates)
      [1. 1.]
    """
    refuse_array("mu_dtype", mu_dtype)
    return guard(adaptive_memory(lam, beta_max, scope, mu_dtype), nonfinite)


@picklable
def am_sgd(
    learning_rate: optax.ScalarOrSchedule,
    lam: Any = 0.1,
    beta_max: Any = 0.9,
    *,
    scope: str = "global",
    mu_dtype: Any = None,
    weight_decay: Any = 0.0,
    weight_decay_mask: Any = None,
    nonfinite: str = "skip_matrix",
) -> optax.GradientTransformationExtraArgs:
    """SGD with adaptive memory, for all leaves alike.

    Args:
      learning_rate: step size or schedule, of the size that SGD takes: the authors' is
        0.1.
      lam: the penalty for leaving the memory, at least 0.
      beta_max: the largest beta, in [0, 1).
      scope: what shares one beta: "global" is all leaves, as published; "leaf" is one.
      mu_dtype: dtype of the memory d; None is the parameter's own.
      weight_decay: coupled decay, added to the gradient and averaged with it.
      weight_decay_mask: a tree of booleans, or a function of the parameters that gives
        one: which leaves decay. None is those of two or more axes.
      nonfinite: what a NaN or infinity in a gradient does: "skip_matrix" skips that
        leaf, "skip_step" all of them, "off" lets it pass.

    Returns:
      The optimizer; ``update`` needs ``params`` only where something decays.

    Raises:
      ValueError: an argument out of range.
      TypeError: an array where `optax.inject_hyperparams` replaced a function.

    Examples:
      >>> import jax.numpy as jnp
      >>> import optax_ortho
      >>> params = {"kernel": jnp.ones((4, 6)), "bias": jnp.zeros(6)}
      >>> tx = optax_ortho.am_sgd(0.1)
      >>> updates, state = tx.update(params, tx.init(params), params)
      >>> print(updates["kernel"][0, 0])
      -0.1
    """
    direction = optax.chain(
        decay_of(weight_decay, weight_decay_mask),
        scale_by_am_sgd(
            lam,
            beta_max,
            scope=scope,
            mu_dtype=mu_dtype,
            nonfinite="off",  # The recipe has a guard around the decay too.
        ),
    )
    return whole_tree("am_sgd", direction, learning_rate, nonfinite, weight_decay)
