"""One size for every layer: kernel and bias together."""

from typing import Any

import jax
import jax.numpy as jnp
import optax

from optax_ortho import layouts
from optax_ortho.checks import check_number
from optax_ortho.kronecker.layers import layers_of
from optax_ortho.matrices import AxesOf, last_two
from optax_ortho.orthogonalizers.prescale import to_unit


def to_rms(
    rms: float = 0.2, axes: AxesOf = last_two, layout: Any = None
) -> optax.GradientTransformationExtraArgs:
    """Gives every layer an update with one root mean square, whatever its gradient's.

    Args:
      rms: root mean square of the update per unit of learning rate; AdamW's is about
        0.2 to 0.4.
      axes: the `MatrixAxes` of a kernel, from its path and the leaf.
      layout: how the matrices are spread over devices; None is `layouts.local()`.

    Returns:
      A transformation without state; zero stays zero.

    Raises:
      ValueError: a negative `rms`.

    Examples:
      >>> tx = to_rms(0.5)
      >>> updates, _ = tx.update(jnp.diag(jnp.ones(4)), tx.init(jnp.ones((4, 4))))
      >>> print(updates[0])
      [1. 0. 0. 0.]
    """
    check_number("rms", rms)
    layout = layouts.local() if layout is None else layout

    def on_layer(kernel, bias):
        x, _ = to_unit(joined(kernel, bias))
        size = jnp.sqrt(jnp.mean(x**2)) if x.size else jnp.zeros([], x.dtype)
        x = jnp.where(size > 0, rms / jnp.where(size > 0, size, 1), 0) * x
        return parted(x, kernel, bias)

    def update(updates, params):
        del params
        (new,) = layers_of(updates, axes).map(layout, on_layer, updates)
        return new

    return optax.with_extra_args_support(optax.stateless(update))


def joined(kernel: jax.Array, bias: jax.Array | None) -> jax.Array:
    """A kernel over its bias, in float32 or better."""
    parts = [kernel] if bias is None else [kernel, bias]
    wide = jnp.promote_types(kernel.dtype, jnp.float32)
    return jnp.concatenate([part.astype(wide) for part in parts])


def parted(
    x: jax.Array, kernel: jax.Array, bias: jax.Array | None
) -> tuple[jax.Array, jax.Array | None]:
    """The inverse of `joined`, in the dtypes of a kernel and its bias."""

    def cast(part, like):
        largest = float(jnp.finfo(like.dtype).max)
        return jnp.clip(part, -largest, largest).astype(like.dtype)

    fan_in = len(kernel)
    below = None if bias is None else cast(x[fan_in:], bias)
    return cast(x[:fan_in], kernel), below


def norm_of_parts(x: jax.Array, with_bias: bool) -> jax.Array:
    """The Frobenius norm of a kernel plus that of its bias, the last row."""
    if not with_bias:
        return jnp.sqrt(jnp.sum(x**2))
    return jnp.sqrt(jnp.sum(x[:-1] ** 2)) + jnp.sqrt(jnp.sum(x[-1] ** 2))
