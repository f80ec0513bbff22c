"""The layout for a train step in which matrices live with their owner."""

import dataclasses
import functools
import math
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.sharding import AbstractMesh, Mesh, PartitionSpec

from optax_ortho.layouts.owners import Stacks, from_owners, to_owners
from optax_ortho.layouts.places import Place, places
from optax_ortho.layouts.plan import Axes, Leaf, Round
from optax_ortho.layouts.sharded import Sharded, sharded
from optax_ortho.layouts.shards import averaged, gathered, part_of
from optax_ortho.layouts.slots import Slots
from optax_ortho.layouts.work import narrowed, shape_of
from optax_ortho.matrices import AxesOf, axes_at, path_of


@dataclasses.dataclass(frozen=True)
class Owned:
    """Matrices that live with their owner; made by `owned`."""

    shards: Sharded
    over: Axes

    @property
    def mesh(self) -> Mesh | AbstractMesh:
        """Of the parameters."""
        return self.shards.mesh

    def among(self, axes: AxesOf, tree: Any) -> "Owners":
        """Who owns which matrix of a tree.

        Args:
          axes: the `MatrixAxes` of a leaf, from its path and the leaf.
          tree: parameters or gradients, all of them matrices.
        """
        keyed, treedef = jax.tree_util.tree_flatten_with_path(tree)
        paths = [path_of(keys) for keys, _ in keyed]
        like = [self.shards.whole(path) for path in paths]
        leaves = [
            self.shards.leaf(path, axes_at(axes, path, leaf), leaf.dtype)
            for path, leaf in zip(paths, like, strict=True)
        ]
        for leaf in leaves:
            if leaf.axes.split is not None and leaf.axes.split.scales is not None:
                raise ValueError(
                    f"Leaf {leaf.path!r} has a Split with scales, which stacks of "
                    "owners do not keep: leave them out, or use layouts.sharded."
                )
        return Owners(self, tuple(leaves), self.shards.plan(leaves, False), treedef)

    def specs(self, state: Any) -> Any:
        """As `Sharded.specs`."""
        return self.shards.specs(state)

    def place(self, state: Any) -> Any:
        """As `Sharded.place`."""
        return self.shards.place(state)

    def average(self, gradients: Any) -> Any:
        """Each device's part of the average of local gradients.

        Args:
          gradients: a tree of this device's, each leaf whole along `over`.
        """
        return self._on_leaves(averaged, gradients, self.over)

    def gather(self, params: Any) -> Any:
        """The parameters that this device has parts of, whole along `over`."""
        return self._on_leaves(gathered, params, self.over)

    def gradient_shape(self, path: str) -> tuple[int, ...]:
        """The shape of the gradient of a parameter on one device."""
        pairs = zip(self.shards.whole(path).shape, self._kept(path), strict=True)
        mesh = self.mesh.shape
        return tuple(n // math.prod(mesh[a] for a in axes) for n, axes in pairs)

    def agree(self, marks: Any) -> Any:
        """Marks of all matrices: NaN where one is on any device, and zero elsewhere.

        Args:
          marks: a tree of zeros and NaNs, of this device's gradients, with their axes,
            of length 1 but for those of a stack.
        """
        keyed, treedef = jax.tree_util.tree_flatten_with_path(marks)
        mesh = self.mesh.shape
        found: list[Any] = [None] * len(keyed)
        together: dict[Axes, list[int]] = {}
        for i, (keys, x) in enumerate(keyed):
            spec = self._kept(path_of(keys))
            own = {
                a for n, axes in zip(x.shape, spec, strict=True) for a in axes if n > 1
            }
            along = tuple(axis for axis in mesh if axis not in own)
            together.setdefault(along, []).append(i)
        for along, members in together.items():
            flat = [keyed[i][1].ravel() for i in members]
            total = lax.psum(jnp.concatenate(flat), along)
            start = 0
            for i in members:
                keys, x = keyed[i]
                part = total[start : start + x.size].reshape(x.shape)
                start += x.size
                pairs = zip(x.shape, self._kept(path_of(keys)), strict=True)
                spec = [axes if n > 1 else () for n, axes in pairs]
                found[i] = gathered(part, spec, mesh, tuple(mesh))
        return treedef.unflatten(found)

    def at_gradients(self, flags: Any) -> Any:
        """Of marks or flags of all matrices, those of this device's gradients."""
        rest = tuple(a for a in self.mesh.axis_names if a not in self.over)
        return self._on_leaves(part_of, flags, rest)

    def at_params(self, flags: Any) -> Any:
        """Of marks or flags of all matrices, those of this device's parameters."""
        return self._on_leaves(part_of, flags, self.mesh.axis_names)

    def _kept(self, path: str) -> tuple[Axes, ...]:
        """The mesh axes along which a gradient is in parts."""
        spec = self.shards.spec(path)
        return tuple(tuple(a for a in axes if a not in self.over) for axes in spec)

    def _on_leaves(self, f: Callable, tree: Any, along: Axes) -> Any:
        mesh = self.mesh.shape

        def on_leaf(keys, x):
            return f(x, self.shards.spec(path_of(keys)), mesh, along)

        return jax.tree_util.tree_map_with_path(on_leaf, tree)


@dataclasses.dataclass(frozen=True)
class Owners:
    """Who owns which matrix of a tree.

    Attributes:
      layout: of the parameters.
      leaves: the parameters of the tree.
      plan: the rounds.
      treedef: the structure of the tree.
    """

    layout: Owned
    leaves: Sequence[Leaf]
    plan: Sequence[Round]
    treedef: Any

    @functools.cached_property
    def _there(self) -> dict[str, list[list[Place | None]]]:
        return places(self.plan, self.leaves, self.layout.mesh.shape)

    def enter(self, gradients: Any) -> Stacks:
        """Local gradients, averaged, as the stacks of their owners."""
        return to_owners(
            self.plan,
            self.leaves,
            self.layout.mesh.shape,
            self.layout.over,
            self.treedef.flatten_up_to(gradients),
        )

    def leave(self, stacks: Stacks) -> Any:
        """The stacks of owners, as each device's parts of the tree."""
        shards = self.layout.shards
        dtypes = {stack.dtype for stack in stacks.values()}
        wire = narrowed(dtypes, shards.wire_dtype)
        found = from_owners(self.plan, self.leaves, shards.mesh.shape, stacks, wire)
        dtype = jnp.result_type(*dtypes)
        return self.treedef.unflatten([x.astype(dtype) for x in found])

    def slots(self) -> Slots:
        """The layout of the stacks on one device."""
        filled = {
            name: tuple(tuple(place is not None for place in row) for row in rows)
            for name, rows in self._there.items()
        }
        return Slots(filled, self.layout.mesh.axis_names)

    def init(self, f: Callable) -> Any:
        """The states of owners, with an axis for matrices in front along the mesh.

        Args:
          f: takes the stacks of one owner, and returns a state of them.
        """
        mesh = self.layout.mesh
        dtype = jnp.result_type(*(leaf.dtypes[0] for leaf in self.leaves))

        def on_device():
            return f(
                {
                    name: jnp.zeros((len(rows[0]), *shape_of(name)), dtype)
                    for name, rows in sorted(self._there.items())
                }
            )

        along = PartitionSpec(mesh.axis_names)
        state = jax.eval_shape(on_device)
        specs = jax.tree.map(lambda s: along if s.ndim else PartitionSpec(), state)
        return self.layout.shards.on_mesh(on_device, (), specs)()


def owned(params: Any, over: Axes | str, wire_dtype: Any = jnp.bfloat16) -> Owned:
    """The layout for a train step under `jax.shard_map`: matrices stay with an owner.

    Each device hands ``update`` the gradient of its own part of the batch, not yet
    reduced. A matrix's gradients are averaged straight on its owner, in a
    reduce-scatter that sends what that of FSDP sends; its momentum, and every other
    state, lives there, and only the update travels, once. Other parameters are averaged
    into their shards.

    Stages that couple matrices, such as a global norm, would couple those of one owner
    alone, so a recipe may have none.

    Args:
      params: the parameters, as in `sharded`.
      over: the mesh axes along which devices have different parts of the batch.
      wire_dtype: in what updates travel that are wider.

    Returns:
      A layout, for the `layout` argument of any recipe. Its ``gather(params)`` makes
      parameters whole along `over` for the forward pass.

    Raises:
      ValueError: as `sharded`; an axis that the mesh does not have; or a parameter of
        which an axis is cut along `over` first and along another mesh axis second.
    """
    # Gradients are averaged between slices anyway, so their owners share the work.
    shards = sharded(params, wire_dtype, dcn=())
    over = (over,) if isinstance(over, str) else tuple(over)
    unknown = [axis for axis in over if axis not in shards.mesh.shape]
    if unknown:
        raise ValueError(
            f"over has no such mesh axis: {unknown}; the mesh has "
            f"{shards.mesh.axis_names}."
        )
    for path in shards.params or {}:
        for entry in shards.spec(path):
            summed = [axis in over for axis in entry]
            if summed != sorted(summed):
                raise ValueError(
                    f"Leaf {path!r} is cut along {entry}, and along {over} gradients "
                    "differ: put the others first in its PartitionSpec, so that what "
                    "is whole along these lies in one piece."
                )
    return Owned(shards, over)
