"""The states of kernels as a layout keeps them: leaf by leaf, or with their owners.

Kernels with a bias and those without have states of different shapes, so that the two
kinds are mapped apart. Between two maps a state is a dict with an entry for each leaf,
or for each stack of an owner.
"""

import dataclasses
from collections.abc import Sequence
from typing import Any, Protocol

import jax
import jax.numpy as jnp

from optax_ortho.boxes import state_structure
from optax_ortho.layouts.alongside import from_owners, to_owners
from optax_ortho.layouts.sharded import Sharded
from optax_ortho.matrices import AxesOf, axes_at, path_of

WITH_BIAS = "_bias"
"""What the name of a stack ends in if its matrices have a bias."""

Entries = dict[str, Any]


class Form(Protocol):
    """How a layout keeps what belongs to kernels; a `tree` has those of one kind."""

    def entries(self, state: Any, tree: Any, with_bias: bool) -> Entries:
        """Of a state of all kernels, what belongs to one kind."""
        ...

    def merged(self, parts: dict[bool, Entries]) -> Any:
        """A state of all kernels; the inverse of `entries`."""
        ...

    def sent(self, tree: Any, values: Entries) -> Entries:
        """What is given by path, where the layout has its kernel."""
        ...

    def returned(self, tree: Any, found: Entries, like: Entries) -> Entries:
        """The inverse of `sent`, in the shapes of `like`."""
        ...

    def spread(self, tree: Any, scalars: Sequence[jax.Array]) -> Entries:
        """The same scalars for every matrix; None where a function may close over them.

        A `jax.shard_map` may not on a mesh with Explicit axes.
        """
        ...

    def zipped(self, tree: Any, columns: Sequence[Entries]) -> Any:
        """A state for the layout's ``map``, with one of each for every matrix."""
        ...

    def unzipped(self, tree: Any, state: Any) -> list[Entries]:
        """The inverse of `zipped`."""
        ...


@dataclasses.dataclass(frozen=True)
class ByLeaf:
    """A tree like that of the kernels, with a tuple of blocks at a fused one.

    Args:
      axes: the axes of a kernel, from its path and the leaf.
      kernels: all of them.
    """

    axes: AxesOf
    kernels: Any

    def entries(self, state: Any, tree: Any, with_bias: bool) -> Entries:
        """See `Form`."""
        del with_bias
        paths, structure = self._states_of(self.kernels)
        own, _ = paths_of(tree)
        every = zip(paths, structure.flatten_up_to(state), strict=True)
        return {path: one for path, one in every if path in own}

    def merged(self, parts: dict[bool, Entries]) -> Any:
        """See `Form`."""
        paths, structure = self._states_of(self.kernels)
        every = parts[False] | parts[True]
        return structure.unflatten([every[path] for path in paths])

    def sent(self, tree: Any, values: Entries) -> Entries:
        """See `Form`."""
        return values

    def returned(self, tree: Any, found: Entries, like: Entries) -> Entries:
        """See `Form`."""
        return found

    def spread(self, tree: Any, scalars: Sequence[jax.Array]) -> Entries:
        """See `Form`."""
        keyed = jax.tree_util.tree_leaves_with_path(tree)
        blocks = {path_of(k): axes_at(self.axes, path_of(k), x).split for k, x in keyed}
        return {
            path: None if split is None else (None,) * len(split.sizes)
            for path, split in blocks.items()
        }

    def zipped(self, tree: Any, columns: Sequence[Entries]) -> Any:
        """See `Form`."""
        paths, structure = self._states_of(tree)
        ones = [[column[path] for column in columns] for path in paths]
        return structure.unflatten(
            [
                tuple(zip(*one, strict=True)) if split else tuple(one)
                for one, split in zip(ones, self._fused(tree), strict=True)
            ]
        )

    def unzipped(self, tree: Any, state: Any) -> list[Entries]:
        """See `Form`."""
        paths, structure = self._states_of(tree)
        ones = [
            tuple(zip(*one, strict=True)) if split else one
            for one, split in zip(
                structure.flatten_up_to(state), self._fused(tree), strict=True
            )
        ]
        columns = zip(*ones, strict=True)
        return [dict(zip(paths, column, strict=True)) for column in columns]

    def _states_of(self, tree: Any) -> tuple[list[str], Any]:
        """The paths of some kernels, and the structure of their states."""
        return paths_of(tree)[0], state_structure(tree, self._fused(tree))

    def _fused(self, tree: Any) -> list[bool]:
        keyed = jax.tree_util.tree_leaves_with_path(tree)
        return [axes_at(self.axes, path_of(k), x).split is not None for k, x in keyed]


@dataclasses.dataclass(frozen=True)
class ByOwner:
    """Stacks by the shape of a kernel, ``"768x3072"``, or ``"768x3072_bias"``.

    Args:
      axes: the axes of a kernel, from its path and the leaf.
      layout: who owns what.
    """

    axes: AxesOf
    layout: Sharded

    def entries(self, state: Any, tree: Any, with_bias: bool) -> Entries:
        """See `Form`."""
        del tree
        return {
            name.removesuffix(WITH_BIAS): one
            for name, one in state.items()
            if name.endswith(WITH_BIAS) == with_bias
        }

    def merged(self, parts: dict[bool, Entries]) -> Any:
        """See `Form`."""
        return parts[False] | {f"{k}{WITH_BIAS}": one for k, one in parts[True].items()}

    def sent(self, tree: Any, values: Entries) -> Entries:
        """See `Form`."""
        paths, treedef = paths_of(tree)
        by_leaf = treedef.unflatten([values[path] for path in paths])
        return to_owners(self.layout, self.axes, tree, by_leaf)

    def returned(self, tree: Any, found: Entries, like: Entries) -> Entries:
        """See `Form`."""
        paths, treedef = paths_of(tree)
        by_leaf = treedef.unflatten([like[path] for path in paths])
        back = from_owners(self.layout, self.axes, tree, found, by_leaf)
        return dict(zip(paths, treedef.flatten_up_to(back), strict=True))

    def spread(self, tree: Any, scalars: Sequence[jax.Array]) -> Entries:
        """See `Form`."""

        def on_leaf(keys, leaf):
            axes = axes_at(self.axes, path_of(keys), leaf)
            batch = [leaf.shape[axis] for axis in axes.batch(leaf.ndim)]
            own = tuple(jnp.broadcast_to(x, batch) for x in scalars)
            return own if axes.split is None else (own,) * len(axes.split.sizes)

        values = jax.tree_util.tree_map_with_path(on_leaf, tree)
        return to_owners(self.layout, self.axes, tree, values)

    def zipped(self, tree: Any, columns: Sequence[Entries]) -> Any:
        """See `Form`."""
        del tree
        return {name: tuple(column[name] for column in columns) for name in columns[0]}

    def unzipped(self, tree: Any, state: Any) -> list[Entries]:
        """See `Form`."""
        del tree
        columns = zip(*state.values(), strict=True)
        return [dict(zip(state, column, strict=True)) for column in columns]


def form_of(layout: Any, axes: AxesOf, kernels: Any) -> Form:
    """The form in which a layout keeps what belongs to kernels."""
    if isinstance(layout, Sharded):
        return ByOwner(axes, layout)
    return ByLeaf(axes, kernels)


def paths_of(tree: Any) -> tuple[list[str], Any]:
    """The paths of a tree's leaves, and its structure."""
    keyed, treedef = jax.tree_util.tree_flatten_with_path(tree)
    return [path_of(keys) for keys, _ in keyed], treedef
