"""The sharded layout: every matrix has one owner, at the least communication.

Pieces are sent to the matrix's owner in one all-to-all and come back in another; where
parameters are replicated, devices divide the work and gather its results. Nothing else
is communicated, and no work is done twice. An owner is a device, or a group of devices
that share the work on a matrix.
"""

import dataclasses
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax.sharding import AbstractMesh, Mesh, PartitionSpec

from optax_ortho.layouts import specs, stacks
from optax_ortho.layouts.assignment import occupancy, rounds, slots_of
from optax_ortho.layouts.geometry import (
    Axes,
    Leaf,
    MeshShape,
    Round,
    block_shapes,
    kind_of,
    mesh_size,
    shared_along,
    stack_names,
)
from optax_ortho.layouts.layout import (
    Layout,
    Make,
    fields_of,
    given_of,
    on_every_device,
    uniform,
)
from optax_ortho.layouts.local import Local
from optax_ortho.layouts.owners import on_shards
from optax_ortho.layouts.rounds import run_rounds
from optax_ortho.layouts.work import work_of
from optax_ortho.matrices import AxesOf, ColumnOrthogonalizer, Orthogonalizer, path_of
from optax_ortho.states import state_structure

AT_ONCE = 2**18
"""The largest number of elements of small matrices that an owner receives together."""


