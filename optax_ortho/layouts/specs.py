"""Shardings of parameters and optimizer states, and collectives that follow them.

The collectives make shards of whole arrays along some mesh axes, and whole arrays of
shards, where the mesh axes are manual.
"""

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.sharding import AbstractMesh, AxisType, Mesh, NamedSharding, PartitionSpec

from optax_ortho.layouts.geometry import Axes, Leaf, MeshShape, local_shape, mesh_size
from optax_ortho.layouts.stacks import is_owned
from optax_ortho.matrices import AxesOf, MatrixAxes, axes_at, path_of


class Param(NamedTuple):
    """A parameter's shape, dtype and `PartitionSpec`."""

    shape: tuple[int, ...]
    dtype: str
    spec: PartitionSpec

    @property
    def mesh_axes(self) -> Axes:
        """The mesh axes over which it is sharded."""
        return tuple(axis for entry in self.spec for axis in axes_of(entry))


@dataclasses.dataclass(frozen=True)
class Params:
    """Parameters on a mesh.

    Attributes:
      mesh: of the parameters.
      by_path: the parameters; None if all of any shape are replicated.
    """

    mesh: Mesh | AbstractMesh
    by_path: Mapping[str, Param] | None = dataclasses.field(repr=False)

    def leaf(self, path: str, axes: MatrixAxes, *dtypes: Any) -> Leaf:
        """A parameter, and its sharding.

        Args:
          path: its path.
          axes: its matrix axes.
          *dtypes: the dtypes of the operands in its place.

        Raises:
          ValueError: there is no such parameter, or the axes do not fit it.
        """
        param = self._param(path)
        names = (param.dtype, *(jnp.dtype(dtype).name for dtype in dtypes))
        resolved = axes.resolve(param.shape)
        return Leaf(path, param.shape, resolved, self.spec(path), names)

    def leaf_of(self, path: str, axes: AxesOf, *arrays: Any) -> Leaf:
        """The leaf in whose place there are arrays; in a `jax.shard_map`, shards.

        Raises:
          ValueError: the layout was made for other parameters.
        """
        first, dtypes = arrays[0], [x.dtype for x in arrays]
        if self.by_path is None:
            names = tuple(dtype.name for dtype in (first.dtype, *dtypes))
            resolved = axes_at(axes, path, first)
            return Leaf(path, first.shape, resolved, ((),) * first.ndim, names)
        whole = self.whole(path)
        leaf = self.leaf(path, axes_at(axes, path, whole), *dtypes)
        inside = self.is_manual()
        expected = local_shape(leaf, self.mesh.shape) if inside else whole.shape
        if first.shape != expected:
            where = "on one device" if inside else "whole"
            raise ValueError(
                f"Leaf {path!r} has shape {first.shape}, but the layout was made for "
                f"one that is {expected} {where}. Make it of the parameters you train: "
                "layouts.sharded(params)."
            )
        return leaf

    def spec(self, path: str) -> tuple[Axes, ...]:
        """The mesh axes of each axis of a parameter."""
        param = self._param(path)
        spec = tuple(axes_of(entry) for entry in param.spec)
        return spec + ((),) * (len(param.shape) - len(spec))

    def whole(self, path: str) -> jax.ShapeDtypeStruct:
        """The shape and dtype of a whole parameter."""
        param = self._param(path)
        return jax.ShapeDtypeStruct(param.shape, param.dtype)

    def is_manual(self) -> bool:
        """Whether every mesh axis is one of an enclosing shard_map or pmap."""
        manual = jax.sharding.get_abstract_mesh().manual_axes
        return set(self.mesh.axis_names) <= set(manual)

    def on_mesh(self, f: Callable, in_specs: Any, out_specs: Any) -> Callable:
        """A function of each device's shards; inside of a shard_map `f` itself."""
        if self.is_manual():
            return f
        return jax.shard_map(
            f, mesh=self.mesh, in_specs=in_specs, out_specs=out_specs, check_vma=False
        )

    def _param(self, path: str) -> Param:
        if not self.by_path or path not in self.by_path:
            raise ValueError(
                f"Leaf {path!r} is none of the {len(self.by_path or ())} parameters "
                "that the layout was made for. Make it of those you train: "
                "layouts.sharded(params)."
            )
        return self.by_path[path]


def params_of(tree: Any) -> Params:
    """The parameters of a tree, arrays or their shapes with a sharding.

    Raises:
      ValueError: no leaf has a `NamedSharding`, or two have different meshes.
    """
    params: dict[str, Param] = {}
    meshes = []
    for keys, leaf in jax.tree_util.tree_leaves_with_path(tree):
        sharding, spec = getattr(leaf, "sharding", None), PartitionSpec()
        if isinstance(sharding, NamedSharding):
            spec = sharding.spec
            meshes.append(sharding.mesh)
        params[path_of(keys)] = Param(tuple(leaf.shape), leaf.dtype.name, spec)
    if not meshes:
        raise ValueError(
            "sharded needs parameters with a jax.sharding.NamedSharding, as "
            "jax.device_put and flax give them, and got none. On one device use "
            "layouts.local(); inside pmap layouts.replicated(axis_name, axis_size)."
        )
    if len(set(meshes)) > 1:
        raise ValueError(
            f"sharded needs one mesh, but the parameters have {len(set(meshes))}: "
            f"{', '.join(str(dict(mesh.shape)) for mesh in set(meshes))}."
        )
    return Params(meshes[0], params)


def axes_of(entry: Any) -> Axes:
    """The mesh axes in one entry of a PartitionSpec."""
    if entry is None:
        return ()
    return (entry,) if isinstance(entry, str) else tuple(entry)


