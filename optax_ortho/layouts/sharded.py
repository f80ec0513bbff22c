"""The sharded layout: every matrix has one owner, at the least communication.

Pieces travel to the matrix's owner in one all-to-all and come back in another; where
parameters are replicated, devices share the work and gather its results. Nothing else
is exchanged, and no work is done twice. An owner is a device, or several that share the
work on a matrix; see `optax_ortho.layouts.shared`.
"""

import collections
import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import AbstractMesh, Mesh, PartitionSpec

from optax_ortho.layouts.dealing import rounds
from optax_ortho.layouts.parameters import Placed, axes_of, places_of
from optax_ortho.layouts.pieces import block_shapes
from optax_ortho.layouts.placing import placed, specs_of
from optax_ortho.layouts.plan import (
    Axes,
    Leaf,
    MeshShape,
    Round,
    kind_of,
    local_shape,
)
from optax_ortho.layouts.rounds import run_rounds, slots
from optax_ortho.layouts.shared import shared_along
from optax_ortho.layouts.slices import dcn_axes
from optax_ortho.layouts.work import groups, work_of
from optax_ortho.matrices import (
    AxesOf,
    MatrixAxes,
    Orthogonalizer,
    SharedOrthogonalizer,
    axes_at,
    path_of,
)

# What an owner receives together of small matrices, in elements.
AT_ONCE = 2**18


