"""Trees of per-leaf states, where a framework boxes its parameters.

`flax.nnx` and `flax.linen` may put each parameter in a box, a pytree node with one
``value``. A tree of states keeps the boxes, whose metadata say how an array of the
parameter's shape is sharded, with one exception: a leaf whose state is several arrays
has them in the place of its box. `flax.nnx.Optimizer` takes what is inside a box for
one array, and after an update would hand back a dict in place of a tuple.
"""

from collections import Counter
from collections.abc import Sequence
from typing import Any

import jax


def state_structure(tree: Any, several: Sequence[bool]) -> Any:
    """The structure of a tree with one state in the place of each leaf of another.

    Args:
      tree: parameters or gradients, boxed or not.
      several: for each leaf, in their order, whether its state is several arrays.

    Returns:
      A `jax.tree_util.PyTreeDef` with as many leaves as `tree`.

    Examples:
      >>> tree = {"a": jax.numpy.ones(2), "b": jax.numpy.ones(3)}
      >>> state_structure(tree, [False, True]).unflatten([0, (1, 2)])
      {'a': 0, 'b': (1, 2)}
    """
    keyed, treedef = jax.tree_util.tree_flatten_with_path(tree)
    if not any(several):
        return treedef
    inside = Counter(keys[:-1] for keys, _ in keyed)
    boxes = {
        keys[:-1]
        for (keys, _), is_several in zip(keyed, several, strict=True)
        if is_several and is_boxed(keys) and inside[keys[:-1]] == 1
    }
    _, treedef = jax.tree_util.tree_flatten_with_path(
        tree, is_leaf=lambda keys, _: keys in boxes, is_leaf_takes_path=True
    )
    return treedef


def is_boxed(keys: Sequence[Any]) -> bool:
    """Whether a leaf's last key is that of its box."""
    if len(keys) < 2:
        return False
    last = keys[-1]
    return isinstance(last, jax.tree_util.GetAttrKey) and last.name == "value"
