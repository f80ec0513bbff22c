"""The labels of a model, of a function of parameters, or of a tree of parameters."""

import dataclasses
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from optax_ortho.labels import traced
from optax_ortho.labels.decision import Request, decide
from optax_ortho.labels.exact import Leaf
from optax_ortho.labels.layers import Declared
from optax_ortho.labels.policy import Policy
from optax_ortho.labels.program.trace import is_array
from optax_ortho.labels.refusals import refuse_functions
from optax_ortho.labels.roles import UNDECIDED, Label
from optax_ortho.labels.rules import by_names
from optax_ortho.labels.table import Labels
from optax_ortho.matrices import MatrixAxes, path_of


def label(
    model: Any,
    *inputs: Any,
    overrides: Mapping[str, str | MatrixAxes | Label] | None = None,
    optional: bool = False,
    scan_axis: int | Sequence[int] | None = None,
    wrt: Any = None,
    split: bool | str | Sequence[str] = False,
    strict: bool = False,
    policy: Policy | None = None,
    **call_arguments: Any,
) -> Labels:
    """The role of every parameter, and the axes of those that are matrices.

    With example inputs the forward pass is traced, in shapes alone, and every parameter
    is followed to its uses: what is contracted is a matrix, along those axes; what is
    looked up is an embedding; the last matrix before an output is a head; the one whose
    result chooses experts is a router. So it is the same for every framework, and for
    layers of one's own:

        label(nnx_model, tokens)                 Flax NNX, made or abstract
        label(linen_module, tokens)              Flax Linen
        label(equinox_model, tokens)             a callable tree
        label(apply, params, tokens)             Haiku, plain JAX: the call, parameters
        label(loss, nnx_model, batch)            a function of an NNX model
        label(nnx_model)                         by the types of its layers
        label(params)                            by names and shapes, as a last resort

    Each label has one source, the first that answers: an override; a ``role`` in the
    metadata of an NNX parameter (``kernel_metadata={"role": "head"}``); the program;
    the type of the layer; the name. The table prints it in the column "how".

    Args:
      model: an `nnx.Module`, a Linen module, a tree of arrays that can be called, a
        function whose first argument is its parameters, or a tree of parameters.
      *inputs: what the model is called with, as in training; of a function, its
        parameters first. Shapes (`jax.ShapeDtypeStruct`) are enough.
      overrides: ordered patterns of paths, each with a role, a `MatrixAxes` or a
        `Label`. ``*`` stands for part of a name and ``**`` for any number of names;
        the first pattern that covers a path wins.
      optional: whether an override may cover no leaf, as for tied and untied variants
        of one model.
      scan_axis: the axis of the stack (several for stacks of stacks), where the shapes
        of a layer allow more than one and no inputs are given.
      wrt: of an NNX model, the variables that are trained, as for `nnx.Optimizer`;
        None is `nnx.Param`.
      split: whether the blocks of fused matrices that the program shows (query, key and
        value; gates) are orthogonalized by themselves: for all, or for the paths that
        these patterns cover. Otherwise the table only notes them.
      strict: whether a layer's type that contradicts the program is an error.
      policy: the choices about heads, input layers, routers and attention heads; None
        is ``Policy()``.
      **call_arguments: keyword arguments of the call, as ``train=False``; of a Linen
        module also ``method=``.

    Returns:
      Labels, to print and to give to a recipe as ``labels=``.

    Raises:
      ValueError: a leaf that nothing decides, with what to answer; an override that
        covers no leaf; a call that cannot be traced; with ``strict``, a contradiction.
      TypeError: a Linen module or a function without inputs, a tree of parameters with
        them, or ``wrt`` without an NNX model.

    Examples:
      >>> def model(params, tokens):
      ...     x = params["table"][tokens]
      ...     return jnp.tanh(x @ params["up"]) @ params["out"]
      >>> params = {"out": (24, 11), "table": (11, 6), "up": (6, 24)}
      >>> params = {name: jnp.ones(shape) for name, shape in params.items()}
      >>> print(label(model, params, jnp.zeros((2, 5), int)))
      path   shape     role       axes    how
      -----  --------  ---------  ------  -------
      out    (24, 11)  head               program
      table  (11, 6)   embedding          program
      up     (6, 24)   matrix     0 -> 1  program
      <BLANKLINE>
      orthogonalized  1 leaf, 144 parameters: matrix 1 (144)
      fallback        2 leaves, 330 parameters: embedding 1 (66), head 1 (264)
    """
    request = Request(
        call=_call(model, bool(inputs or call_arguments)),
        overrides={} if overrides is None else overrides,
        optional=optional,
        scan_axis=scan_axis,
        split=split,
        strict=strict,
        policy=Policy() if policy is None else policy,
    )
    leaves = _leaves(model, inputs, call_arguments, wrt)
    if request.policy.needs_program and not any(leaf.reading for leaf in leaves):
        raise ValueError(
            f"{request.policy} asks for what only the forward pass can tell: "
            f"{request.call}, *inputs)."
        )
    return decide(leaves, request)


