"""Exact roles from a Flax NNX model: every layer knows what its parameters are.

Layers keep the sizes they were made with, also when `nnx.vmap` stacks them; the axes
beyond those are the stack's.
"""

import dataclasses
import functools
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from optax_ortho.labels import traced
from optax_ortho.labels.exact import Leaf
from optax_ortho.labels.layers import (
    BIAS,
    EMBEDDING,
    NORM,
    SCALAR,
    VECTOR,
    Declared,
    conv,
    dense,
    einsum,
)
from optax_ortho.labels.program import Reading
from optax_ortho.labels.rules import is_vector
from optax_ortho.labels.stacks import added_axes

UNITS = (nnx.LoRA, nnx.MultiHeadAttention, nnx.RNNCellBase)


def leaves(model: nnx.Module, wrt: Any = None) -> list[Leaf]:
    """Every trained variable of a model; one that is shared appears once.

    Args:
      model: a module, of arrays or of `nnx.eval_shape`.
      wrt: a filter of the variables that are trained, as for `nnx.Optimizer`; None is
        `nnx.Param`, and what else a layer declares.

    Returns:
      The leaves, in the order of `nnx.state`.
    """
    nodes = list(nnx.iter_graph(model))
    modules = [(path, node) for path, node in nodes if isinstance(node, nnx.Module)]
    declared: dict[int, Declared | None] = {}
    for _, module in modules:  # The parts of a module come before it.
        for variable, what in declare(module):
            # A table that is a matrix elsewhere, as in a tied head, stays a table.
            before = declared.get(id(variable))
            if variable is not None and (before is None or before.axes is not None):
                declared[id(variable)] = what
    frozen = {id(node) for _, module in modules for node in _base(module)}
    units = [path for path, module in modules if isinstance(module, UNITS)]

    def leaf(path, variable):
        what = declared.get(id(variable))
        if what is None and is_vector(variable.shape):
            what = VECTOR if variable.shape else SCALAR
        if id(variable) in frozen:
            what = _frozen(what)
        inside = (unit for unit in units if path[: len(unit)] == unit)
        return Leaf(
            path="/".join(map(str, path)),
            shape=tuple(variable.shape),
            declared=what,
            stated=variable.get_metadata().get("role"),
            unit=next(("/".join(map(str, unit)) for unit in inside), None),
        )

    if wrt is not None:
        is_trained = nnx.filterlib.to_predicate(wrt)
        return [
            leaf(path, node)
            for path, node in nodes
            if isinstance(node, nnx.Variable) and is_trained(path, node)
        ]
    return [
        leaf(path, node)
        for path, node in nodes
        if isinstance(node, nnx.Param) or id(node) in declared
    ]


def readings(
    function: Callable[..., Any],
    model: nnx.Module,
    inputs: Sequence[Any],
    arguments: Mapping[str, Any],
    wrt: Any = None,
) -> dict[str, Reading]:
    """The reading of every parameter, by its path.

    Frozen parameters are followed too: only they show that an adapter before a frozen
    head is no head itself.

    Args:
      function: called as ``function(model, *inputs, **arguments)``.
      model: a module, of arrays or of `nnx.eval_shape`; it is not changed.
      inputs: the positional arguments.
      arguments: the keyword arguments.
      wrt: a filter of the variables that are trained, beside `nnx.Param`.
    """
    followed = nnx.Param if wrt is None else nnx.filterlib.Any(nnx.Param, wrt)
    graph, params, others = nnx.split(model, followed, ...)

    def call(params, others, *inputs, **arguments):
        merged = nnx.merge(graph, params, others)
        _fill(merged)
        return function(merged, *inputs, **arguments)

    return traced.readings(call, params, inputs, arguments, constants=others)


def _fill(model: nnx.Module) -> None:
    """Puts arrays in the place of shapes that are no variables.

    In an abstract model, arrays outside of variables, as the scales of a weight norm,
    are not in what `nnx.split` gives.
    """
    for _, node in list(nnx.iter_graph(model)):
        if isinstance(node, nnx.Module | dict):
            values = node if isinstance(node, dict) else vars(node)
            for name, value in list(values.items()):
                if isinstance(value, jax.ShapeDtypeStruct):
                    values[name] = jnp.zeros(value.shape, value.dtype)


