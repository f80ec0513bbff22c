"""The labels of a model, or of a tree of its parameters."""

import sys
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from optax_ortho.labels.exact import Leaf, decide
from optax_ortho.labels.layers import Declared
from optax_ortho.labels.roles import UNDECIDED, Label
from optax_ortho.labels.rules import by_name
from optax_ortho.labels.table import Labels
from optax_ortho.matrices import MatrixAxes, path_of


def label(
    model: Any,
    *example_inputs: Any,
    overrides: Mapping[str, str | MatrixAxes | Label] | None = None,
    scan_axis: int | Sequence[int] | None = None,
    **call_arguments: Any,
) -> Labels:
    """The role of every parameter, and the axes of those that are matrices.

    A Flax model is read exactly: its layers know what their parameters are, stacked by
    `nnx.vmap` or `nn.scan` or not. A ``role`` in the metadata of an NNX parameter
    (``kernel_metadata={"role": "head"}``) outranks its layer. A kernel is the head if a
    name in its path says so: head, lm_head, classifier, logits, unembed. A tree of
    arrays is read by the rules of `by_name`. What cannot be decided is asked.

    Args:
      model: an `nnx.Module`, a Linen module, or a tree of parameters or their shapes.
      *example_inputs: what a Linen module is called with; shapes are enough.
      overrides: ordered patterns of paths, each with a role, a `MatrixAxes` or a
        `Label`. ``*`` stands for part of a name and ``**`` for any number of names;
        the first pattern that covers a path wins.
      scan_axis: the axis of the stack (several for stacks of stacks), where the shapes
        allow more than one.
      **call_arguments: keyword arguments of a Linen module's call, as ``train=False``.

    Returns:
      Labels, to print and to give to a recipe as ``labels=``.

    Raises:
      ValueError: a leaf that nothing decides, with the code that answers; or an
        override that covers no leaf.
      TypeError: example inputs without a Linen module, or a Linen module without.

    Examples:
      >>> params = {"wte": jnp.ones((11, 6)), "up": jnp.ones((6, 64))}
      >>> [label.role for _, _, label in label(params, overrides={"wte": "head"})]
      ['matrix', 'head']
    """
    inputs = bool(example_inputs or call_arguments)
    if is_module(model, "flax.linen"):
        from optax_ortho.labels import flax_linen

        if not inputs:
            raise TypeError(
                f"{type(model).__name__} is a Linen module, which makes its parameters "
                "from an input: label(model, *example_inputs)."
            )
        leaves = flax_linen.leaves(model, example_inputs, call_arguments)
        return decide(leaves, overrides, scan_axis, "label(model, *inputs")
    if inputs:
        raise TypeError(
            f"label takes example inputs for Linen modules, not for a "
            f"{type(model).__name__}: label(model)."
        )
    if is_module(model, "flax.nnx"):
        from optax_ortho.labels import flax_nnx

        return decide(flax_nnx.leaves(model), overrides, scan_axis, "label(model")
    return decide(_leaves(model), overrides, scan_axis, "label(params")


def is_module(value: Any, library: str) -> bool:
    """Whether a value is a module of a library, which is not imported for the question.

    Examples:
      >>> is_module({"w": 1.0}, "flax.nnx")
      False
    """
    loaded = sys.modules.get(library)
    return loaded is not None and isinstance(value, loaded.Module)


def _leaves(params: Any) -> list[Leaf]:
    leaves = []
    for keys, value in jax.tree_util.tree_leaves_with_path(params):
        path, shape = path_of(keys), jnp.shape(value)
        named = by_name(path, value)
        declared = Declared(named.role, shape, named.axes)
        leaves.append(Leaf(path, shape, None if named.role == UNDECIDED else declared))
    return leaves
