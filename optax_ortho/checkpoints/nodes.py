"""States read as nodes: the numbers that each transformation of a chain keeps.

A node is a NamedTuple of a state, or the dict that a checkpointer restored it as. Its
fields are either numbers of its own, such as a counter, or trees with the paths of the
parameters, such as a momentum; anything else is a state inside this one.
"""

from collections.abc import Collection, Iterator, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from optax_ortho.matrices import path_of

Arrays = dict[str, Any]
"""Arrays by their path below a field: a parameter's path, or "" for a number."""

# Fields that are no states, whatever is in them.
MOMENTS = ("mu", "nu")
NUMBERS = ("hyperparams", "hyperparams_states")


class Node(NamedTuple):
    """One transformation's state.

    Attributes:
      path: its path in the state.
      kind: the name of its class; "" for a dict.
      fields: the names of all its fields.
      data: the arrays of each field that holds no other state.
    """

    path: str
    kind: str
    fields: frozenset[str]
    data: dict[str, Arrays]

    def at(self, field: str, rest: str = "") -> str:
        """The path in the state of an array of this node."""
        return "/".join(part for part in (self.path, field, rest) if part)


def nodes_of(state: Any, params: Any) -> list[Node]:
    """The nodes of a state that hold numbers, outermost first.

    What a field holds is decided by its structure: a tree whose paths are all paths of
    parameters is a field of numbers, whatever the parameters are called.

    Args:
      state: the state of any optimizer, restored with its classes or without them.
      params: the parameters it belongs to.

    Returns:
      The nodes, also those without arrays of their own.

    Examples:
      >>> import jax.numpy as jnp
      >>> params = {"count": jnp.ones(2)}
      >>> chain, adam, _ = nodes_of(optax.adam(0.1).init(params), params)
      >>> adam.kind, {name: list(arrays) for name, arrays in adam.data.items()}
      ('ScaleByAdamState', {'count': [''], 'mu': ['count'], 'nu': ['count']})
    """
    # Lookahead keeps two sets of parameters, and its optimizer has the first.
    params = params.fast if isinstance(params, optax.LookaheadParams) else params
    known = {path_of(keys): leaf for keys, leaf in _leaves(params)}
    return list(_visit(state, (), known, type(params).__name__))


def without(nodes: Sequence[Node], names: Collection[str]) -> list[Node]:
    """The nodes, of which some classes and the arrays at some paths hold nothing."""

    def is_left_out(node: Node, field: str) -> bool:
        path = node.at(field) + "/"
        return node.kind in names or any(path.startswith(f"{n}/") for n in names)

    return [
        node._replace(
            data={
                field: {
                    rest: array
                    for rest, array in arrays.items()
                    if node.at(field, rest) not in names
                }
                for field, arrays in node.data.items()
                if not is_left_out(node, field)
            }
        )
        for node in nodes
    ]


def alike(node: Node, nodes: Sequence[Node]) -> list[Node]:
    """The nodes with the same fields, of the same class where both have one."""
    return [
        other
        for other in nodes
        if other.fields == node.fields
        and (other.kind == node.kind or not (other.kind and node.kind))
    ]


def _visit(
    node: Any, keys: tuple[Any, ...], known: Arrays, kind: str
) -> Iterator[Node]:
    children, _ = jax.tree_util.tree_flatten_with_path(
        node, is_leaf=lambda child: child is not node
    )
    kind_name = _class_name(node)
    data, states = {}, []
    for key_of, child in children:
        if not key_of:  # The state is one array.
            return
        (key,) = key_of
        name = path_of((key,))
        arrays = _arrays((*keys, key), child)
        if arrays is None:
            continue
        is_data = (
            set(arrays) == {""}
            or name in NUMBERS
            or (kind_name and name in MOMENTS)
            or (_is_like_params(arrays, known) and _class_name(child) in ("", kind))
        )
        if is_data and arrays:
            data[name] = arrays
        else:
            states.append(((*keys, key), child))
    fields = frozenset(path_of(key) for key, _ in children)
    yield Node(path_of(keys), kind_name, fields, data)
    for at, child in states:
        yield from _visit(child, at, known, kind)


def _class_name(node: Any) -> str:
    """The class of a state; "" for the containers that restored states have too."""
    return type(node).__name__ if hasattr(node, "_fields") else ""


def _is_like_params(arrays: Arrays, known: Arrays) -> bool:
    """Whether all paths are parameters'; a counter is not the state of a weight."""
    return arrays.keys() <= known.keys() and not any(
        _is_integer(array) and not _is_integer(known[path])
        for path, array in arrays.items()
    )


def _is_integer(array: Any) -> bool:
    return jnp.issubdtype(jnp.result_type(array), jnp.integer)


def _arrays(keys: tuple[Any, ...], tree: Any) -> Arrays | None:
    """The arrays of a tree by path below `keys`; None for the absence of a state."""
    if tree is None:
        return None
    prefix = path_of(keys)
    return {
        path_of((*keys, *rest)).removeprefix(prefix).lstrip("/"): leaf
        for rest, leaf in _leaves(tree)
    }


def _leaves(tree: Any) -> list[tuple[Any, Any]]:
    return jax.tree_util.tree_leaves_with_path(tree)
