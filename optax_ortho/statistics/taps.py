"""Statistics of a layer as gradients of zeros that the layer ignores.

A tap is the identity on an array that passes through a layer. It also takes a probe, an
array of zeros that it ignores, and its derivative defines the gradient of the probe as
the statistic. So a statistic comes out of `jax.grad` wherever the gradient of a
parameter does: through `jit`, `scan`, `vmap`, `remat`, and with one entry a layer where
layers are stacked. A probe used several times gets the sum of its statistics, so their
number is a third one, by which the mean input is divided in the end:

    a    mean over samples of the input, each clipped
    g    mean over samples of N times the output's gradient, each clipped, for N samples
    n    1

Without clipping g is the sum over samples of the loss gradient in the output, the
gradient of a bias. `passes` defines a sample.
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
      probes: the probes of the layer.
      a: the gradient of ``probes.a``, without axes of length 1.

    Returns:
      The input, and the probes for `tap_output`. They now vary with x, over a
      `jax.vmap` or the devices of a `jax.shard_map`, so that their gradients are
      summed over it as the gradient of a parameter is.
    """
    if not jnp.issubdtype(x.dtype, jnp.inexact):
        x = x.astype(jnp.float32)
    a = lax.stop_gradient(a)
    zero = jnp.where(jnp.isnan(a).any(), 0, jnp.zeros([], jnp.float32))
    probes = Probes(*(probe + zero for probe in probes))
    a = a.reshape(probes.a.shape).astype(probes.a.dtype)
    return _tapped_input(x, (probes.a, probes.n), (a, probes.n + 1)), probes


def tap_output(y: jax.Array, probes: Probes, mean: Callable) -> jax.Array:
    """The output of a layer, with the statistic of its gradient.

    Args:
      y: the output.
      probes: the probes of the layer.
      mean: maps the gradient in y to the gradient in ``probes.g``.
    """
    return _tapped_output(mean, y, probes.g)


@jax.custom_vjp
def _tapped_input(x, probes, values):
    return x


def _input_backward(values, dx):
    return dx, values, None  # No gradient passes through a statistic.


_tapped_input.defvjp(lambda x, probes, values: (x, values), _input_backward)


def _output_forward(mean, y, probe):
    return y, probe


def _output_backward(mean, probe, dy):
    return dy, mean(dy).reshape(probe.shape).astype(probe.dtype)


_tapped_output = jax.custom_vjp(lambda mean, y, probe: y, nondiff_argnums=(0,))
_tapped_output.defvjp(_output_forward, _output_backward)


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
      gradients: for the path of a layer, the gradients of its probes and the axes of
        its kernel.

    Returns:
      A nested dict with ``{"a": (*batch, fan_in), "g": (*batch, fan_out)}`` at each
      layer.
    """
    tree: dict[str, Any] = {}
    for path, (sums, axes) in gradients.items():
        a = sums.a / jnp.maximum(sums.n, 1)
        whole = MatrixAxes(axes.fan_in, axes.fan_out)
        ((a,), (g,)) = (fold(x, whole) for x in (a, sums.g))
        place = tree
        for name in filter(None, path.split("/")):
            place = place.setdefault(name, {})
        place |= {"a": a[..., 0], "g": g[..., 0, :]}
    return tree
