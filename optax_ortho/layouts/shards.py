"""Whole arrays to shards and back, along some of the mesh axes.

All of it runs where the mesh axes are manual.
"""

import math
from collections.abc import Sequence

import jax
import jax.numpy as jnp
from jax import lax

from optax_ortho.layouts.plan import Axes, Leaf, MeshShape


def averaged(x: jax.Array, spec: Sequence[Axes], mesh: MeshShape, over: Axes):
    """A device's part of the average of arrays that are whole along some mesh axes.

    Args:
      x: this device's array.
      spec: the mesh axes along each of its axes.
      mesh: the size of each mesh axis.
      over: the mesh axes along which arrays differ.
    """
    # Divided first, so that no sum of finite numbers is infinite.
    x = x / math.prod(mesh[axis] for axis in over)
    for i, axes in enumerate(spec):
        along = _of(axes, mesh, over)
        if along:
            # The parts side by side in memory: of parts that share its tiles, a TPU's
            # compiler sends all to every device.
            count = math.prod(mesh[axis] for axis in along)
            x = x.reshape((*x.shape[:i], count, x.shape[i] // count, *x.shape[i + 1 :]))
            x = jnp.moveaxis(x, i, 0)
            rows = x.reshape((count, math.prod(x.shape[1:-1]), x.shape[-1]))
            x = lax.psum_scatter(rows, along).reshape(x.shape[1:])
    rest = tuple(a for a in _of(over, mesh, over) if not any(a in s for s in spec))
    return lax.psum(x, rest) if rest else x


def gathered(x: jax.Array, spec: Sequence[Axes], mesh: MeshShape, over: Axes):
    """What is in shards along some mesh axes, whole along them."""
    for i, axes in enumerate(spec):
        along = _of(axes, mesh, over)
        if along:
            x = lax.all_gather(x, along, axis=i, tiled=True)
    return x


def averaged_batch(x: jax.Array, leaf: Leaf, mesh: MeshShape, over: Axes):
    """`averaged` along the batch axes of a leaf alone."""
    stacked = leaf.axes.batch(len(leaf.shape))
    spec = [axes if i in stacked else () for i, axes in enumerate(leaf.spec)]
    along = _of([a for axes in spec for a in axes], mesh, over)
    return averaged(x, spec, mesh, along)


def part_of(x: jax.Array, spec: Sequence[Axes], mesh: MeshShape, over: Axes):
    """A device's part of an array that all have; axes of length 1 are not cut."""
    for i, axes in enumerate(spec):
        along = _of(axes, mesh, over)
        if along and x.shape[i] > 1:
            n = x.shape[i] // math.prod(mesh[axis] for axis in along)
            x = lax.dynamic_slice_in_dim(x, n * lax.axis_index(along), n, i)
    return x


def _of(axes: Sequence[str], mesh: MeshShape, over: Axes) -> Axes:
    """Those of some mesh axes that are longer than 1 and among others."""
    return tuple(axis for axis in axes if axis in over and mesh[axis] > 1)
