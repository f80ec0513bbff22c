"""Checkpoints of format 1, as version 0.1.0 wrote them: the one place that knows it.

A path of format 1 has no name for the content of an `OwnerStacks`, an `OwnerEntries` or
a `FusedState`, which were a dict, a dict and a tuple:

    format 1    rotation/768x3072             rotation/kernel/0
    format 2    rotation/by_shape/768x3072    rotation/kernel/blocks/0
"""

from collections.abc import Mapping
from typing import Any

import jax

from optax_ortho.layouts.stacks import is_owned
from optax_ortho.matrices import path_of
from optax_ortho.states import is_fused


def renamed(arrays: Mapping[str, Any], planned: Any) -> dict[str, Any]:
    """The arrays of a checkpoint of format 1 by their paths in format 2.

    Args:
      arrays: by their paths in format 1.
      planned: the state, or its shapes, that they are of.

    Returns:
      The arrays; those that are not of the state have their old paths.
    """

    def is_record(node):
        return is_owned(node) or is_fused(node)

    paths = {}
    for keys, node in jax.tree_util.tree_leaves_with_path(planned, is_leaf=is_record):
        for inner, _ in jax.tree_util.tree_leaves_with_path(node):
            new = path_of((*keys, *inner))
            # The first key inside of a record is its one field.
            old = path_of((*keys, *inner[1:])) if is_record(node) else new
            paths[old] = new
    return {paths.get(name, name): array for name, array in arrays.items()}
