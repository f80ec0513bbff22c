"""Layouts inside of a `jax.shard_map` or `jax.pmap`: `owned` and `replicated`."""

import dataclasses
import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax import lax
from jax.sharding import AbstractMesh, Mesh

from optax_ortho.layouts.geometry import Axes
from optax_ortho.layouts.layout import Across, Layout, Make
from optax_ortho.layouts.owners import on_owners
from optax_ortho.layouts.sharded import Sharded, sharded
from optax_ortho.layouts.specs import (
    Params,
    averaged,
    axes_of,
    check_axes,
    gathered,
    shard_of,
)
from optax_ortho.matrices import AxesOf, path_of


@dataclasses.dataclass(frozen=True)
class Owned(Layout):
    """Matrices that are stored with their owner; made by `owned`.

    Attributes:
      shards: the layout by which matrices have owners.
      over: the mesh axes along which gradients differ.
    """

    shards: Sharded
    over: Axes = ()

    sees_all = False
    averages = True

    @property
    def mesh(self) -> Mesh | AbstractMesh:
        """The mesh of the parameters."""
        return self.shards.mesh

    def map(self, f: Any, axes: AxesOf, *operands: Any, **given: Any) -> Any:
        """Refuses: only the stacks of one owner are mapped, in `direction`."""
        raise TypeError(NOT_MAPPED)

    def init(self, f: Callable, axes: AxesOf, tree: Any, beside: Any = None) -> Any:
        """Refuses, like `map`."""
        raise TypeError(NOT_MAPPED)

    def specs(self, state: Any) -> Any:
        """Implements `Layout`."""
        return self.shards.specs(state)

    def place(self, state: Any) -> Any:
        """Implements `Layout`."""
        return self.shards.place(state)

    def direction(self, make: Make, axes: AxesOf) -> optax.GradientTransformation:
        """Implements `Layout`; from local gradients to shards of the update."""
        return on_owners(make, axes, self, self.shards, self.over)

    def resident(self, make: Make, axes: AxesOf) -> optax.GradientTransformation:
        """Implements `Layout`."""
        return self.direction(make, axes)

    def fallback(
        self, tx: optax.GradientTransformation
    ) -> optax.GradientTransformation:
        """Implements `Layout`; on shards, with the state of `tx` in any layout."""
        inner = optax.with_extra_args_support(tx)

        def update(updates, state, params=None, **extra):
            return inner.update(self.average(updates), state, params, **extra)

        return optax.GradientTransformationExtraArgs(inner.init, update)

    def whole(self, path: str, leaf: Any) -> jax.ShapeDtypeStruct:
        """Implements `Layout`."""
        del leaf
        return self.shards.params.whole(path)

    def across(self) -> Across:
        """Implements `Layout`."""
        return Across(
            lambda path, leaf: self.gradient_shape(path),
            self.agree,
            self.at_gradients,
            self.at_params,
        )

    def average(self, gradients: Any) -> Any:
        """This device's shards of the averages of local gradients.

        Args:
          gradients: a tree of this device's, each leaf whole along `over`.
        """
        return self._on_leaves(averaged, gradients, self.over)

    def gather(self, params: Any) -> Any:
        """The parameters, whole along `over`, from this device's shards."""
        return self._on_leaves(gathered, params, self.over)

    def gradient_shape(self, path: str) -> tuple[int, ...]:
        """The shape of the gradient of a parameter on one device."""
        pairs = zip(self.shards.params.whole(path).shape, self._kept(path), strict=True)
        mesh = self.mesh.shape
        return tuple(n // math.prod(mesh[a] for a in axes) for n, axes in pairs)

    def agree(self, marks: Any) -> Any:
        """Marks of all matrices, NaN where the mark of any device is.

        Args:
          marks: a tree of zeros and NaNs for this device's gradients, with the axes of
            the leaves; those that are not batch axes have length 1.
        """
        keyed, treedef = jax.tree_util.tree_flatten_with_path(marks)
        mesh = self.mesh.shape
        agreed: list[Any] = [None] * len(keyed)
        specs = [
            # Along an axis of length 1 there is one mark for all shards.
            [axes if n > 1 else () for n, axes in zip(x.shape, kept, strict=True)]
            for (_, x), kept in (((k, x), self._kept(path_of(k))) for k, x in keyed)
        ]
        alike: dict[Axes, list[int]] = {}
        for i, spec in enumerate(specs):
            sharded_over = {axis for axes in spec for axis in axes}
            along = tuple(axis for axis in mesh if axis not in sharded_over)
            alike.setdefault(along, []).append(i)
        for along, members in alike.items():
            # One all-reduce for all marks that differ along the same mesh axes.
            flat = [keyed[i][1].ravel() for i in members]
            total = lax.psum(jnp.concatenate(flat), along)
            start = 0
            for i in members:
                x = keyed[i][1]
                part = total[start : start + x.size].reshape(x.shape)
                start += x.size
                agreed[i] = gathered(part, specs[i], mesh, tuple(mesh))
        return treedef.unflatten(agreed)

    def at_gradients(self, flags: Any) -> Any:
        """The marks, or flags, of this device's gradients, from the marks of all."""
        rest = tuple(a for a in self.mesh.axis_names if a not in self.over)
        return self._on_leaves(shard_of, flags, rest)

    def at_params(self, flags: Any) -> Any:
        """The marks, or flags, of this device's shards, from the marks of all."""
        return self._on_leaves(shard_of, flags, self.mesh.axis_names)

    def _kept(self, path: str) -> tuple[Axes, ...]:
        """The mesh axes over which a gradient is sharded."""
        spec = self.shards.params.spec(path)
        return tuple(tuple(a for a in axes if a not in self.over) for axes in spec)

    def _on_leaves(self, f: Callable, tree: Any, along: Axes) -> Any:
        mesh = self.mesh.shape

        def on_leaf(keys, x):
            return f(x, self.shards.params.spec(path_of(keys)), mesh, along)

        return jax.tree_util.tree_map_with_path(on_leaf, tree)


NOT_MAPPED = (
    "layouts.owned has stacks of matrices on each device, and maps them inside of a "
    "recipe alone: pass it as a recipe's layout, or use layouts.sharded."
)


def owned(params: Any, over: Axes | str, wire_dtype: Any = jnp.bfloat16) -> Owned:
    """The layout for a train step under `jax.shard_map`: matrices stay with an owner.

    Each device hands ``update`` the gradient of its own part of the batch, not yet
    reduced. A matrix's gradients are averaged on its owner, in a reduce-scatter that
    sends as many bytes as in FSDP; its momentum, and every other state, is stored
    there, and only the update is communicated, once. Other parameters are averaged into
    their shards.

    Stages that couple matrices, such as a global norm, would couple the matrices of one
    owner alone, so a recipe may have none.

    Args:
      params: the parameters, as in `sharded`.
      over: the mesh axes along which devices have different parts of the batch.
      wire_dtype: the dtype to which wider updates are narrowed on their way.

    Returns:
      A layout, for the `layout` argument of any recipe. Its ``gather(params)`` makes
      parameters whole along `over` for the forward pass.

    Raises:
      ValueError: as `sharded`; an axis that the mesh does not have; or a parameter with
        an axis that is sharded over `over` first and over another mesh axis second.
    """
    # Gradients are averaged between slices in any case, so slices divide the work.
    shards = sharded(params, wire_dtype, dcn=())
    over = axes_of(over)
    check_axes("over", over, shards.mesh)
    for path in shards.params.by_path or {}:
        for entry in shards.params.spec(path):
            summed = [axis in over for axis in entry]
            if summed != sorted(summed):
                raise ValueError(
                    f"Leaf {path!r} is sharded over {entry}; the mesh axes in over, "
                    f"{over}, must come last in that entry of its PartitionSpec, so "
                    "that gradients are sharded contiguously over the others."
                )
    return Owned(shards, over)


def replicated(
    axis_name: str, axis_size: int, wire_dtype: Any = jnp.bfloat16
) -> Sharded:
    """The layout inside `jax.pmap` or `jax.shard_map` where each device has everything.

    Each device works on its share of the matrices and all gather the results, instead
    of all doing all the work. Gradients must be equal on all devices, so reduce them
    first.

    Args:
      axis_name: the axis of the enclosing pmap or shard_map.
      axis_size: how many devices it has.
      wire_dtype: as in `sharded`.

    Returns:
      A layout, for the `layout` argument of any recipe. Every device has the states of
      its matrices alone, so `init` goes inside too.

    Examples:
      >>> import jax
      >>> from optax_ortho import muon
      >>> tx = muon(0.02, layout=replicated("devices", 1))
      >>> def step(params, gradient):
      ...     updates, _ = tx.update(gradient, tx.init(params), params)
      ...     return updates
      >>> x = jnp.ones((1, 4, 6))
      >>> jax.pmap(step, axis_name="devices")(x, x).shape
      (1, 4, 6)
    """
    mesh = AbstractMesh((axis_size,), (axis_name,))
    return Sharded(Params(mesh, None), jnp.dtype(wire_dtype))