@dataclasses.dataclass(frozen=True)
class Sharded(Layout):
    """`jax.tree.map` for matrices in shards; made by `sharded` and `replicated`."""

    params: specs.Params
    wire_dtype: Any
    shared: Axes = ()
    dcn: Axes = ()

    @property
    def mesh(self) -> Mesh | AbstractMesh:
        """The mesh of the parameters."""
        return self.params.mesh

    @property
    def owner_mesh(self) -> MeshShape:
        """The mesh axes along which devices divide the work, and their sizes."""
        shape = self.mesh.shape
        return {axis: n for axis, n in shape.items() if axis not in self.dcn}

    @property
    def shards(self) -> "Sharded":
        """Implements `Layout`."""
        return self

    @property
    def has_shards(self) -> bool:
        """Implements `Layout`."""
        return self.params.by_path is not None

    def map(
        self,
        f: Any,
        axes: AxesOf,
        *operands: Any,
        state: Any = None,
        beside: Any = None,
        scalars: Sequence[jax.Array] = (),
    ) -> Any:
        """Implements `Layout`; an `Orthogonalizer` may receive a matrix's transpose."""
        treedef = jax.tree.structure(operands[0])
        columns = [treedef.flatten_up_to(operand) for operand in operands]
        leaves = self._leaves(axes, operands[0], columns)
        if not leaves:
            return given_of(operands[0], beside, state, beside, state)
        equivariant = isinstance(f, Orthogonalizer)
        if equivariant:
            leaves = self.sharing(leaves, f)
        mesh, owners = self.owner_mesh, tuple(self.owner_mesh)
        plan = self.plan(leaves, equivariant)
        kinds = [kind_of(leaf, mesh, equivariant=False) for leaf in leaves]
        names = {name: None for round_ in plan for name in slots_of(round_, mesh)}
        states, fields = stacks.split_stacks(() if state is None else state, names)
        fused = [leaf.axes.split is not None for leaf in leaves]
        structure = state_structure(operands[0], fused)
        values, slots = [], None
        if beside is not None:
            values = structure.flatten_up_to(beside)
            values = jax.tree.map(on_every_device, values)
            slots = occupancy(plan, leaves, mesh)

        def on_device(columns, values, states, scalars):
            call = f if equivariant else uniform(f, beside, state, scalars)
            here: dict[str, Any] = dict.fromkeys(names, ())
            if slots is not None:
                here = stacks.of_this_owner(values, slots, owners)
            both = {name: (here[name], states[name]) for name in names}
            work, result, dtypes = work_of(
                call, kinds, mesh, both, self.wire_dtype, AT_ONCE
            )
            results, both = run_rounds(work, plan, leaves, mesh, columns, both)
            results = [
                result.unflatten(jax.tree.map(jnp.astype, ys, types))
                for ys, types in zip(results, dtypes, strict=True)
            ]
            here, states = ({n: x[i] for n, x in both.items()} for i in range(2))
            if slots is not None:
                values = stacks.of_all_owners(here, slots, owners)
            return results, values, states

        shards = [PartitionSpec(*leaf.spec) for leaf in leaves]
        whole, owned = PartitionSpec(), PartitionSpec(owners)
        in_specs = [shards] * len(columns), whole, owned, whole
        run = self.params.on_mesh(on_device, in_specs, (shards, whole, owned))
        results, values, states = run(columns, values, states, tuple(scalars))
        new_beside = None if beside is None else structure.unflatten(values)
        new_state = stacks.merge_stacks(states, fields)
        tree = treedef.unflatten(results)
        return given_of(tree, beside, state, new_beside, new_state)

    def init(self, f: Callable, axes: AxesOf, tree: Any) -> Any:
        """Implements `Layout`; an `OwnerStacks` in the place of each array.

        Its arrays are sharded over all axes of `owner_mesh`.
        """
        leaves, mesh = self._leaves(axes, tree, []), self.owner_mesh
        zeros, slots = {}, Counter()
        for round_ in self.plan(leaves, equivariant=False):
            slots.update(slots_of(round_, mesh))
        for leaf in leaves:
            kind = kind_of(leaf, mesh, equivariant=False)
            shapes = block_shapes(kind, mesh)
            for name, (m, n) in zip(stack_names(kind, mesh), shapes, strict=True):
                zeros[name] = (m + kind.rows_beside, n), kind.dtypes[0]

        def fresh(name):
            n, state = slots[name], f(jnp.zeros(*zeros[name]))
            return jax.tree.map(lambda x: jnp.broadcast_to(x, (n, *x.shape)), state)

        def on_device():
            return {name: fresh(name) for name in zeros}

        run = self.params.on_mesh(on_device, (), PartitionSpec(tuple(mesh)))
        return stacks.merge_stacks(run(), fields_of(f))

    def map_shards(
        self, make: Callable[[int, int], Callable], axes: AxesOf, tree: Any
    ) -> Any:
        """Implements `Layout`; a part is what a device has of a matrix."""
        leaves, mesh = self._leaves(axes, tree, []), self.mesh.shape
        axes_of = {leaf.path: leaf.axes for leaf in leaves}
        paths: dict[tuple[int, int], list[str]] = {}
        for leaf in leaves:
            paths.setdefault(_parts_of(leaf, mesh), []).append(leaf.path)

        def on_device(shards):
            results = {}
            for parts, members in paths.items():
                some = {path: shards[path] for path in members}
                f = make(*parts)
                results |= Local().map(f, lambda path, _: axes_of[path], some)
            return results

        each = {leaf.path: PartitionSpec(*leaf.spec) for leaf in leaves}
        arrays, treedef = jax.tree.flatten(tree)
        named = dict(zip(axes_of, arrays, strict=True))
        results = self.params.on_mesh(on_device, (each,), each)(named)
        return treedef.unflatten([results[path] for path in axes_of])

    def specs(self, state: Any) -> Any:
        """Implements `Layout`."""
        return specs.state_specs(state, tuple(self.owner_mesh), self.params)

    def place(self, state: Any) -> Any:
        """Implements `Layout`; inside of a shard_map, the state itself."""
        if self.params.is_manual() or not isinstance(self.mesh, Mesh):
            return state
        return specs.constrained(state, self.mesh, self.specs(state))

    def resident(self, make: Make, axes: AxesOf) -> optax.GradientTransformation:
        """Implements `Layout`; with several TPU slices, the stages exchange."""
        if self.params.by_path is None or self.dcn:
            return make(axes, self)
        return on_shards(make, axes, self)

    def sharing(self, leaves: Sequence[Leaf], f: Any) -> list[Leaf]:
        """The leaves, those shared by several devices that `f` can work on so."""
        along = self.shared if isinstance(f, ColumnOrthogonalizer) else ()
        return [shared_along(leaf, along, self.owner_mesh) for leaf in leaves]

    def plan(self, leaves: Sequence[Leaf], equivariant: bool) -> tuple[Round, ...]:
        """The rounds of some leaves; see `optax_ortho.layouts.assignment`."""
        return rounds(leaves, self.owner_mesh, equivariant, AT_ONCE)

    def _leaves(self, axes: AxesOf, tree: Any, columns: Sequence) -> list[Leaf]:
        """The leaves of a tree, with the operands in their places."""
        keyed = jax.tree_util.tree_leaves_with_path(tree)
        return [
            self.params.leaf_of(path_of(keys), axes, *(operands or (leaf,)))
            for (keys, leaf), *operands in zip(keyed, *columns, strict=True)
        ]


