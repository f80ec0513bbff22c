"""Random trees, and comparisons that name the leaf that differs."""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from optax_ortho.matrices import path_of


def random_like(tree: Any, seed: int = 0) -> Any:
    """Standard normal numbers in the shapes and dtypes of a tree."""
    rng = np.random.default_rng(seed)
    return jax.tree.map(
        lambda x: jnp.asarray(rng.standard_normal(x.shape), x.dtype), tree
    )


def spoil(tree: Any, where: Any, bad: float = np.nan) -> Any:
    """The tree with `bad` as the first entry for which a tree of masks is true.

    Examples:
      >>> spoil([jnp.zeros(2), jnp.zeros(2)], [np.array([False]), np.array([True])])
      [Array([0., 0.], dtype=float32), Array([nan,  0.], dtype=float32)]
    """
    leaves, treedef = jax.tree.flatten(tree)
    masks = treedef.flatten_up_to(where)
    first = next(i for i, mask in enumerate(masks) if np.any(mask))
    index = tuple(np.argwhere(masks[first])[0])
    leaves[first] = leaves[first].at[index].set(bad)
    return treedef.unflatten(leaves)


def stack(trees: Sequence[Any]) -> Any:
    """Trees of one structure as one tree, with a leading axis."""
    return jax.tree.map(lambda *xs: jnp.stack(xs), *trees)


def check(condition: bool, message: str) -> None:
    """Raises an `AssertionError` if a condition is false, even under ``python -O``."""
    if not condition:
        raise AssertionError(message)


def assert_close(
    actual: Any, expected: Any, tolerance: float, what: str, but: str = ""
) -> None:
    """Compares two trees leaf by leaf.

    Args:
      actual: the computed tree.
      expected: the correct tree.
      tolerance: largest difference, over the largest entry of the expected leaf.
      what: the beginning of the error message.
      but: leaves of this name are not compared.

    Raises:
      AssertionError: the structures differ, or a leaf differs by more.

    Examples:
      >>> assert_close({"a": np.array([2.0, 1.1])}, {"a": np.array([2, 1])}, 0, "sum")
      Traceback (most recent call last):
      AssertionError: sum: a differs by 5.0e-02 of its largest entry, not 0.0e+00.
    """
    for path, leaf, other in _pairs(actual, expected, what):
        if but and path.split("/")[-1] == but:
            continue
        leaf, other = np.asarray(leaf, np.float64), np.asarray(other, np.float64)
        check(leaf.shape == other.shape, f"{what}: {path!r} has shape {leaf.shape}.")
        difference = np.abs(leaf - other).max(initial=0)
        size = np.abs(other).max(initial=1e-300)
        check(
            bool(difference <= tolerance * size),
            f"{what}: {path or 'the result'} differs by {difference / size:.1e} of its "
            f"largest entry, not {tolerance:.1e}.",
        )


def assert_same_types(actual: Any, expected: Any, what: str) -> None:
    """Compares shapes, dtypes and weak types of trees of `jax.ShapeDtypeStruct`.

    Raises:
      AssertionError: the structures differ, or a leaf has another type.
    """
    for path, leaf, other in _pairs(actual, expected, what):
        check(leaf == other, f"{what}: {path!r} is {leaf}, not {other}.")


def _pairs(actual: Any, expected: Any, what: str) -> list[tuple[str, Any, Any]]:
    same = jax.tree.structure(actual) == jax.tree.structure(expected)
    check(same, f"{what}: the structures differ.")
    keyed = jax.tree_util.tree_leaves_with_path(actual)
    others = jax.tree.leaves(expected)
    return [
        (path_of(keys), leaf, other)
        for (keys, leaf), other in zip(keyed, others, strict=True)
    ]
