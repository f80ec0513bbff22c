"""Ten steps with the same gradients, for an optimizer and for its reference."""

from collections.abc import Callable
from typing import Any

import jax
import numpy as np
import optax

from optax_ortho.testing import assert_close, random_like
from tests.rows import new_params

# For `jax.jit`: the compiler as users have it, for bounds of a few roundings. All else
# is compiled in haste, see tests/conftest.py.
WITH_CARE = {"xla_backend_optimization_level": 3, "xla_cpu_use_fusion_emitters": True}
# The three kinds of matrix.
SHAPES = {"wide": (4, 6), "tall": (7, 3), "square": (5, 5)}


def check_against(
    tx: optax.GradientTransformation,
    reference: Callable[..., Any],
    tolerance: float,
    steps: int = 10,
    **arguments: Any,
) -> None:
    """Checks ten steps, whose gradients differ in size, against a float64 reference."""
    params = new_params(SHAPES)
    actual, state, step = params, tx.init(params), jax.jit(tx.update)
    gradients = [
        optax.tree.scale(10.0 ** (seed % 3), random_like(params, seed))
        for seed in range(steps)
    ]
    for gradient in gradients:
        updates, state = step(gradient, state, actual)
        actual = optax.apply_updates(actual, updates)
    for name, w in params.items():
        own = [np.asarray(gradient[name], np.float64) for gradient in gradients]
        expected = reference(np.asarray(w, np.float64), own, **arguments)
        assert_close(actual[name], expected, tolerance, name)
