"""TPU slices, and the slow network between them."""

from collections.abc import Mapping

import numpy as np
from jax.sharding import AbstractMesh, Mesh

from optax_ortho.layouts.parameters import Placed, axes_of
from optax_ortho.layouts.plan import Axes


def dcn_axes(
    mesh: Mesh | AbstractMesh, placed: Mapping[str, Placed], given: Axes | str | None
) -> Axes:
    """The mesh axes along which nothing should travel, and nothing has to.

    Args:
      mesh: of the parameters.
      placed: where each of them lies.
      given: these axes; None is those along which devices are of different slices and
        all parameters are copies.

    Raises:
      ValueError: the mesh has no such axis, or a parameter is cut along it.
    """
    if given is None:
        cut = {axis for one in placed.values() for axis in one.along}
        return tuple(axis for axis in _between_slices(mesh) if axis not in cut)
    given = axes_of(given)
    unknown = [axis for axis in given if axis not in mesh.shape]
    if unknown:
        raise ValueError(
            f"dcn names no mesh axis: {unknown}; the mesh has {tuple(mesh.shape)}."
        )
    for path, one in placed.items():
        crossing = [axis for axis in given if axis in one.along]
        if crossing:
            raise ValueError(
                f"Leaf {path!r} is cut along {crossing[0]!r}, so its pieces have to "
                "travel there: leave that axis out of dcn, or copy the parameters "
                "along it."
            )
    return given


def _between_slices(mesh: Mesh | AbstractMesh) -> Axes:
    """The mesh axes along which devices are of different slices."""
    if not isinstance(mesh, Mesh):
        return ()
    of = np.vectorize(lambda device: getattr(device, "slice_index", 0))(mesh.devices)
    names = enumerate(mesh.axis_names)
    return tuple(name for i, name in names if (of != of.take([0], i)).any())
