"""Labels from name and shape alone: what can be known without the model.

    a name that says bias, norm, scale, head or embedding     that role
    at most one axis longer than 1                            scalar or vector
    a name that says it may be no matrix                      undecided
    two axes                                                  matrix; a router's, vector
    three or more                                             undecided

Three axes cannot be read: a kernel of shape (4, 5, 7) is a one-dimensional convolution,
an attention projection, or a stack of four matrices. Two are (fan_in, fan_out), but of
a leaf named weight (fan_out, fan_in); beside leaves named kernel it may be either.
"""

from collections.abc import Iterable
from typing import Any

import jax.numpy as jnp

from optax_ortho.labels.roles import MATRIX, UNDECIDED, Label, two_axes
from optax_ortho.labels.words import (
    routers,
    said_role,
    says_kernel,
    says_no_matrix,
    says_out_first,
)


def by_name(path: str, leaf: Any) -> Label:
    """The label of a leaf, by the rules above; the default of every recipe.

    Args:
      path: the leaf's path, as ``a/b/kernel``.
      leaf: an array, or anything with a shape.

    Returns:
      The label; "undecided" goes to the fallback optimizer and a summary warns of it.

    Examples:
      >>> import numpy as np
      >>> by_name("mlp/up/kernel", np.ones((6, 24))).axes
      MatrixAxes(fan_in=(0,), fan_out=(1,), split=None)
      >>> [by_name(path, np.ones((6, 4))).role for path in ("wte", "ln_f", "lm_head")]
      ['embedding', 'norm', 'head']
      >>> by_name("mlp/out/kernel", np.ones((6, 1))).role
      'vector'
    """
    shape = jnp.shape(leaf)
    said = said_role(path)
    if not shape:
        return Label("scalar")
    if len(shape) == 1:
        return Label(said if said in ("bias", "norm") else "vector")
    if said is not None:
        return Label(said)
    if is_vector(shape):
        return Label("vector")
    if len(shape) == 2 and not says_no_matrix(path):
        return Label("vector") if routers([path]) else Label(MATRIX, two_axes(path))
    return Label(UNDECIDED)


def by_names(leaves: Iterable[tuple[str, Any]]) -> list[Label]:
    """The labels of a whole tree: `by_name`, and what the other leaves tell.

    Flax keeps a kernel as (in, out). A matrix named weight in a tree that has kernels
    was made by its user, in either order.

    Args:
      leaves: pairs of a path and an array, or anything with a shape.

    Returns:
      A label for each.

    Examples:
      >>> import numpy as np
      >>> leaves = {"up/kernel": np.ones((6, 8)), "own/weight": np.ones((6, 8))}
      >>> [label.role for label in by_names(leaves.items())]
      ['matrix', 'undecided']
    """
    pairs = list(leaves)
    has_kernels = any(says_kernel(path) for path, _ in pairs)

    def label(path, leaf):
        named = by_name(path, leaf)
        unclear = has_kernels and named.role == MATRIX and says_out_first(path)
        return Label(UNDECIDED) if unclear else named

    return [label(path, leaf) for path, leaf in pairs]


def is_vector(shape: tuple[int, ...]) -> bool:
    """Whether at most one axis is longer than 1."""
    return sum(size > 1 for size in shape) <= 1