def taken_apart(model: nnx.Module) -> tuple[Any, Callable[[Any], nnx.Module]]:
    """The arrays of a model, and a function that puts others in their place."""
    graph, arrays = nnx.split(model)
    return arrays, functools.partial(nnx.merge, graph)


def rngs() -> nnx.Rngs:
    """Random numbers for a model that is made in shapes alone."""
    return nnx.Rngs(0)


@functools.singledispatch
def declare(module: Any) -> Iterable[tuple[Any, Declared | None]]:
    """Declarations of a layer or cell about its parameters; None asks the user."""
    return ()


@declare.register
def _(module: nnx.Linear):
    kernel = dense((module.in_features, module.out_features))
    return (module.kernel, kernel), (module.bias, BIAS)


@declare.register
def _(module: nnx.LinearGeneral):
    batch = tuple(module.batch_axis.values())
    shape = (*batch, *module.in_features, *module.out_features)
    kernel = dense(shape, batch=len(batch), inputs=len(module.in_features))
    return (module.kernel, kernel), (module.bias, BIAS)


@declare.register
def _(module: nnx.Einsum):
    kernel = einsum(tuple(module.kernel_shape), module.einsum_str)
    return (module.kernel, kernel), (module.bias, BIAS)


@declare.register
def _(module: nnx.Conv):
    shape = tuple(module.kernel_shape)
    kernel = conv(shape, groups=module.feature_group_count)
    return (module.kernel, kernel), (module.bias, BIAS)


@declare.register
def _(module: nnx.ConvTranspose):
    shape = tuple(module.kernel_shape)
    kernel = conv(shape, transposed=module.transpose_kernel)
    return (module.kernel, kernel), (module.bias, BIAS)


@declare.register
def _(module: nnx.Embed):
    return ((module.embedding, EMBEDDING),)


@declare.register(nnx.BatchNorm)
@declare.register(nnx.GroupNorm)
@declare.register(nnx.InstanceNorm)
@declare.register(nnx.LayerNorm)
@declare.register(nnx.RMSNorm)
def _(module):
    return tuple((getattr(module, name, None), NORM) for name in ("scale", "bias"))


@declare.register
def _(module: nnx.LoRA):
    rank = _rank(module)
    if rank is None:
        return (module.lora_a, None), (module.lora_b, None)
    a = dense((module.in_features, rank))
    return (module.lora_a, a), (module.lora_b, dense((rank, module.out_features)))


@declare.register
def _(module: nnx.LoRALinear):
    kernel = dense((module.in_features, module.out_features))
    return (module.kernel, _frozen(kernel)), (module.bias, _frozen(BIAS))


@declare.register
def _(module: nnx.OptimizedLSTMCell):
    return _fused(module, blocks=4)


@declare.register
def _(module: nnx.GRUCell):
    return _fused(module, blocks=3)


def _fused(module: Any, blocks: int) -> Iterable[tuple[Any, Declared]]:
    inputs, hidden = module.in_features, module.hidden_features
    return (
        (module.dense_i.kernel, dense((inputs, blocks * hidden)).fused(blocks)),
        (module.dense_h.kernel, dense((hidden, blocks * hidden)).fused(blocks)),
    )


def _rank(module: nnx.LoRA) -> int | None:
    """The rank of an adapter, which only its arrays tell, stacked or not."""
    a, b = module.lora_a.shape, module.lora_b.shape
    ranks = {
        rank
        for rank in a
        for added in added_axes(a, (module.in_features, rank))
        if added in added_axes(b, (rank, module.out_features))
    }
    return ranks.pop() if len(ranks) == 1 else None


def _base(module: nnx.Module) -> list[Any]:
    """The variables under an adapter that wraps another module."""
    if not isinstance(module, nnx.LoRA) or module.base_module is None:
        return []
    nodes = [node for _, node in nnx.iter_graph(module.base_module)]
    adapters = [node for node in nodes if isinstance(node, nnx.LoRA)]
    adapting = {id(v) for lora in adapters for v in (lora.lora_a, lora.lora_b)}
    return [node for node in nodes if id(node) not in adapting]


def _frozen(what: Declared | None) -> Declared:
    if what is None:
        return Declared("frozen")
    return dataclasses.replace(what, role="frozen")
