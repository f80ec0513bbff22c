"""One size for every layer: kernel and bias together."""

import math

import jax
import jax.numpy as jnp
import optax

from optax_ortho.blocks import length, quotient
from optax_ortho.blocks import rms as root_mean_square
from optax_ortho.checks import check_number
from optax_ortho.kronecker.layers import layers_of, paths_and_leaves
from optax_ortho.matrices import AxesOf, axes_at, cut, last_two, path_of


def to_rms(
    rms: float = 0.2, axes: AxesOf = last_two
) -> optax.GradientTransformationExtraArgs:
    """Gives every layer an update with one root mean square, whatever its gradient's.

    Args:
      rms: root mean square of the update per unit of learning rate; AdamW's is about
        0.2 to 0.4.
      axes: the `MatrixAxes` of a kernel, from its path and the leaf.

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

    def on_layer(parts, over):
        """Scales one block of a kernel, together with the same block of its bias."""
        pairs = list(zip(parts, over, strict=True))
        sizes = [root_mean_square(x, axes).squeeze(axes) for x, axes in pairs]
        numbers = [length(x.shape, axes) for x, axes in pairs]
        weights = [math.sqrt(n / max(sum(numbers), 1)) for n in numbers]
        # RMS of the whole from the RMS of its parts, by the same function.
        weighted = jnp.stack([w * x for w, x in zip(weights, sizes, strict=True)])
        size = root_mean_square(weighted, (0,))[0] * math.sqrt(len(parts))
        scaled = []
        for x, axes in pairs:
            unit = quotient(x.astype(size.dtype), jnp.expand_dims(size, axes))
            scaled.append((rms * unit).astype(x.dtype))
        return scaled

    def update(updates, params):
        del params
        layers = layers_of(updates, axes)
        new = paths_and_leaves(updates)
        for path, kernel in paths_and_leaves(layers.kernels(updates)).items():
            members = [(path, axes_at(axes, path, kernel))]
            members += [layers.rows[path]] if path in layers.rows else []
            over = [a.fan_in + a.fan_out for _, a in members]
            blocks = zip(*(cut(new[p], a) for p, a in members), strict=True)
            scaled = zip(*(on_layer(parts, over) for parts in blocks), strict=True)
            for (member, member_axes), parts in zip(members, scaled, strict=True):
                split = member_axes.split
                whole = jnp.concatenate(parts, split.axis) if split else parts[0]
                new[member] = whole
        return jax.tree_util.tree_map_with_path(lambda k, _: new[path_of(k)], updates)

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
    """The Frobenius norm of a kernel plus the norm of its bias, the last row."""
    if not with_bias:
        return jnp.sqrt(jnp.sum(x**2))
    return jnp.sqrt(jnp.sum(x[:-1] ** 2)) + jnp.sqrt(jnp.sum(x[-1] ** 2))