def is_module(value: Any, library: str) -> bool:
    """Whether a value is a module of a library, which is not imported for the question.

    Examples:
      >>> is_module({"w": 1.0}, "flax.nnx")
      False
    """
    loaded = sys.modules.get(library)
    return loaded is not None and isinstance(value, loaded.Module)


def _leaves(
    model: Any, inputs: Sequence[Any], arguments: Mapping[str, Any], wrt: Any
) -> list[Leaf]:
    """Every parameter, and what its layer and the program say of it."""
    given = bool(inputs or arguments)
    if is_module(model, "flax.linen"):
        from optax_ortho.labels import flax_linen

        _refuse_wrt(wrt, model)
        if not given:
            raise TypeError(
                f"{type(model).__name__} is a Linen module, which makes its parameters "
                "from an input: label(model, *example_inputs)."
            )
        readings = flax_linen.readings(model, inputs, arguments)
        return _with(flax_linen.leaves(model, inputs, arguments), readings)
    if is_module(model, "flax.nnx"):
        return _nnx_leaves(None, model, inputs, arguments, wrt)
    if _is_function(model):
        if not inputs:
            raise TypeError(
                "A function needs its parameters and its inputs to be labelled: "
                "label(function, params, *inputs)."
            )
        params, *inputs = inputs
        if is_module(params, "flax.nnx"):
            return _nnx_leaves(model, params, inputs, arguments, wrt)
        _refuse_wrt(wrt, params)
        return traced.leaves(traced.readings(model, params, inputs, arguments))
    _refuse_wrt(wrt, model)
    refuse_functions(model)
    if not given:
        return _named(model)
    if not callable(model):
        raise TypeError(
            f"label takes inputs for models, not for a {type(model).__name__}: give "
            "the function that uses these parameters first, label(function, params, "
            "*inputs), or label(params)."
        )
    readings = traced.readings(_call_itself, model, inputs, arguments)
    return traced.leaves(readings)


def _nnx_leaves(
    function: Callable[..., Any] | None,
    model: Any,
    inputs: Sequence[Any],
    arguments: Mapping[str, Any],
    wrt: Any,
) -> list[Leaf]:
    from optax_ortho.labels import flax_nnx

    leaves = flax_nnx.leaves(model, wrt)
    if function is None and not inputs and not arguments:
        return leaves
    call = _call_itself if function is None else function
    return _with(leaves, flax_nnx.readings(call, model, inputs, arguments, wrt))


def _with(leaves: Sequence[Leaf], readings: Mapping[str, Any]) -> list[Leaf]:
    """The leaves, with what the program says of each."""
    return [
        dataclasses.replace(leaf, reading=readings.get(leaf.path)) for leaf in leaves
    ]


def _call_itself(model: Any, *inputs: Any, **arguments: Any) -> Any:
    return model(*inputs, **arguments)


def _is_function(model: Any) -> bool:
    """Whether a value can be called and holds no parameters of its own."""
    return callable(model) and not any(map(is_array, jax.tree.leaves(model)))


def _refuse_wrt(wrt: Any, model: Any) -> None:
    if wrt is not None:
        raise TypeError(
            f"wrt chooses variables of an NNX model, not of a {type(model).__name__}; "
            "give a function of the parameters that are trained."
        )


def _call(model: Any, given: bool) -> str:
    """The user's call up to its options, for messages."""
    module = is_module(model, "flax.linen") or is_module(model, "flax.nnx")
    if _is_function(model) and not module:
        return "label(function, params, *inputs"
    if given:
        return "label(model, *inputs"
    return "label(model" if module else "label(params"


def _named(params: Any) -> list[Leaf]:
    """The parameters of a tree, of which only names and shapes are known."""
    keyed = jax.tree_util.tree_leaves_with_path(params)
    pairs = [(path_of(keys), value) for keys, value in keyed]
    leaves = []
    for (path, value), role in zip(pairs, by_names(pairs), strict=True):
        declared = Declared(role.role, jnp.shape(value), role.axes)
        known = None if role.role == UNDECIDED else declared
        leaves.append(Leaf(path, jnp.shape(value), known, named=True))
    return leaves
