"""The sharded layout of devices that all have everything, such as those of a pmap."""

from typing import Any

import jax.numpy as jnp
from jax.sharding import AbstractMesh

from optax_ortho.layouts.sharded import Sharded


def replicated(
    axis_name: str, axis_size: int, wire_dtype: Any = jnp.bfloat16
) -> Sharded:
    """The layout inside `jax.pmap` or `jax.shard_map` where each device has everything.

    Each device works on its share of the matrices and all gather the results, instead
    of all doing all the work. Gradients must be equal on all devices, so reduce them
    first.

    Args:
      axis_name: the axis of the enclosing pmap or shard_map.
      axis_size: how many devices it has.
      wire_dtype: as in `sharded`.

    Returns:
      A layout, for the `layout` argument of any recipe. States of matrices are those of
      each device's own, so `init` goes inside too.

    Examples:
      >>> import jax
      >>> from optax_ortho import muon
      >>> tx = muon(0.02, layout=replicated("devices", 1))
      >>> def step(params, gradient):
      ...     updates, _ = tx.update(gradient, tx.init(params), params)
      ...     return updates
      >>> x = jnp.ones((1, 4, 6))
      >>> jax.pmap(step, axis_name="devices")(x, x).shape
      (1, 4, 6)
    """
    mesh = AbstractMesh((axis_size,), (axis_name,))
    return Sharded(mesh, None, jnp.dtype(wire_dtype))
