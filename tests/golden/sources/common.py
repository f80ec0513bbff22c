"""Axes, labels, and a call that ignores no argument, shared by all sources.

PyTorch stores weights as (out, in) and Flax as (in, out). `flax_order` is the one place
that says where an axis goes; the axes of a source are written as PyTorch counts them.
"""

import inspect
from collections.abc import Callable, Mapping
from typing import Any

import optax

import optax_ortho
from optax_ortho.momentum import ema, nesterov
from optax_ortho.trust_region import (
    ShapeFactor,
)

Axes = Callable[[int], optax_ortho.MatrixAxes]
"""The matrix axes of a Flax leaf with that many axes."""


class Unsupported(Exception):
    """Why a case cannot be replayed."""


def flax_order(ndim: int) -> tuple[int, ...]:
    """PyTorch's axes in the order in which Flax stores them.

    (out, in) becomes (in, out), also under batch axes in a 3-D leaf, and the kernel of
    a convolution, (out, in, *window), becomes (*window, in, out).
    """
    if ndim < 4:
        return (*range(ndim - 2), *reversed(range(max(0, ndim - 2), ndim)))
    return (*range(2, ndim), 1, 0)


def as_flax(ndim: int, fan_out: Any, fan_in: Any) -> optax_ortho.MatrixAxes:
    """PyTorch's axes as axes of the Flax leaf."""
    order = flax_order(ndim)
    return optax_ortho.MatrixAxes(
        fan_in=tuple(map(order.index, fan_in)), fan_out=tuple(map(order.index, fan_out))
    )


def last_two(ndim: int) -> optax_ortho.MatrixAxes:
    """PyTorch's batched matrices, (..., out, in)."""
    return as_flax(ndim, fan_out=[ndim - 2], fan_in=[ndim - 1])


def flattened(ndim: int) -> optax_ortho.MatrixAxes:
    """PyTorch's ``view(out, -1)``."""
    return as_flax(ndim, fan_out=[0], fan_in=range(1, ndim))


def matrices(axes: Axes, vectors: Any = True) -> Callable[[str, Any], Any]:
    """Labels: leaves of two axes and more are matrices.

    Args:
      axes: of the matrices.
      vectors: the hyperparameters of the other leaves' optimizer, None if there are
        none recorded.
    """

    def label(path, leaf):
        if leaf.ndim >= 2:
            return axes(leaf.ndim)
        if vectors is None:
            raise Unsupported(f"no hyperparameters for the 1-D parameter {path!r}")
        return "vector"

    return label


def call(function: Callable, *args: Any, **hyper: Any) -> Any:
    """Calls a function that has to know every hyperparameter."""
    known = inspect.signature(function).parameters
    if unknown := sorted(hyper.keys() - known.keys()):
        raise Unsupported(f"optax_ortho has no counterpart of {', '.join(unknown)}")
    return function(*args, **hyper)


def averaged(beta: float, look_ahead: bool) -> optax.GradientTransformation:
    """The momentum of sources that average gradients."""
    return nesterov(beta) if look_ahead else ema(beta)


def chosen(name: str, value: Any, choices: Mapping[Any, ShapeFactor]) -> ShapeFactor:
    """The shape factor that a source calls by some name."""
    if value not in choices:
        raise Unsupported(f"optax_ortho has no counterpart of {name}={value!r}")
    return choices[value]
