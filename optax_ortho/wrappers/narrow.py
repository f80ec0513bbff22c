"""Sums of a narrow parameter and its update, computed in float32."""

from typing import Any

import jax
import jax.numpy as jnp

NARROW = (jnp.bfloat16, jnp.float16)


def is_narrow(leaf: Any) -> bool:
    """Whether a leaf is rounded to fewer bits than its update is computed with."""
    return jnp.result_type(leaf) in NARROW


def rounded(x: jax.Array, dtype: Any) -> jax.Array:
    """The nearest numbers of a dtype, in float32.

    XLA may keep excess precision, and drop the two casts of
    ``x.astype(dtype).astype(x.dtype)``; it never drops `jax.lax.reduce_precision`.
    """
    info = jnp.finfo(dtype)
    return jax.lax.reduce_precision(x, info.nexp, info.nmant)


def refuse_no_params(name: str, params: Any) -> None:
    """Refuses an update without parameters.

    Raises:
      ValueError: `params` is None.
    """
    if params is None:
        raise ValueError(
            f"{name} rounds the sum of parameters and updates: give update the "
            "parameters, tx.update(gradient, state, params)."
        )
