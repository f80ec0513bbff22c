"""Models and inputs in shapes alone, from what can be named on a command line."""

import inspect
import re
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from optax_ortho.labels.model import is_module
from optax_ortho.labels.program.trace import is_array

SHAPE = re.compile(r"(\d+(?:x\d+)*)?(?::(\w+))?")


def build(model: Any) -> Any:
    """The model that a class or a factory makes, without computing its arrays.

    An argument named ``rngs`` gets `flax.nnx.Rngs`, and one named ``key`` or ``rng`` a
    key of `jax.random`.

    Args:
      model: a class or a function that makes an `nnx.Module`, a Linen module, or a tree
        of arrays. A model itself, or a tree, is given back.

    Raises:
      TypeError: a factory with other arguments that have no default.

    Examples:
      >>> build(lambda key: {"up": jax.random.normal(key, (6, 8)), "heads": 2})
      {'heads': 2, 'up': ShapeDtypeStruct(shape=(6, 8), dtype=float32)}
    """
    if not _is_factory(model):
        return model
    rebuild: list[Callable[[Any], Any]] = []

    def make():
        arrays, fill = _taken_apart(model(**_arguments(model)))
        rebuild.append(fill)
        return arrays

    arrays = jax.eval_shape(make)
    return rebuild[0](arrays)


def shape(text: str) -> jax.ShapeDtypeStruct:
    """The array that a text such as ``2x128:int32`` describes, by default of float32.

    Raises:
      ValueError: the text has another form, or names no dtype.

    Examples:
      >>> shape("2x128:int32")
      ShapeDtypeStruct(shape=(2, 128), dtype=int32)
      >>> shape("3"), shape(":float32").shape
      (ShapeDtypeStruct(shape=(3,), dtype=float32), ())
    """
    parts = SHAPE.fullmatch(text) if text else None
    if parts is None:
        raise ValueError(f"{text!r} is no shape; write 2x128:int32, or :float32.")
    sizes, name = parts.groups()
    try:
        dtype = jnp.dtype("float32" if name is None else name)
    except TypeError:
        raise ValueError(f"{text!r} has the dtype {name!r}, which is none.") from None
    axes = tuple(map(int, sizes.split("x"))) if sizes else ()
    return jax.ShapeDtypeStruct(axes, dtype)


def _is_factory(model: Any) -> bool:
    """Whether a value has to be called to get a model."""
    if is_module(model, "flax.nnx") or is_module(model, "flax.linen"):
        return False
    return callable(model) and not any(map(is_array, jax.tree.leaves(model)))


def _arguments(factory: Callable[..., Any]) -> dict[str, Any]:
    """Random numbers, for the arguments that ask for them."""
    # The metaclasses of Flax and Equinox hide the arguments of a class.
    called = factory.__init__ if inspect.isclass(factory) else factory
    parameters = list(inspect.signature(called).parameters.values())
    arguments = {}
    for parameter in parameters[inspect.isclass(factory) :]:
        name = parameter.name
        if name == "rngs":
            from optax_ortho.labels import flax_nnx

            arguments[name] = flax_nnx.rngs()
        elif name in ("key", "rng"):
            arguments[name] = jax.random.key(0)
        elif parameter.default is parameter.empty and parameter.kind not in (
            parameter.VAR_POSITIONAL,
            parameter.VAR_KEYWORD,
        ):
            raise TypeError(
                f"{getattr(factory, '__name__', factory)} takes {name!r}; name a "
                "function that makes the model without arguments, or from rngs or key."
            )
    return arguments


def _taken_apart(model: Any) -> tuple[Any, Callable[[Any], Any]]:
    """The arrays of a model, and a function that puts others in their place."""
    if is_module(model, "flax.nnx"):
        from optax_ortho.labels import flax_nnx

        return flax_nnx.taken_apart(model)
    leaves, structure = jax.tree.flatten(model)

    def fill(arrays):
        filled = [arrays.get(i, leaf) for i, leaf in enumerate(leaves)]
        return jax.tree.unflatten(structure, filled)

    return {i: leaf for i, leaf in enumerate(leaves) if is_array(leaf)}, fill
