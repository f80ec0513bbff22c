"""Values of the ``labels=`` argument of a recipe."""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp

from optax_ortho.checks import refuse_array
from optax_ortho.labels.model import is_module
from optax_ortho.labels.patterns import Patterns
from optax_ortho.labels.refusals import refuse_functions
from optax_ortho.labels.roles import Label, Labeller, as_label, matrix_axes
from optax_ortho.labels.rules import by_name
from optax_ortho.matrices import MatrixAxes, path_of


@dataclasses.dataclass(frozen=True)
class Rule:
    """A function of path and leaf, asked as `Labels` are.

    Args:
      function: gives a role, a `MatrixAxes` or a `Label`.

    Examples:
      >>> Rule(by_name).label("up/kernel", jnp.ones((6, 8))).role
      'matrix'
    """

    function: Callable[[str, Any], Any]

    def label(self, path: str, leaf: Any) -> Label:
        """The label of a leaf."""
        return as_label(self.function(path, leaf), path, jnp.shape(leaf))

    def axes(self, path: str, leaf: Any) -> MatrixAxes:
        """The axes of a leaf that is a matrix."""
        return matrix_axes(self.label(path, leaf), path, leaf)


def resolve(labels: Any) -> Labeller:
    """The `Labeller` for a value of ``labels=``.

    Args:
      labels: None (by name and shape), the result of `label`, a function of path and
        leaf, ordered rules ``{pattern: role}``, or a tree of the parameters' structure.
        Functions, rules and trees give a role, a `MatrixAxes` or a `Label`.

    Returns:
      An object with ``label(path, leaf)`` and ``axes(path, leaf)``.

    Raises:
      TypeError: an array, a model, a tree of functions, or another kind of value.

    Examples:
      >>> rules = resolve({"**/kernel": MatrixAxes(), "**": "vector"})
      >>> rules.label("blocks/up/kernel", jnp.ones((2, 6, 8))).axes
      MatrixAxes(fan_in=(1,), fan_out=(2,), split=None)
    """
    refuse_array("labels", labels)
    if labels is None:
        return Rule(by_name)
    if isinstance(labels, Labeller):
        return labels
    if is_module(labels, "flax.nnx") or is_module(labels, "flax.linen"):
        raise TypeError(
            f"labels is a model, {type(labels).__name__}; write labels=label(model), "
            "or label(model, *example_inputs) for a Linen module."
        )
    if callable(labels) and not _is_tree_of_roles(labels):
        return Rule(labels)
    refuse_functions(labels)
    rules = _in_order(labels)
    for path, value in rules:
        if not path or not isinstance(value, (str, MatrixAxes, Label)):
            raise TypeError(
                f"labels holds a {type(value).__name__} at {path!r}; it may be None, "
                "label(model), a function of path and leaf, rules {pattern: role}, or "
                "a tree of roles, MatrixAxes and Labels."
            )
    return Patterns(rules)


def _is_tree_of_roles(labels: Any) -> bool:
    """Whether a callable is a tree, as the modules of Equinox are, that holds roles."""
    if isinstance(labels, jax.tree_util.Partial):
        return False
    leaves = jax.tree.leaves(labels)
    return bool(leaves) and all(
        isinstance(leaf, (str, MatrixAxes, Label)) for leaf in leaves
    )


def _in_order(labels: Any) -> tuple[tuple[str, Any], ...]:
    """Pairs of path and value; flat rules keep their order, a tree has none."""
    if isinstance(labels, Mapping):
        pairs = tuple(labels.items())
        if all(isinstance(value, (str, MatrixAxes, Label)) for _, value in pairs):
            return tuple((str(pattern), value) for pattern, value in pairs)
    keyed = jax.tree_util.tree_leaves_with_path(labels)
    return tuple((path_of(keys), value) for keys, value in keyed)
