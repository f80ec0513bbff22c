"""Where each array of an optimizer's state lies on the mesh."""

import re
from collections.abc import Mapping
from typing import Any

import jax
from jax import lax
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from optax_ortho.matrices import path_of

# The name of the stack of an owner; see `optax_ortho.layouts.work.groups`.
STACK = re.compile(r"\d+x\d+(_[a-z0-9]+)*")


def is_stacks(tree: Any) -> bool:
    """Whether this is what owners have: matrices, or their states, by shape."""
    return isinstance(tree, dict) and bool(tree) and all(map(_is_name, tree))


def _is_name(key: Any) -> bool:
    return isinstance(key, str) and STACK.fullmatch(key) is not None


def specs_of(state: Any, owners: tuple[str, ...], params: Mapping[str, Any]) -> Any:
    """The `PartitionSpec` of each array of a state.

    What has the path of a parameter behind its own lies as the parameter does, along
    the axes that it shares with it. What an owner has lies along those of owners.
    Everything else is on all devices.

    Args:
      state: of an optimizer, or its shapes.
      owners: the mesh axes along which there are owners.
      params: shape and spec of each parameter, by path.
    """

    def on_leaf(keys, leaf):
        parts = path_of(keys).split("/")
        tails = ("/".join(parts[i:]) for i in range(len(parts)))
        placed = next((params[tail] for tail in tails if tail in params), None)
        shape = jax.numpy.shape(leaf)
        if placed is not None and len(placed.shape) == len(shape):
            entries = tuple(placed.spec) + (None,) * (len(shape) - len(placed.spec))
            triples = zip(shape, placed.shape, entries, strict=True)
            return PartitionSpec(*(e if n == m else None for n, m, e in triples))
        if shape and any(map(_is_name, parts)):
            return PartitionSpec(owners)
        return PartitionSpec()

    return jax.tree_util.tree_map_with_path(on_leaf, state)


def placed(
    state: Any, mesh: Mesh, owners: tuple[str, ...], params: Mapping[str, Any]
) -> Any:
    """A state with each array where `specs_of` says, so that a step moves none."""
    explicit = AxisType.Explicit in mesh.axis_types

    def on_leaf(x, spec):
        if not isinstance(x, jax.Array):
            return x
        sharding = NamedSharding(mesh, spec)
        if explicit:
            return jax.sharding.reshard(x, sharding)
        return lax.with_sharding_constraint(x, sharding)

    return jax.tree.map(on_leaf, state, specs_of(state, owners, params))