def sharded(
    params: Any,
    wire_dtype: Any = jnp.bfloat16,
    shared: Axes | str = (),
    dcn: Axes | str | None = None,
) -> Sharded:
    """The layout for parameters in shards: each matrix whole on one device.

    Every matrix gets an owner among the devices that have a piece or a copy of it. The
    owner receives the pieces, works on the whole matrix, and sends the results back, in
    two all-to-alls a round; see `optax_ortho.layouts.assignment`. Matrices sharded over
    their batch axes alone need no communication, and the work on replicated ones is
    divided and gathered. States of matrices are stored with their owner.

    Meshes may have Auto or Explicit axes. Inside a `jax.shard_map` over all axes of the
    mesh `map` takes shards; the other stages of a recipe would take a shard for the
    whole, so a recipe stays outside.

    Args:
      params: the parameters, arrays or `jax.ShapeDtypeStruct`, with a `NamedSharding`;
        a leaf without one counts as replicated.
      wire_dtype: the dtype to which wider floating point is narrowed on its way.
        bfloat16 halves the bytes, and rounds operands and results by 2^-9.
      shared: mesh axes whose devices work together on each matrix with its longer side
        sharded over all of them, by a Newton-Schulz orthogonalizer. It pays where the
        mesh has twice as many devices as there are matrices, and the longer side
        exceeds FLOP/s over the bytes/s along these axes, 2190 on a TPU v5e;
        `optax_ortho.plan` prints the cost of both.
      dcn: mesh axes over the slow network between TPU slices, over which parameters are
        replicated. Each slice does all of the work, without communication between
        them. None reads the devices' ``slice_index``; with () slices divide the work.

    Returns:
      A layout, for the `layout` argument of any recipe.

    Raises:
      ValueError: no leaf has a `NamedSharding`, two have different meshes, the mesh
        has no such axis, or a parameter is sharded over one of `dcn`.

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
    by_path = specs.params_of(params)
    shared = specs.axes_of(shared)
    specs.check_axes("shared", shared, by_path.mesh)
    dtype, between = jnp.dtype(wire_dtype), specs.slice_axes(by_path, dcn)
    return Sharded(by_path, dtype, shared, between)


def _parts_of(leaf: Leaf, mesh: MeshShape) -> tuple[int, int]:
    """The number of parts of a matrix along fan-in and fan-out.

    Raises:
      ValueError: a `Split` along an axis that is sharded.
    """

    def parts(axes):
        return mesh_size([name for axis in axes for name in leaf.spec[axis]], mesh)

    axes = leaf.axes
    if axes.split is not None and parts((axes.split.axis,)) > 1:
        raise ValueError(
            f"Leaf {leaf.path!r} is fused along axis {axes.split.axis} and sharded "
            "over it, so its shards are of several matrices. Shard another axis, or "
            "leave the Split out."
        )
    return parts(axes.fan_in), parts(axes.fan_out)