@dataclasses.dataclass(frozen=True)
class Sharded:
    """`jax.tree.map` for matrices in shards; made by `sharded` and `replicated`."""

    mesh: Mesh | AbstractMesh
    params: Mapping[str, Placed] | None = dataclasses.field(repr=False)
    wire_dtype: Any
    shared: Axes = ()
    dcn: Axes = ()

    @property
    def reach(self) -> MeshShape:
        """The mesh axes along which devices share work, and their sizes."""
        shape = self.mesh.shape
        return {axis: n for axis, n in shape.items() if axis not in self.dcn}

    def map(self, f: Any, axes: AxesOf, *operands: Any, state: Any = None) -> Any:
        """As `Local.map`; an `Orthogonalizer` may be handed a matrix's transpose."""
        keyed, treedef = jax.tree_util.tree_flatten_with_path(operands[0])
        columns = [treedef.flatten_up_to(operand) for operand in operands]
        leaves = [
            self.leaf_of(path_of(keys), axes, *arrays)
            for (keys, _), *arrays in zip(keyed, *columns, strict=True)
        ]
        if not leaves:
            return operands[0] if state is None else (operands[0], state)
        if state is None:
            leaves = self.sharing(leaves, f)
        mesh, equivariant = self.reach, isinstance(f, Orthogonalizer)
        work = work_of(f, leaves, mesh, state, self.wire_dtype, AT_ONCE)
        plan = self.plan(leaves, equivariant)

        def on_device(columns, state):
            found, state = run_rounds(work, plan, leaves, mesh, columns, state)
            typed = [
                [y.astype(dtype) for y, dtype in zip(ys, column, strict=True)]
                for ys, column in zip(found, work.dtypes, strict=True)
            ]
            return typed, state

        specs = [PartitionSpec(*leaf.spec) for leaf in leaves]
        owned = PartitionSpec(tuple(mesh))
        run = self.on_mesh(on_device, ([specs] * len(columns), owned), (specs, owned))
        found, new = run(columns, {} if state is None else state)
        tree = treedef.unflatten([work.structure.unflatten(ys) for ys in found])
        return tree if state is None else (tree, new)

    def init(self, f: Callable, axes: AxesOf, tree: Any) -> Any:
        """The states of matrices by their shape, each with its owner.

        Args:
          f: takes a zero ``(fan_in, fan_out)`` matrix and returns its state, a pytree.
          axes: the `MatrixAxes` of a leaf, from its path and the leaf.
          tree: the parameters.

        Returns:
          A dict with an entry for each shape and dtype of matrices, such as
          ``"768x3072"``: their states, with an axis for matrices in front that lies
          along all of `reach`.
        """
        keyed, _ = jax.tree_util.tree_flatten_with_path(tree)
        leaves = [self.leaf_of(path_of(keys), axes, leaf) for keys, leaf in keyed]
        mesh = self.reach
        zeros: dict[str, tuple] = {}
        counts = collections.Counter()
        for leaf in leaves:
            kind = kind_of(leaf, mesh, False)
            shapes = [(shape, kind.dtypes[0]) for shape in block_shapes(kind, mesh)]
            zeros.update(zip(groups(kind, mesh), shapes, strict=True))
        for one in self.plan(leaves, False):
            counts.update(slots(one, mesh))

        def on_device():
            def repeated(name):
                one, n = f(jnp.zeros(*zeros[name])), counts[name]
                return jax.tree.map(
                    lambda s: jnp.broadcast_to(s, (n, *jnp.shape(s))), one
                )

            return {name: repeated(name) for name in zeros}

        return self.on_mesh(on_device, (), PartitionSpec(tuple(mesh)))()

    def specs(self, state: Any) -> Any:
        """The `PartitionSpec` of each array of an optimizer's state, or its shapes."""
        return specs_of(state, tuple(self.reach), self.params or {})

    def place(self, state: Any) -> Any:
        """An optimizer's state, laid out as `specs` says where that can be said."""
        if self._is_manual() or not isinstance(self.mesh, Mesh):
            return state
        return placed(state, self.mesh, tuple(self.reach), self.params or {})

    def sharing(self, leaves: Sequence[Leaf], f: Any) -> list[Leaf]:
        """The leaves, those shared by several devices that `f` can work on so."""
        along = self.shared if isinstance(f, SharedOrthogonalizer) else ()
        return [shared_along(leaf, along, self.reach) for leaf in leaves]

    def plan(self, leaves: Sequence[Leaf], equivariant: bool) -> tuple[Round, ...]:
        """Who works on what; see `optax_ortho.layouts.dealing`."""
        return rounds(leaves, self.reach, equivariant, AT_ONCE)

    def _placed(self, path: str) -> Placed:
        if not self.params or path not in self.params:
            raise ValueError(
                f"Leaf {path!r} is none of the {len(self.params or ())} parameters "
                "that the layout was made for. Make it of those you train: "
                "layouts.sharded(params)."
            )
        return self.params[path]

    def leaf(self, path: str, axes: MatrixAxes, *dtypes: Any) -> Leaf:
        """What a plan needs to know of a parameter.

        Args:
          path: its path.
          axes: its matrix axes.
          *dtypes: of what is worked on in its place.

        Raises:
          ValueError: there is no such parameter, or the axes do not fit it.
        """
        placed = self._placed(path)
        names = (placed.dtype, *(jnp.dtype(dtype).name for dtype in dtypes))
        resolved = axes.resolve(placed.shape)
        return Leaf(path, placed.shape, resolved, self.spec(path), names)

    def spec(self, path: str) -> tuple[Axes, ...]:
        """The mesh axes along each axis of a parameter."""
        placed = self._placed(path)
        spec = tuple(axes_of(entry) for entry in placed.spec)
        return spec + ((),) * (len(placed.shape) - len(spec))

    def whole(self, path: str) -> jax.ShapeDtypeStruct:
        """The shape and dtype of a whole parameter."""
        placed = self._placed(path)
        return jax.ShapeDtypeStruct(placed.shape, placed.dtype)

    def leaf_of(self, path: str, axes: AxesOf, *arrays: Any) -> Leaf:
        """The leaf of some arrays.

        Raises:
          ValueError: the layout was made for other parameters.
        """
        first, dtypes = arrays[0], [x.dtype for x in arrays]
        if self.params is None:
            spec = ((),) * first.ndim
            names = (first.dtype.name, *(dtype.name for dtype in dtypes))
            return Leaf(path, first.shape, axes_at(axes, path, first), spec, names)
        like = self.whole(path)
        leaf = self.leaf(path, axes_at(axes, path, like), *dtypes)
        inside = self._is_manual()
        expected = local_shape(leaf, self.mesh.shape) if inside else like.shape
        if first.shape != expected:
            where = "on one device" if inside else "whole"
            raise ValueError(
                f"Leaf {path!r} has shape {first.shape}, but the layout was made for "
                f"one that is {expected} {where}. Make it of the parameters you train: "
                "layouts.sharded(params)."
            )
        return leaf

    def _is_manual(self) -> bool:
        """Whether every mesh axis is one of an enclosing shard_map or pmap."""
        manual = jax.sharding.get_abstract_mesh().manual_axes
        return set(self.mesh.axis_names) <= set(manual)

    def on_mesh(self, f: Callable, in_specs: Any, out_specs: Any) -> Callable:
        """A function of each device's parts; inside of a shard_map it is as it is."""
        if self._is_manual():
            return f
        return jax.shard_map(
            f, mesh=self.mesh, in_specs=in_specs, out_specs=out_specs, check_vma=False
        )


