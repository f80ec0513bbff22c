"""The readings of a function's parameters."""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from optax_ortho.labels.program.movement import opaque
from optax_ortho.labels.program.reader import Reader
from optax_ortho.labels.program.readings import Reading, reading
from optax_ortho.labels.program.rules import RULES
from optax_ortho.labels.program.values import Value
from optax_ortho.labels.program.views import Kind, parameter
from optax_ortho.matrices import path_of


def read(
    function: Callable[..., Any],
    params: Any,
    *inputs: Any,
    constants: Any = None,
) -> tuple[Reading, ...]:
    """Reads the role and the matrix axes of every parameter from a program.

    The function is traced once, in shapes; no array is made. What is not an array in
    `params` or `inputs`, as an activation function or ``True``, is passed as it is.

    Args:
      function: the forward pass of a model, or its loss, called as
        ``function(params, *inputs)``, or as ``function(params, constants, *inputs)``.
      params: a tree of parameters, as arrays or anything with a shape and a dtype.
      *inputs: what the parameters are applied to, likewise.
      constants: a tree of other arrays, which are neither parameters nor inputs: the
        averages of a normalization, caches, frozen weights.

    Returns:
      One `Reading` for each array in `params`, in the order of its leaves.

    Examples:
      >>> params = {"b": jnp.ones(8), "up": jnp.ones((6, 8)), "out": jnp.ones((8, 3))}
      >>> def model(params, x):
      ...     return jnp.tanh(x @ params["up"] + params["b"]) @ params["out"]
      >>> [(each.path, each.role) for each in read(model, params, jnp.ones(6))]
      [('b', 'bias'), ('out', 'head'), ('up', 'matrix')]
    """
    trees = (params, inputs) if constants is None else (params, constants, inputs)
    flat = [jax.tree_util.tree_flatten_with_path(tree) for tree in trees]
    traced = [[leaf for _, leaf in leaves if is_array(leaf)] for leaves, _ in flat]

    def program(traced):
        *first, inputs = (
            _filled(leaves, structure, arrays)
            for (leaves, structure), arrays in zip(flat, traced, strict=True)
        )
        results = function(*first, *inputs)
        return [leaf for leaf in jax.tree.leaves(results) if is_array(leaf)]

    jaxpr = jax.make_jaxpr(program)(jax.tree.map(shape_of, traced))
    named = [(path_of(keys), leaf) for keys, leaf in flat[0][0] if is_array(leaf)]
    values = [
        Value((parameter(index, jnp.shape(leaf)),), param=True)
        for index, (_, leaf) in enumerate(named)
    ]
    values += [Value() for tree in traced[1:-1] for _ in tree]
    values += [Value(data=not _is_key(leaf)) for leaf in traced[-1]]
    reader = Reader([shape_of(leaf) for _, leaf in named], RULES, opaque)
    results = reader.run(jaxpr, values)
    # The last matrices before an output, or before a term of a loss, are heads, but not
    # where a later matrix consumes the result of some, as in a residual stream.
    outputs = [value for value in results if not value.of(Kind.WEIGHT)]
    ends = frozenset[frozenset[int]]().union(*(end.each_term() for end in outputs))
    consumed = reader.ledger.consumed
    reader.ledger.heads.update(*(end for end in ends if not end & consumed))
    reader.ledger.ends.update(*ends)
    reader.ledger.outputs.update(*(end for end in ends if len(end) == 1))
    return tuple(
        reading(reader.ledger, index, path, shape)
        for index, ((path, _), shape) in enumerate(
            zip(named, reader.leaves, strict=True)
        )
    )


def is_array(leaf: Any) -> bool:
    """Whether a leaf is an array, or stands for the shape and dtype of one."""
    return hasattr(leaf, "shape") and hasattr(leaf, "dtype")


def shape_of(leaf: Any) -> jax.ShapeDtypeStruct:
    """The shape and dtype of a leaf, without its values or its sharding."""
    return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype)


def _filled(leaves: Sequence[Any], structure: Any, arrays: Sequence[Any]) -> Any:
    """The tree with traced arrays in the place of its own."""
    remaining = iter(arrays)
    given = [next(remaining) if is_array(leaf) else leaf for _, leaf in leaves]
    return jax.tree_util.tree_unflatten(structure, given)


def _is_key(leaf: Any) -> bool:
    """Whether a leaf is a key of `jax.random`, which is no input."""
    return jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)
