"""Exact roles from a Flax Linen model: its layers are watched while it is initialized.

Only shapes are computed. A layer inside `flax.linen.scan` or `vmap` makes its own
shape, and the tree holds the stacked one; their difference is the stack axis.
"""

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import flax.linen as nn
import jax

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
from optax_ortho.labels.program.trace import is_array
from optax_ortho.labels.rules import is_vector
from optax_ortho.matrices import path_of

UNITS = (nn.MultiHeadDotProductAttention, nn.RNNCellBase)


def leaves(
    model: nn.Module, inputs: Sequence[Any], arguments: Mapping[str, Any]
) -> list[Leaf]:
    """Every parameter of a model, with paths relative to the collection "params".

    Args:
      model: a module.
      inputs: example inputs; of arrays, or of anything with shape and dtype, only these
        two are used.
      arguments: keyword arguments of the module's call.

    Returns:
      The leaves, in the order of the tree of parameters.
    """
    declared: dict[str, Declared | None] = {}
    units: list[str] = []

    def watch(method, args, kwargs, context):
        result = method(*args, **kwargs)
        module = context.module
        made = nn.unbox(module.variables.get("params", {}))
        path = "/".join(module.path)
        called = (*args, *kwargs.values())
        for name, value in made.items():
            if isinstance(value, Mapping):
                if isinstance(module, UNITS) and path not in units:
                    units.append(path)
                continue
            where = f"{path}/{name}" if path else name
            if where not in declared:  # Layers that share a scope: the inner one.
                what = declare(module, name, value.shape, called)
                if what is None and is_vector(value.shape):
                    what = VECTOR if value.shape else SCALAR
                declared[where] = what
        return result

    with nn.intercept_methods(watch):
        variables = _shapes(model, inputs, arguments)

    def leaf(path, shape):
        inside = (unit for unit in units if path.startswith(f"{unit}/"))
        return Leaf(path, shape, declared.get(path), unit=next(inside, None))

    keyed = jax.tree_util.tree_leaves_with_path(variables.get("params", {}))
    return [leaf(path_of(keys), tuple(value.shape)) for keys, value in keyed]


def readings(
    model: nn.Module, inputs: Sequence[Any], arguments: Mapping[str, Any]
) -> dict[str, Reading]:
    """The reading of every parameter, by its path in "params".

    Args:
      model: a module.
      inputs: example inputs, or their shapes.
      arguments: keyword arguments of the module's call; ``method`` names another.
    """
    variables = dict(_shapes(model, inputs, arguments))
    params = variables.pop("params", {})
    mutable = [*variables, "intermediates"]

    def call(params, others, *inputs, **arguments):
        results, _ = model.apply(
            {"params": params, **others},
            *inputs,
            rngs=_rngs(),
            mutable=mutable,
            **arguments,
        )
        return results

    return traced.readings(call, params, inputs, arguments, constants=variables)


def _rngs() -> dict[str, jax.Array]:
    """Keys for a call; streams of other names fall back on "params"."""
    return {"params": jax.random.key(0), "dropout": jax.random.key(1)}


def _shapes(model: nn.Module, inputs: Sequence[Any], arguments: Mapping) -> Any:
    """`model.init` without computing; what is no array, as ``train=True``, is kept."""
    given, structure = jax.tree.flatten((tuple(inputs), dict(arguments)))
    arrays = {i: x for i, x in enumerate(given) if is_array(x)}

    def init(arrays):
        filled = [arrays.get(i, x) for i, x in enumerate(given)]
        args, kwargs = jax.tree.unflatten(structure, filled)
        return nn.unbox(model.init(_rngs(), *args, **kwargs))

    return jax.eval_shape(init, arrays)


@functools.singledispatch
def declare(
    module: Any, name: str, shape: tuple[int, ...], called: Sequence[Any]
) -> Declared | None:
    """The declaration of a layer about one of its parameters; None asks the user.

    Args:
      module: the layer.
      name: the parameter's name in the layer.
      shape: the parameter's shape in the layer.
      called: the arguments the layer was called with.
    """
    return None


def _kernel_of(*layers: type) -> Callable:
    """Registers how a layer's kernel is read; its bias is a bias."""

    def register(read):
        def declared(module, name, shape, called):
            if name == "kernel":
                return read(module, shape, called)
            return BIAS if name == "bias" else None

        for layer in layers:
            declare.register(layer, declared)
        return read

    return register


@_kernel_of(nn.Dense, nn.recurrent.DenseParams)
def _dense(module, shape, called):
    return dense(shape)


@_kernel_of(nn.DenseGeneral)
def _dense_general(module, shape, called):
    batch, outputs = _count(module.batch_dims), _count(module.features)
    return dense(shape, batch=batch, inputs=len(shape) - batch - outputs)


@_kernel_of(nn.Einsum)
def _einsum(module, shape, called):
    strings = (value for value in called if isinstance(value, str))
    return einsum(shape, module.einsum_str or next(strings, None))


@_kernel_of(nn.Conv)
def _conv(module, shape, called):
    kernel = conv(shape, groups=module.feature_group_count)
    gates = isinstance(module.parent, nn.ConvLSTMCell)
    return kernel.fused(blocks=4) if gates else kernel


@_kernel_of(nn.ConvTranspose)
def _conv_transpose(module, shape, called):
    return conv(shape, transposed=module.transpose_kernel)


@_kernel_of(nn.ConvLocal)
def _conv_local(module, shape, called):
    return dense(shape, batch=len(shape) - 2)


@declare.register(nn.Embed)
def _embed(module, name, shape, called):
    return EMBEDDING if name == "embedding" else None


@declare.register(nn.BatchNorm)
@declare.register(nn.GroupNorm)
@declare.register(nn.InstanceNorm)
@declare.register(nn.LayerNorm)
@declare.register(nn.RMSNorm)
def _norm(module, name, shape, called):
    return NORM if name in ("scale", "bias") else None


@declare.register(nn.WeightNorm)
def _weight_norm(module, name, shape, called):
    return NORM  # Its names are paths, as "Dense_0/kernel/scale".


def _count(features: int | Sequence[int]) -> int:
    return 1 if isinstance(features, int) else len(features)
