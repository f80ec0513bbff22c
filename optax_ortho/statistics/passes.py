"""Calls of layers, with a tap at the input and one at the output.

The sample of a dense layer is one row of its input. The sample of a convolution is an
example of the batch: the mean over positions of its patches and of its output's
gradients.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from optax_ortho.statistics.taps import tap_input, tap_output


def through_dense(
    call: Callable, x: jax.Array, probes: Any, clip: Any, inputs: Any, batch: Any
) -> jax.Array:
    """Calls a layer that contracts axes of x with a kernel (*batch, *inputs, *outputs).

    Args:
      call: the layer.
      x: its input.
      probes: the probes of the layer.
      clip: the bound on the entries of samples; None clips nothing.
      inputs: the axes of x that are contracted.
      batch: the axes of x that the kernel has too.
    """
    # Flax sorts them, in whatever order they were given.
    inputs, batch = (sorted(axis % x.ndim for axis in axes) for axes in (inputs, batch))
    samples = tuple(i for i in range(x.ndim) if i not in inputs + batch)
    count = math.prod(x.shape[i] for i in samples)
    left = [i for i in range(x.ndim) if i not in samples]
    order = [left.index(i) for i in (*batch, *inputs)]

    def gradient(dy):  # Of batch, samples and features, in this order.
        over = tuple(range(len(batch), len(batch) + len(samples)))
        return jnp.mean(_clipped(count * dy.astype(jnp.float32), clip), over)

    a = jnp.mean(_clipped(x.astype(jnp.float32), clip), samples).transpose(order)
    x, probes = tap_input(x, probes, a)
    return tap_output(call(x), probes, gradient)


def through_conv(
    call: Callable, x: jax.Array, probes: Any, clip: Any, layer: Any
) -> jax.Array:
    """Calls a convolution of x, ``(*batch, *positions, channels)``.

    Args:
      call: the layer.
      x: its input.
      probes: the probes of the layer.
      clip: the bound on the entries of samples; None clips nothing.
      layer: the layer, with kernel_size, strides, padding and dilations.
    """
    window = layer.kernel_size
    window = (window,) if isinstance(window, int) else tuple(window)
    rank = len(window)
    samples = x.shape[: x.ndim - rank - 1]
    count = math.prod(samples)
    positions = x.shape[len(samples) : -1]
    visits = patch_matrices(
        positions,
        window,
        strides=_for_each(layer.strides, rank),
        padding=layer.padding,
        input_dilation=_for_each(layer.input_dilation, rank),
        kernel_dilation=_for_each(layer.kernel_dilation, rank),
    )
    first = len(samples)
    patches = x.astype(jnp.float32)
    for visit in visits:  # The first axis of positions becomes the last of taps.
        patches = jnp.moveaxis(patches, first, -1)
        visit = jnp.asarray(visit, patches.dtype)
        patches = jnp.matmul(patches, visit, precision=lax.Precision.HIGHEST)
    patches = jnp.moveaxis(patches, first, -1)  # Channels came to the front.
    over = tuple(range(first))

    def gradient(dy):
        dy = jnp.mean(dy.astype(jnp.float32), tuple(range(first, first + rank)))
        return jnp.mean(_clipped(count * dy, clip), over)

    x, probes = tap_input(x, probes, jnp.mean(_clipped(patches, clip), over))
    return tap_output(call(x), probes, gradient)


def patch_matrices(
    positions: Sequence[int],
    window: Sequence[int],
    *,
    strides: Sequence[int],
    padding: Any,
    input_dilation: Sequence[int],
    kernel_dilation: Sequence[int],
) -> list[Any]:
    """The frequency with which each tap of a convolution visits each input position.

    Args:
      positions: the lengths of the input's spatial axes.
      window: the lengths of the kernel's spatial axes.
      strides: the strides of the window.
      padding: as Flax's layers take it.
      input_dilation: the dilation of the input.
      kernel_dilation: the dilation of the kernel.

    Returns:
      For each axis ``(positions, window)``, over the number of output positions; with
      it a sum over positions is the mean over patches.

    Examples:
      >>> one = dict(strides=[1], input_dilation=[1], kernel_dilation=[1])
      >>> print(patch_matrices([3], [2], padding="VALID", **one)[0])
      [[0.5 0. ]
       [0.5 0.5]
       [0.  0.5]]
    """
    modes = {"CIRCULAR": "wrap", "REFLECT": "reflect"}
    reach = [(w - 1) * d + 1 for w, d in zip(window, kernel_dilation, strict=True)]
    dilated = [
        (size - 1) * d + 1 for size, d in zip(positions, input_dilation, strict=True)
    ]
    named = isinstance(padding, str)
    mode: Any = modes.get(padding, "constant") if named else "constant"
    if mode != "constant":
        pads = [((r - 1) // 2, r // 2) for r in reach]
    elif padding == "CAUSAL":
        pads = [(r - 1, 0) for r in reach]
    elif named:
        pads = lax.padtype_to_pads(dilated, reach, strides, padding)
    else:
        each = [padding] * len(window) if isinstance(padding, int) else padding
        pads = [(pad, pad) if isinstance(pad, int) else tuple(pad) for pad in each]
    visits = []
    for i, size in enumerate(positions):
        seen = np.eye(size)
        if mode != "constant":
            seen = np.pad(seen, (pads[i], (0, 0)), mode=mode)
        spread = np.zeros(((len(seen) - 1) * input_dilation[i] + 1, size))
        spread[:: input_dilation[i]] = seen
        if mode == "constant":
            spread = np.pad(spread, (pads[i], (0, 0)))
        steps = (len(spread) - reach[i]) // strides[i] + 1
        taps = [
            spread[j * kernel_dilation[i] :][
                : (steps - 1) * strides[i] + 1 : strides[i]
            ]
            for j in range(window[i])
        ]
        visits.append(np.stack([tap.mean(0) for tap in taps], axis=1))
    return visits


def _for_each(value: Any, rank: int) -> tuple[int, ...]:
    value = 1 if value is None else value
    return (value,) * rank if isinstance(value, int) else tuple(value)


def _clipped(x: jax.Array, clip: Any) -> jax.Array:
    return x if clip is None else jnp.clip(x, -clip, clip)