def sharded(
    params: Any,
    wire_dtype: Any = jnp.bfloat16,
    shared: Axes | str = (),
    dcn: Axes | str | None = None,
) -> Sharded:
    """The layout for parameters in shards: each matrix whole on one device.

    Every matrix gets an owner among the devices that hold a piece or a copy of it. The
    owner receives the pieces, works on the whole matrix, and sends the results back, in
    two all-to-alls a round; see `optax_ortho.layouts.dealing`. What is sharded along
    its batch axes alone needs no exchange, and what is replicated is worked on once and
    gathered. States as large as a matrix stay with their owner.

    It works under meshes with Auto and Explicit axes alike. Inside a `jax.shard_map`
    over all axes of the mesh `map` takes each device's part; the other stages of a
    recipe would take a part for the whole, so a recipe goes outside.

    Args:
      params: the parameters, arrays or `jax.ShapeDtypeStruct`, with a `NamedSharding`;
        a leaf without one counts as replicated.
      wire_dtype: in what floating point travels that is wider; bfloat16 halves the
        bytes, and rounds what is orthogonalized and the result by 2^-9.
      shared: mesh axes whose devices share the work on each matrix that has its longer
        side along all of them, if the orthogonalizer is one of Newton-Schulz. It pays
        where the mesh has twice as many devices as there are matrices, and the longer
        side exceeds FLOP/s over the bytes/s along these axes, 2190 on a TPU v5e. What
        either way costs is what `optax_ortho.plan` prints.
      dcn: mesh axes over the slow network between TPU slices, along which parameters
        are copies. Each slice then does all of the work, and nothing travels between
        them. None is what the devices' ``slice_index`` says; with ``()`` slices share
        the work.

    Returns:
      A layout, for the `layout` argument of any recipe.

    Raises:
      ValueError: no leaf has a `NamedSharding`, two have different meshes, the mesh
        has no such axis, or a parameter is cut along one of `dcn`.

    Examples:
      >>> from jax.sharding import NamedSharding
      >>> mesh = jax.make_mesh((1,), ("fsdp",))
      >>> shards = NamedSharding(mesh, PartitionSpec("fsdp"))
      >>> params = {"kernel": jax.device_put(jnp.ones((4, 6)), shards)}
      >>> layout = sharded(params)
      >>> from optax_ortho import muon
      >>> tx = muon(0.02, layout=layout)
      >>> updates, _ = tx.update(params, tx.init(params), params)
      >>> updates["kernel"].sharding.spec[0]
      'fsdp'
    """
    mesh, placed = places_of(params)
    shared = axes_of(shared)
    unknown = [axis for axis in shared if axis not in mesh.shape]
    if unknown:
        raise ValueError(
            f"shared names no mesh axis: {unknown}; the mesh has {tuple(mesh.shape)}."
        )
    dtype, between = jnp.dtype(wire_dtype), dcn_axes(mesh, placed, dcn)
    return Sharded(mesh, placed, dtype, shared, between)
