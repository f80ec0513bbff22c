"""Per-matrix states, stored as one state of trees.

`layout.map` wants a tree with a state at each leaf; `flax.nnx`, `optax.tree.get` and
whoever reads a checkpoint want a state with a tree at each leaf.
"""

from typing import Any

import jax

Structure = Any
"""The `jax.tree.structure` of the state of one matrix."""


def of_trees(states: Any, structure: Structure, params: Any) -> Any:
    """A state of trees, from a tree like `params` with a state at each leaf.

    Examples:
      >>> import jax.numpy as jnp
      >>> structure = jax.tree.structure({"a": 0, "b": 0})
      >>> tree = [{"a": 1, "b": 2}, {"a": 3, "b": 4}]
      >>> of_trees(tree, structure, [0, 0])
      {'a': [1, 3], 'b': [2, 4]}
    """
    treedef = jax.tree.structure(params)
    columns = [[] for _ in range(structure.num_leaves)]
    for state in treedef.flatten_up_to(states):
        # A fused leaf has a tuple of states, one a block.
        blocks = jax.tree.leaves(state, is_leaf=lambda x: _is(x, structure))
        parts = [structure.flatten_up_to(block) for block in blocks]
        for i, column in enumerate(columns):
            one = tuple(part[i] for part in parts)
            column.append(one if not _is(state, structure) else one[0])
    return structure.unflatten([treedef.unflatten(column) for column in columns])


def at_leaves(state: Any, structure: Structure) -> Any:
    """The inverse: a tree with a state at each leaf.

    Examples:
      >>> structure = jax.tree.structure({"a": 0, "b": 0})
      >>> at_leaves({"a": [1, 3], "b": [2, 4]}, structure)
      [{'a': 1, 'b': 2}, {'a': 3, 'b': 4}]
    """
    trees = structure.flatten_up_to(state)
    return jax.tree.map(lambda *parts: structure.unflatten(parts), *trees)


def _is(node: Any, structure: Structure) -> bool:
    return jax.tree.structure(node) == structure