def check_axes(name: str, axes: Axes, mesh: Mesh | AbstractMesh) -> None:
    """Refuses an argument that names an axis that the mesh does not have."""
    unknown = [axis for axis in axes if axis not in mesh.shape]
    if unknown:
        raise ValueError(
            f"{name} has {unknown}, but the axes of the mesh are {tuple(mesh.shape)}."
        )


def slice_axes(params: Params, given: Axes | str | None) -> Axes:
    """The mesh axes, over the network between TPU slices, without communication.

    Args:
      params: the parameters.
      given: these axes; None is those along which devices are of different slices, and
        over which no parameter is sharded.

    Raises:
      ValueError: the mesh has no such axis, or a parameter is sharded over it.
    """
    mesh, by_path = params.mesh, params.by_path or {}
    if given is None:
        sharded = {axis for param in by_path.values() for axis in param.mesh_axes}
        return tuple(axis for axis in _between_slices(mesh) if axis not in sharded)
    given = axes_of(given)
    check_axes("dcn", given, mesh)
    for path, param in by_path.items():
        crossing = [axis for axis in given if axis in param.mesh_axes]
        if crossing:
            raise ValueError(
                f"Leaf {path!r} is sharded over {crossing[0]!r}, so its pieces are "
                "communicated along it: leave that axis out of dcn, or replicate the "
                "parameters over it."
            )
    return given


def state_specs(state: Any, owners: Axes, params: Params) -> Any:
    """The `PartitionSpec` of each array of an optimizer's state.

    An array whose path ends in a parameter's path is sharded like that parameter, on
    the axes where both have the same length. The stacks of owners are sharded over the
    mesh axes of owners; all else is replicated.

    Args:
      state: of an optimizer, or its shapes.
      owners: the mesh axes along which there are owners.
      params: the parameters.
    """
    by_path = params.by_path or {}

    def on_node(keys, node):
        if is_owned(node):
            return jax.tree.map(lambda x: PartitionSpec(owners), node)
        parts, shape = path_of(keys).split("/"), np.shape(node)
        ends = ("/".join(parts[i:]) for i in range(len(parts)))
        param = next((by_path[end] for end in ends if end in by_path), None)
        if param is None or len(param.shape) != len(shape):
            return PartitionSpec()
        entries = tuple(param.spec) + (None,) * (len(shape) - len(param.spec))
        triples = zip(shape, param.shape, entries, strict=True)
        return PartitionSpec(*(e if n == m else None for n, m, e in triples))

    return jax.tree_util.tree_map_with_path(on_node, state, is_leaf=is_owned)


def constrained(state: Any, mesh: Mesh, specs: Any) -> Any:
    """A state with each array sharded by its spec, so that a step moves none."""
    explicit = AxisType.Explicit in mesh.axis_types

    def on_leaf(x, spec):
        if not isinstance(x, jax.Array):
            return x
        sharding = NamedSharding(mesh, spec)
        if explicit:
            return jax.sharding.reshard(x, sharding)
        return lax.with_sharding_constraint(x, sharding)

    return jax.tree.map(on_leaf, state, specs)


def _between_slices(mesh: Mesh | AbstractMesh) -> Axes:
    """The mesh axes along which devices are of different slices."""
    if not isinstance(mesh, Mesh):
        return ()
    of = np.vectorize(lambda device: getattr(device, "slice_index", 0))(mesh.devices)
    names = enumerate(mesh.axis_names)
    return tuple(name for i, name in names if (of != of.take([0], i)).any())


def averaged(
    x: jax.Array, spec: Sequence[Axes], mesh: MeshShape, over: Axes
) -> jax.Array:
    """This device's shard of the average of arrays that are whole along some mesh axes.

    Args:
      x: this device's array.
      spec: the mesh axes of each of its axes.
      mesh: the size of each mesh axis.
      over: the mesh axes along which arrays differ.
    """
    # Divided first, so that no sum of finite numbers is infinite.
    x = x / mesh_size(over, mesh)
    for i, axes in enumerate(spec):
        along = _among(axes, mesh, over)
        if along:
            # The shards are contiguous first: where they share tiles of memory, a TPU's
            # compiler sends all of them to every device.
            count = mesh_size(along, mesh)
            x = x.reshape((*x.shape[:i], count, x.shape[i] // count, *x.shape[i + 1 :]))
            x = jnp.moveaxis(x, i, 0)
            rows = x.reshape((count, math.prod(x.shape[1:-1]), x.shape[-1]))
            x = lax.psum_scatter(rows, along).reshape(x.shape[1:])
    rest = tuple(a for a in _among(over, mesh, over) if not any(a in s for s in spec))
    return lax.psum(x, rest) if rest else x


def gathered(
    x: jax.Array, spec: Sequence[Axes], mesh: MeshShape, over: Axes
) -> jax.Array:
    """An array that is whole along some mesh axes, from its shards."""
    for i, axes in enumerate(spec):
        along = _among(axes, mesh, over)
        if along:
            x = lax.all_gather(x, along, axis=i, tiled=True)
    return x


def shard_of(
    x: jax.Array, spec: Sequence[Axes], mesh: MeshShape, over: Axes
) -> jax.Array:
    """This device's shard of an array that all have; axes of length 1 stay whole."""
    for i, axes in enumerate(spec):
        along = _among(axes, mesh, over)
        if along and x.shape[i] > 1:
            n = x.shape[i] // mesh_size(along, mesh)
            x = lax.dynamic_slice_in_dim(x, n * lax.axis_index(along), n, i)
    return x


def _among(axes: Sequence[str], mesh: MeshShape, over: Axes) -> Axes:
    """The mesh axes that are in `over` and longer than 1."""
    return tuple(axis for axis in axes if axis in over and mesh[axis] > 1)
