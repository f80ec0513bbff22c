"""Parameters, as far as a layout needs to know them."""

from typing import Any, NamedTuple

import jax
from jax.sharding import AbstractMesh, Mesh, NamedSharding, PartitionSpec

from optax_ortho.layouts.plan import Axes
from optax_ortho.matrices import path_of


class Placed(NamedTuple):
    """A parameter's shape, dtype, and place on the mesh."""

    shape: tuple[int, ...]
    dtype: str
    spec: PartitionSpec

    @property
    def along(self) -> Axes:
        """The mesh axes along which it is cut."""
        return tuple(axis for entry in self.spec for axis in axes_of(entry))


def places_of(params: Any) -> tuple[Mesh | AbstractMesh, dict[str, Placed]]:
    """The mesh of some parameters, and where each lies.

    Raises:
      ValueError: no leaf has a `NamedSharding`, or two have different meshes.
    """
    placed: dict[str, Placed] = {}
    meshes = []
    for keys, leaf in jax.tree_util.tree_leaves_with_path(params):
        sharding, spec = getattr(leaf, "sharding", None), PartitionSpec()
        if isinstance(sharding, NamedSharding):
            spec = sharding.spec
            meshes.append(sharding.mesh)
        placed[path_of(keys)] = Placed(tuple(leaf.shape), leaf.dtype.name, spec)
    if not meshes:
        raise ValueError(
            "sharded needs parameters with a jax.sharding.NamedSharding, as "
            "jax.device_put and flax give them, and found none. On one device use "
            "layouts.local(); inside pmap layouts.replicated(axis_name, axis_size)."
        )
    if len(set(meshes)) > 1:
        raise ValueError(
            f"sharded needs one mesh; the parameters lie on {len(set(meshes))}: "
            f"{', '.join(str(dict(mesh.shape)) for mesh in set(meshes))}."
        )
    return meshes[0], placed


def axes_of(entry: Any) -> Axes:
    """The mesh axes in one entry of a PartitionSpec."""
    if entry is None:
        return ()
    return (entry,) if isinstance(entry, str) else tuple(entry)
