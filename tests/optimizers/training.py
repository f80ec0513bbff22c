"""Training with random gradients of different sizes."""

from typing import Any

import jax
import numpy as np
import optax

from optax_ortho.testing import random_like


def gradient_at(params: Any, step: int) -> Any:
    """The gradient of a step."""
    return optax.tree.scale(10.0 ** (step % 3), random_like(params, step))


def gradients_of(params: Any, name: str, steps: int = 10) -> list[np.ndarray]:
    """The gradients of one parameter at each step, in float64."""
    trees = [gradient_at(params, step) for step in range(steps)]
    return [np.asarray(tree[name], np.float64) for tree in trees]


def trained(
    tx: optax.GradientTransformation,
    params: Any,
    steps: int = 10,
    compiler_options: dict[str, Any] | None = None,
) -> Any:
    """Parameters after some steps."""
    state = tx.init(params)
    update = jax.jit(tx.update, compiler_options=compiler_options)
    for step in range(steps):
        updates, state = update(gradient_at(params, step), state, params)
        params = optax.apply_updates(params, updates)
    return params
