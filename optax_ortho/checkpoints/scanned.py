"""Conversion between separate layers and the stacked layers of a scanned model.

A scanned model has one leaf for all its layers, ``layers/kernel`` of shape
``(number, fan_in, fan_out)``, where the same model without the scan has
``layer_0/kernel`` and so on. Both functions convert parameters, gradients and states
alike, because a state contains the paths of the parameters.
"""

import re
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp


def stack_layers(
    tree: Any, single: str = "layer_{}", stacked: str = "layers", axis: int = 0
) -> Any:
    """Stacks the leaves under ``layer_0``, ``layer_1``, ... as leaves under ``layers``.

    Args:
      tree: parameters, gradients or a state.
      single: the key of one layer, with ``{}`` for its number.
      stacked: the key of the stacked layers.
      axis: the new axis of each leaf.

    Returns:
      The tree, with dicts in place of mappings. Check a state with `check_state`:
      state that is not kept for each matrix does not stack.

    Raises:
      ValueError: no dict has such keys, a number is missing, or the layers differ.

    Examples:
      >>> stack_layers({"layer_0": {"b": jnp.ones(2)}, "layer_1": {"b": jnp.ones(2)}})
      {'layers': {'b': Array([[1., 1.],
             [1., 1.]], dtype=float32)}}
    """
    before, after = map(re.escape, single.split("{}"))
    pattern = re.compile(f"{before}([0-9]+){after}")

    def merge(node: dict) -> dict | None:
        numbered = {int(m[1]): k for k in node if (m := pattern.fullmatch(str(k)))}
        if not numbered:
            return None
        numbers = sorted(numbered)
        if numbers != list(range(len(numbers))):
            raise ValueError(
                f"There are layers {numbers}, but a stack needs 0 to {max(numbers)}, "
                f"under the keys {single!r}."
            )
        layers = [node[numbered[i]] for i in numbers]
        for number, layer in enumerate(layers):
            if _types(layer) != _types(layers[0]):
                raise ValueError(
                    f"{single.format(number)!r} differs from {single.format(0)!r} in "
                    "structure, shape or dtype. Only layers that are alike stack."
                )
        rest = {k: v for k, v in node.items() if k not in numbered.values()}
        return {**rest, stacked: jax.tree.map(lambda *x: jnp.stack(x, axis), *layers)}

    return _rewritten(tree, merge, f"keys like {single!r}")


def unstack_layers(
    tree: Any,
    number: int,
    single: str = "layer_{}",
    stacked: str = "layers",
    axis: int = 0,
) -> Any:
    """The inverse of `stack_layers`.

    Args:
      tree: parameters, gradients or a state.
      number: number of layers.
      single: the key of one layer, with ``{}`` for its number.
      stacked: the key of the stacked layers.
      axis: the axis of each leaf that counts layers.

    Returns:
      The tree, with dicts in place of mappings.

    Raises:
      ValueError: no dict has the key `stacked`, or a leaf has another number of layers.

    Examples:
      >>> unstack_layers({"layers": jnp.arange(2)}, number=2)
      {'layer_0': Array(0, dtype=int32), 'layer_1': Array(1, dtype=int32)}
    """

    def cut(node: dict) -> dict | None:
        if stacked not in node:
            return None
        for leaf in jax.tree.leaves(node[stacked]):
            if jnp.ndim(leaf) <= axis or leaf.shape[axis] != number:
                raise ValueError(
                    f"A leaf under {stacked!r} has shape {jnp.shape(leaf)}, which is "
                    f"not {number} layers along axis {axis}."
                )
        rest = {key: value for key, value in node.items() if key != stacked}
        layers = {
            single.format(i): jax.tree.map(lambda x, i=i: jnp.take(x, i, axis), part)
            for part in (node[stacked],)
            for i in range(number)
        }
        return {**rest, **layers}

    return _rewritten(tree, cut, f"the key {stacked!r}")


def _types(tree: Any) -> Any:
    return jax.tree.structure(tree), [(x.shape, x.dtype) for x in jax.tree.leaves(tree)]


def _rewritten(tree: Any, rewrite: Callable[[dict], dict | None], what: str) -> Any:
    """The tree with every dict replaced for which `rewrite` returns another."""
    replaced = []

    def walk(node: Any) -> Any:
        if isinstance(node, Mapping):
            new = rewrite(dict(node))
            if new is not None:
                replaced.append(new)
                return new
            return {key: walk(value) for key, value in node.items()}
        if isinstance(node, tuple) and hasattr(node, "_fields"):
            return type(node)(*map(walk, node))
        if isinstance(node, (list, tuple)):
            return type(node)(map(walk, node))
        return node

    new = walk(tree)
    if not replaced:
        raise ValueError(f"No dict in the tree has {what}.")
    return new
