"""Reading a layer without touching it: statistics as gradients of zeros.

A tap is the identity on an array that passes through a layer. It also takes a probe, an
array of zeros that it ignores, and says that the probe's gradient is the statistic. So
a statistic comes out of `jax.grad` wherever the gradient of a parameter does: through
`jit`, `scan`, `vmap`, `remat`, and with one entry a layer where layers are stacked. A
probe used several times gets the sum of its statistics, so their number is a third
one, by which the mean input is divided in the end:

    a    mean over samples of the input, each clipped
    g    mean over samples of N times the output's gradient, each clipped, for N samples
    n    1

Without clipping g is the sum over samples of the loss gradient in the output: that of a
bias. `passes` says what a sample is.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from optax_ortho.matrices import MatrixAxes, fold


class Probes(NamedTuple):
    """Zeros whose gradients are the statistics; all have the kernel's number of axes.

    Attributes:
      a: as the kernel, with fan-out axes of length 1.
      g: as the kernel, with fan-in axes of length 1.
      n: as the kernel, with both of length 1.
    """

    a: Any
    g: Any
    n: Any


def tap_input(x: jax.Array, probes: Probes, a: jax.Array) -> tuple[jax.Array, Probes]:
    """The input of a layer, with its statistic.

    Args:
      x: the input.
      probes: of the layer.
      a: what the gradient of ``probes.a`` is to be, without axes of length 1.

    Returns:
      The input, and the probes for `tap_output`. They now vary with x, over a
      `jax.vmap` or the devices of a `jax.shard_map`, so that going back their gradients
      are summed over them as that of a parameter is.
    """
    if not jnp.issubdtype(x.dtype, jnp.inexact):
        x = x.astype(jnp.float32)
    a = lax.stop_gradient(a)
    zero = jnp.where(jnp.isnan(a).any(), 0, jnp.zeros([], jnp.float32))
    probes = Probes(*(probe + zero for probe in probes))
    a = a.reshape(probes.a.shape).astype(probes.a.dtype)
    return _told(x, (probes.a, probes.n), (a, probes.n + 1)), probes


def tap_output(y: jax.Array, probes: Probes, mean: Callable) -> jax.Array:
    """The output of a layer, with the statistic of its gradient.

    Args:
      y: the output.
      probes: of the layer.
      mean: from the gradient in y to what that in ``probes.g`` is to be.
    """
    return _heard(mean, y, probes.g)


@jax.custom_vjp
def _told(x, probes, values):
    return x


def _told_backward(values, dx):
    return dx, values, None  # No gradient passes through a statistic.


_told.defvjp(lambda x, probes, values: (x, values), _told_backward)


def _heard_forward(mean, y, probe):
    return y, probe


def _heard_backward(mean, probe, dy):
    return dy, mean(dy).reshape(probe.shape).astype(probe.dtype)


_heard = jax.custom_vjp(lambda mean, y, probe: y, nondiff_argnums=(0,))
_heard.defvjp(_heard_forward, _heard_backward)


def probes_of(shape: Sequence[int], axes: MatrixAxes) -> Probes:
    """The probes of a kernel.

    Args:
      shape: its shape.
      axes: its resolved axes.
    """

    def zeros(*thin):
        kept = (1 if i in thin else size for i, size in enumerate(shape))
        return jnp.zeros(tuple(kept), jnp.float32)

    return Probes(
        zeros(*axes.fan_out), zeros(*axes.fan_in), zeros(*axes.fan_in, *axes.fan_out)
    )


def read(gradients: Mapping[str, tuple[Probes, MatrixAxes]]) -> dict[str, Any]:
    """The statistics, from the gradients of probes.

    Args:
      gradients: for the path of a layer, those of its probes and its kernel's axes.

    Returns:
      A nested dict with ``{"a": (*batch, fan_in), "g": (*batch, fan_out)}`` at each
      layer.
    """
    tree: dict[str, Any] = {}
    for path, (found, axes) in gradients.items():
        a = found.a / jnp.maximum(found.n, 1)
        whole = MatrixAxes(axes.fan_in, axes.fan_out)
        ((a,), (g,)) = (fold(x, whole) for x in (a, found.g))
        place = tree
        for name in filter(None, path.split("/")):
            place = place.setdefault(name, {})
        place |= {"a": a[..., 0], "g": g[..., 0, :]}
    return tree
