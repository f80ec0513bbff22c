"""AM-SGD: gradient descent with adaptive memory.

For all parameters x together, with gradient g, one step is

    decay           g <- g + weight_decay x, except of vectors and scalars
    momentum        beta <- (|g|^2 + 2 lam <g, d> - lam |d|^2) / |d - g|^2,
                    clipped to [0, beta_max]
                    d <- ((beta + lam) d + (1 - beta) g) / (1 + lam);  the first d is g
    step            x <- x - learning_rate d

The inner products are over all leaves, so there is one beta. Nothing is orthogonalized:
it is here because `adaptive_memory_muon` takes its momentum from it. No code of the
authors is public; this is their algorithm 1 as others have implemented it, which
assumes that the loss has changed by -learning_rate <g, d> with the present rate, and so
ignores a schedule.

References:
  Topollai and Choromanska, `Adaptive Memory Momentum via a Model-Based Framework for
  Deep Learning Optimization <https://arxiv.org/abs/2510.04988>`_, 2025, algorithm 1
"""

from typing import Any

import optax

from optax_ortho.checks import refuse_array
from optax_ortho.guard import guard
from optax_ortho.momentum import adaptive_memory
from optax_ortho.recipes import decay_of, no_decay, recipe_of, whole_tree


def scale_by_am_sgd(
    lam: Any = 0.1,
    beta_max: Any = 0.9,
    *,
    scope: str = "global",
    mu_dtype: Any = None,
    nonfinite: str | None = "skip_matrix",
) -> optax.GradientTransformationExtraArgs:
    """The direction of `am_sgd`: guarded `momentum.adaptive_memory`.

    Args:
      lam: the penalty for leaving the memory, at least 0.
      beta_max: the largest beta, in [0, 1).
      scope: the scope of one beta: "global" is all leaves, as published; "leaf" is one.
      mu_dtype: dtype of the memory d; None is the parameter's own.
      nonfinite: "skip_matrix", which skips a leaf, "skip_step" or "off"; None is for a
        direction inside a guarded recipe.

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


def _build(name, direction, learning_rate, nonfinite, weight_decay, weight_decay_mask):
    decay = weight_decay, weight_decay_mask

    def decayed():
        return optax.chain(decay_of(*decay), direction())

    return whole_tree(name, decayed, learning_rate, nonfinite, *decay, no_decay)


@recipe_of(scale_by_am_sgd, build=_build)
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
      weight_decay: coupled decay, added to the gradient and averaged with it.
      weight_decay_mask: a tree of booleans, or a function from the parameters to one:
        the leaves that decay. None is all leaves with two or more axes.

    Examples:
      >>> import jax.numpy as jnp
      >>> import optax_ortho
      >>> params = {"kernel": jnp.ones((4, 6)), "bias": jnp.zeros(6)}
      >>> tx = optax_ortho.am_sgd(0.1)
      >>> updates, state = tx.update(params, tx.init(params), params)
      >>> print(updates["kernel"][0, 0])
      -0.1
    """
    ...
