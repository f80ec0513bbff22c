"""Checks of the arguments of an update, while the step is traced.

They read shapes, dtypes and paths alone, so a compiled step pays nothing.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from optax_ortho.dtypes import cast_like
from optax_ortho.matrices import path_of

ShapeOf = Callable[[str, Any], tuple[int, ...]]
"""The shape that the gradient of a parameter has, given its path and itself."""


def own_shape(path: str, leaf: Any) -> tuple[int, ...]:
    """The shape of the parameter itself."""
    del path
    return jnp.shape(leaf)


def checked(
    inner: optax.GradientTransformation,
    shape_of: ShapeOf = own_shape,
) -> optax.GradientTransformationExtraArgs:
    """Refuses gradients, parameters and states that do not belong together.

    Updates come out in the dtypes of the gradients, and states in the dtypes they had,
    as `optax_ortho.dtypes.keep_dtypes` has it.

    Leaves that are not floating, such as a counter or a random key, have no gradient:
    `jax.grad` with ``allow_int=True`` gives them one of dtype float0. They are left out
    and get an update of zero. Any other gradient of theirs is refused.

    Args:
      inner: the transformation.
      shape_of: the shape that a gradient must have.

    Returns:
      The same transformation, whose errors name the leaf. Its own arithmetic uses JAX's
      standard promotion of dtypes, whatever `jax.numpy_dtype_promotion` says outside.

    Examples:
      >>> tx = checked(optax.trace(0.9))
      >>> state = tx.init({"kernel": jnp.ones((8, 6))})
      >>> tx.update({"kernel": jnp.ones((1, 6))}, state, {"kernel": jnp.ones((8, 6))})
      Traceback (most recent call last):
      ValueError: Leaf 'kernel' has shape (8, 6), but its gradient has shape (1, 6). ...
    """
    inner = optax.with_extra_args_support(inner)

    def init(params):
        with jax.numpy_dtype_promotion("standard"):
            return inner.init(_floating(params))

    def update(updates, state, params=None, **extra):
        _refuse_unlike(updates, params, shape_of)
        gradient, floating = _floating(updates), _floating(params)
        with jax.numpy_dtype_promotion("standard"):
            try:
                new, new_state = inner.update(gradient, state, floating, **extra)
            except (TypeError, ValueError) as error:
                # Only now is it worth asking whether the state is to blame.
                planned = None if params is None else jax.eval_shape(init, params)
                problem = planned and misfit(state, planned)
                if problem:
                    raise ValueError(problem) from error
                raise
        like = gradient if params is None else floating
        _refuse_new_shapes(like, new, "gradient")
        _refuse_new_shapes(state, new_state, "state")
        new, new_state = cast_like(new, gradient), cast_like(new_state, state)
        return _with_zeros(new, updates, params), new_state

    return optax.GradientTransformationExtraArgs(init, update)


def refuse_complex(name: str, params: Any) -> None:
    """Refuses complex leaves, for a method that is defined for real ones.

    Raises:
      TypeError: a leaf is complex; the message names it.
    """
    for keys, leaf in jax.tree_util.tree_leaves_with_path(params):
        if jnp.issubdtype(leaf.dtype, jnp.complexfloating):
            raise TypeError(
                f"{name}: leaf {_short(path_of(keys))} is {leaf.dtype}, and the method "
                "is defined for real parameters. Train it with another optimizer, or "
                "keep its real and imaginary parts as two leaves."
            )


def misfit(state: Any, planned: Any) -> str | None:
    """The first misfit of a state and the state that ``init`` would make, or None.

    Only paths and shapes are compared: values may be arrays of any library.

    Args:
      state: the state.
      planned: the state, or its shapes, that ``init`` would make.
    """
    shapes, wanted = _shapes(state), _shapes(planned)
    for path in [*wanted, *shapes]:
        if shapes.get(path) != wanted.get(path):
            here, there = shapes.get(path), wanted.get(path)
            return (
                f"The state is not of these parameters: at {_short(path)} it has "
                f"{_described(here)}, the parameters need {_described(there)}. "
                "Make the state with init and these parameters. If it was saved with "
                "layers scanned and they are not now, or the other way about, "
                "optax_ortho.checkpoints has unstack_layers and stack_layers."
            )
    return None


def _shapes(tree: Any) -> dict[str, tuple[int, ...]]:
    keyed = jax.tree_util.tree_leaves_with_path(tree)
    return {path_of(keys): np.shape(leaf) for keys, leaf in keyed}


def _described(shape: tuple[int, ...] | None) -> str:
    return "nothing" if shape is None else f"shape {shape}"


def _short(path: str) -> str:
    return repr(path if len(path) < 100 else f"...{path[-96:]}")


def _floating(tree: Any) -> Any:
    """The tree without the leaves that cannot have a gradient."""

    def keep(leaf):
        leaf = leaf if hasattr(leaf, "dtype") else jnp.array(leaf)
        return leaf if _is_floating(leaf) else optax.MaskedNode()

    return jax.tree.map(keep, tree)


def _is_floating(leaf: Any) -> bool:
    return jnp.issubdtype(jnp.result_type(leaf), jnp.inexact)


def _is_absent(leaf: Any) -> bool:
    return getattr(leaf, "dtype", None) == jax.dtypes.float0


def _refuse_unlike(gradient: Any, params: Any, shape_of: ShapeOf) -> None:
    """Compares paths, not structures: parameters may be in boxes."""
    keyed = {
        path_of(keys): leaf
        for keys, leaf in jax.tree_util.tree_leaves_with_path(gradient)
    }
    for path, leaf in keyed.items():
        if not _is_absent(leaf) and not _is_floating(leaf):
            raise TypeError(
                f"Leaf {_short(path)} has a gradient of dtype {jnp.result_type(leaf)}. "
                "Only floating numbers are trained: leave the leaf out of the "
                "parameters, or take gradients with allow_int=True, which gives it a "
                "float0 that is ignored."
            )
    if params is None:
        return
    others = {
        path_of(keys): leaf
        for keys, leaf in jax.tree_util.tree_leaves_with_path(params)
    }
    for ours, theirs, what, where in (
        (others, keyed, "parameters", "gradient"),
        (keyed, others, "gradient", "parameters"),
    ):
        missing = [path for path in ours if path not in theirs]
        if missing:
            raise ValueError(
                f"The {what} and the {where} are not one tree: leaf "
                f"{_short(missing[0])} (and {len(missing) - 1} more) is in the {what} "
                f"but not in the {where}. Take the gradient with respect to the very "
                "tree that update is given."
            )
    for path, leaf in keyed.items():
        shape, expected = jnp.shape(leaf), shape_of(path, others[path])
        if shape != expected:
            raise ValueError(
                f"Leaf {_short(path)} has shape {expected}, but its gradient has shape "
                f"{shape}. Nothing is broadcast: give update the gradient of these "
                "parameters."
            )
        if not _is_floating(others[path]) and not _is_absent(leaf):
            raise TypeError(
                f"Leaf {_short(path)} is of dtype {jnp.result_type(others[path])} and "
                "cannot be trained, but has a gradient. Leave the leaf out of the "
                "parameters, or take gradients with allow_int=True."
            )


def _refuse_new_shapes(old: Any, new: Any, what: str) -> None:
    """Refuses an array that a step has broadcast to another shape."""
    if [*map(np.shape, jax.tree.leaves(old))] == [*map(np.shape, jax.tree.leaves(new))]:
        return
    before, after = _shapes(old), _shapes(new)
    for path in before.keys() & after.keys():
        if before[path] != after[path]:
            raise ValueError(
                f"At {_short(path)} the {what} has shape {before[path]}, which the "
                f"step would broadcast to {after[path]}. Gradient, parameters and "
                "state must be of one model: make the state with init and these "
                "parameters."
            )


def _with_zeros(new: Any, gradient: Any, params: Any) -> Any:
    """The updates, and zeros for the leaves that were left out."""
    if not any(map(_is_absent, jax.tree.leaves(gradient))):
        return new
    params = gradient if params is None else params

    def fill(old, param, update):
        if not _is_absent(old):
            return update
        addable = not jnp.issubdtype(param.dtype, jax.dtypes.extended)
        return jnp.zeros_like(param) if addable and param is not old else old

    return jax.tree.map(fill, gradient, params, new)
