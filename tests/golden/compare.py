"""Comparison of a case, shared by all formats of sets."""

from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from tests.golden.sources import flax_order


class Comparison(NamedTuple):
    error: float
    tolerance: float
    what: str = ""

    @property
    def closeness(self) -> float:
        """1 at the tolerance; a NaN is infinitely far off."""
        ratio = self.error / self.tolerance if self.tolerance > 0 else self.error
        return float(np.nan_to_num(ratio, nan=np.inf))


def train(tx: optax.GradientTransformation, params: Any, grads: Any) -> Any:
    """The parameters after each step, along a leading axis."""

    def step(carry, grad):
        params, state = carry
        updates, state = tx.update(grad, state, params)
        params = optax.apply_updates(params, updates)
        return (params, state), params

    params, grads = jax.tree.map(jnp.asarray, (params, grads))
    _, path = jax.lax.scan(step, (params, tx.init(params)), grads)
    return jax.tree.map(np.asarray, path)


def to_flax(array: np.ndarray, lead: int) -> np.ndarray:
    """An array in PyTorch's layout, after `lead` other axes, in Flax's."""
    order = flax_order(array.ndim - lead)
    return array.transpose(*range(lead), *(lead + axis for axis in order))


def arrays_under(arrays: Mapping[str, np.ndarray], prefix: str) -> dict:
    """The arrays whose names begin with a prefix, by the rest of their names."""
    return {
        key.removeprefix(prefix): arrays[key]
        for key in arrays
        if key.startswith(prefix)
    }


def largest(array: np.ndarray) -> float:
    """The largest magnitude, NaN if there is one."""
    return float(np.abs(array).max(initial=0.0))
