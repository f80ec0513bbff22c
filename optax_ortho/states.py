"""Trees with a state for each matrix of a tree of parameters.

A state has a tree in each of its fields, as ``PowerState(mu=tree, basis=tree)``, so
that `flax.nnx`, `optax.tree.get` and readers of a checkpoint find the parameters'
paths. A layout needs one state per leaf; `split_state` and `merge_states` go between
the two.

`flax.nnx` and `flax.linen` may put each parameter in a box, a pytree node with one
``value``. A tree of states keeps the boxes, whose metadata say how an array of the
parameter's shape is sharded, except around a `FusedState`: `flax.nnx.Optimizer` takes
the content of a box for one array, and would return other containers from an update.
"""

from collections import Counter
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax

Structure = Any
"""A `jax.tree_util.PyTreeDef`."""


class FusedState(NamedTuple):
    """The states of a fused leaf's matrices, in the order of its `Split`."""

    blocks: tuple[Any, ...]


def is_fused(node: Any) -> bool:
    """Whether a node of a tree of states belongs to a fused leaf."""
    return isinstance(node, FusedState)


def blocks_of(state: Any) -> tuple[Any, ...]:
    """The states of a leaf's matrices: several of a fused leaf, else one."""
    return state.blocks if is_fused(state) else (state,)


def state_of(blocks: Sequence[Any], fused: bool) -> Any:
    """The state of a leaf from the states of its matrices; inverse of `blocks_of`."""
    return FusedState(tuple(blocks)) if fused else blocks[0]


def state_structure(tree: Any, fused: Sequence[bool]) -> Structure:
    """The structure of a tree with one state in the place of each leaf of another.

    Args:
      tree: parameters or gradients, boxed or not.
      fused: for each leaf, in their order, whether its state is a `FusedState`.

    Returns:
      A structure with as many leaves as `tree`.

    Examples:
      >>> tree = {"a": jax.numpy.ones(2), "b": jax.numpy.ones(3)}
      >>> state_structure(tree, [False, True]).unflatten([0, FusedState((1, 2))])
      {'a': 0, 'b': FusedState(blocks=(1, 2))}
    """
    keyed, treedef = jax.tree_util.tree_flatten_with_path(tree)
    if not any(fused):
        return treedef
    inside = Counter(keys[:-1] for keys, _ in keyed)
    boxes = {
        keys[:-1]
        for (keys, _), is_several in zip(keyed, fused, strict=True)
        if is_several and is_boxed(keys) and inside[keys[:-1]] == 1
    }
    _, treedef = jax.tree_util.tree_flatten_with_path(
        tree, is_leaf=lambda keys, _: keys in boxes, is_leaf_takes_path=True
    )
    return treedef


def is_boxed(keys: Sequence[Any]) -> bool:
    """Whether a leaf's last key is the key of its box."""
    if len(keys) < 2:
        return False
    last = keys[-1]
    return isinstance(last, jax.tree_util.GetAttrKey) and last.name == "value"


def split_state(state: Any, structure: Structure) -> tuple[list[Any], Structure]:
    """One state per leaf, from a state with a tree in each field.

    Args:
      state: a pytree of trees, each with one array, or a `FusedState` of arrays, per
        leaf.
      structure: of these trees, from `state_structure`.

    Returns:
      The state of each leaf, a `FusedState` of states for a fused one; and the
      structure of the state of one matrix.

    Raises:
      ValueError: a part of the state is no such tree.

    Examples:
      >>> structure = jax.tree.structure(["u", "v"])
      >>> split_state({"a": [1, 3], "b": [2, 4]}, structure)[0]
      [{'a': 1, 'b': 2}, {'a': 3, 'b': 4}]
    """

    def is_tree(node):
        return jax.tree.structure(node, is_leaf=is_fused) == structure

    # A tree inside a field has fewer nodes than the state, so the first match is it.
    trees, fields = jax.tree.flatten(state, is_leaf=is_tree)
    if not all(map(is_tree, trees)):
        raise ValueError(
            f"The state has structure {jax.tree.structure(state)}, but each of its "
            f"fields must be a tree like the matrices, {structure}. It may be the "
            "state of other parameters or another layout; see checkpoints.move_state."
        )
    columns = [jax.tree.leaves(tree, is_leaf=is_fused) for tree in trees]
    if not columns:
        return [fields.unflatten(())] * structure.num_leaves, fields
    return [_of_leaf(parts, fields) for parts in zip(*columns, strict=True)], fields


def merge_states(states: Sequence[Any], structure: Structure, fields: Structure) -> Any:
    """A state with a tree in each field; the inverse of `split_state`.

    Examples:
      >>> trees, fields = jax.tree.structure(["u", "v"]), jax.tree.structure({"a": 0})
      >>> merge_states([{"a": 1}, {"a": 3}], trees, fields)
      {'a': [1, 3]}
    """
    columns = [
        [
            state_of(parts, is_fused(state))
            for parts in zip(*map(fields.flatten_up_to, blocks_of(state)), strict=True)
        ]
        for state in states
    ]
    # Without matrices there are no columns, and still a tree for each field.
    trees = zip(*columns, strict=True) if columns else [()] * fields.num_leaves
    return fields.unflatten([structure.unflatten(tree) for tree in trees])


def _of_leaf(parts: Sequence[Any], fields: Structure) -> Any:
    """The state of a leaf, from its part of each tree."""
    blocks = zip(*map(blocks_of, parts), strict=True)
    return state_of([fields.unflatten(block) for block in blocks], is_fused(parts[0]))
