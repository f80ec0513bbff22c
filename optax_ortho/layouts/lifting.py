"""Per-matrix states, stored as one state of trees.

`layout.map` wants a tree with a state at each leaf; `flax.nnx`, `optax.tree.get` and
whoever reads a checkpoint want a state with a tree at each leaf.
"""

from typing import Any

import jax

Structure = Any
"""The `jax.tree.structure` of the state of one matrix."""


def of_trees(states: Any, structure: Structure) -> Any:
    """A state of trees, from a tree with a state at each leaf.

    Examples:
      >>> structure = jax.tree.structure({"a": 0, "b": 0})
      >>> of_trees([{"a": 1, "b": 2}, {"a": 3, "b": 4}], structure)
      {'a': [1, 3], 'b': [2, 4]}
    """

    def is_state(node):
        return jax.tree.structure(node) == structure

    flat, outer = jax.tree.flatten(states, is_leaf=is_state)
    columns = zip(*map(structure.flatten_up_to, flat), strict=True)
    # Without a state there are no columns, and still a tree for each field.
    columns = list(columns) or [()] * structure.num_leaves
    return structure.unflatten([outer.unflatten(column) for column in columns])


def at_leaves(state: Any, structure: Structure) -> Any:
    """The inverse: a tree with a state at each leaf.

    Examples:
      >>> structure = jax.tree.structure({"a": 0, "b": 0})
      >>> at_leaves({"a": [1, 3], "b": [2, 4]}, structure)
      [{'a': 1, 'b': 2}, {'a': 3, 'b': 4}]
    """
    trees = structure.flatten_up_to(state)
    return jax.tree.map(lambda *parts: structure.unflatten(parts), *trees)
