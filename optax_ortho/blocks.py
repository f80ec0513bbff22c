"""Reductions over the matrices of a leaf, in the leaf's own shape and sharding.

A norm or a mean needs no whole matrix on one device, so it is a reduction over axes of
the leaf, and nothing is folded, gathered or resharded. `layouts` are for functions that
do need a whole matrix.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from optax_ortho.matrices import AxesOf, MatrixAxes, axes_at, cut, path_of
from optax_ortho.states import blocks_of, state_of, state_structure


def map_blocks(f: Callable, axes: AxesOf, state: Any, *operands: Any) -> Any:
    """Applies a function with state to every leaf, or to every block of a fused leaf.

    Args:
      f: takes the resolved axes, the block's factor (see `Split`), the block of each
        operand and the block's state; returns ``(result, new state)``.
      axes: the `MatrixAxes` of a leaf, from its path and the leaf.
      state: a tree as `init_blocks` makes it; None for a function without state.
      *operands: trees of one structure and of the same shapes.

    Returns:
      A tree like the operands, and the new state.

    Raises:
      ValueError: axes that do not fit a leaf, naming its path.

    Examples:
      >>> def halve(axes, factor, x, state):
      ...     return factor * x / 2, state
      >>> from optax_ortho.matrices import last_two
      >>> halved, _ = map_blocks(halve, last_two, None, {"kernel": jnp.ones((1, 2))})
      >>> print(halved["kernel"])
      [[0.5 0.5]]
    """
    keyed, treedef = jax.tree_util.tree_flatten_with_path(operands[0])
    others = [treedef.flatten_up_to(operand) for operand in operands[1:]]
    axes_of = [axes_at(axes, path_of(keys), leaf) for keys, leaf in keyed]
    structure, states = None, [None] * len(keyed)
    if state is not None:
        structure = state_structure(operands[0], [a.split is not None for a in axes_of])
        states = structure.flatten_up_to(state)
    results, new_states = [], []
    leaves = [leaf for _, leaf in keyed]
    for leaf_axes, old, *arrays in zip(axes_of, states, leaves, *others, strict=True):
        split = leaf_axes.split
        blocks = [cut(x, leaf_axes) for x in arrays]
        olds = [None] * len(blocks[0]) if state is None else blocks_of(old)
        pairs = [
            f(leaf_axes, *task)
            for task in zip(_scales(leaf_axes), *blocks, olds, strict=True)
        ]
        ys = [y for y, _ in pairs]
        results.append(jnp.concatenate(ys, split.axis) if split else ys[0])
        new_states.append(state_of([new for _, new in pairs], split is not None))
    new_state = None if structure is None else structure.unflatten(new_states)
    return treedef.unflatten(results), new_state


def init_blocks(f: Callable[[MatrixAxes, Any], Any], axes: AxesOf, tree: Any) -> Any:
    """The state of every leaf, for `map_blocks`; a `FusedState` for a fused leaf.

    Args:
      f: takes the resolved axes and a block of zeros, and returns its state.
      axes: the `MatrixAxes` of a leaf, from its path and the leaf.
      tree: the parameters.

    Examples:
      >>> from optax_ortho.matrices import last_two
      >>> init_blocks(lambda axes, x: rms(x, axes.fan_in), last_two, jnp.ones((2, 3)))
      Array([[0., 0., 0.]], dtype=float32)
    """
    keyed, _ = jax.tree_util.tree_flatten_with_path(tree)
    states, fused = [], []
    for keys, leaf in keyed:
        leaf_axes = axes_at(axes, path_of(keys), leaf)
        blocks = [f(leaf_axes, x) for x in cut(jnp.zeros_like(leaf), leaf_axes)]
        fused.append(leaf_axes.split is not None)
        states.append(state_of(blocks, fused[-1]))
    return state_structure(tree, fused).unflatten(states)


def rms(x: jax.Array, over: Sequence[int]) -> jax.Array:
    """The root mean square over some axes, in float32 or better.

    Squares are taken of entries over the largest of them, so that none overflows or
    vanishes.

    Args:
      x: an array.
      over: the axes; they stay, with length 1.

    Examples:
      >>> print(rms(jnp.array([3e30, 4e30], jnp.bfloat16), (0,)).dtype)
      float32
    """
    x, largest, squares = _squares(x, over)
    mean = squares / max(length(x.shape, over), 1)
    # A bound and not a choice: one kernel less, and the derivative at zero is finite.
    return largest * jnp.sqrt(jnp.maximum(mean, jnp.finfo(x.dtype).tiny))


def normalize(
    x: jax.Array, over: Sequence[int], eps: Any = 0.0, rms: Any = None
) -> jax.Array:
    """An array over its norm along some axes; zero stays zero.

    Args:
      x: an array.
      over: the axes of one norm.
      eps: added to the norm, in the units of `x`.
      rms: root mean square of the result (for `eps` of zero); None is a norm of 1.

    Returns:
      An array of the same shape and dtype.

    Examples:
      >>> print(normalize(jnp.array([3e30, 4e30]), (0,)))
      [0.6 0.8]
    """
    dtype = x.dtype
    x, largest, squares = _squares(x, over)
    # The largest entry has a square of 1, so a sum below 1 is a sum of zeros.
    root = jnp.sqrt(jnp.maximum(squares, 1))
    inverse = 1 / (root + jnp.asarray(eps, root.dtype) / largest)
    gain = 1.0 if rms is None else rms * math.sqrt(length(x.shape, over))
    # By the root twice, because the inverse itself may underflow; and XLA would keep an
    # array of a product that both the sum above and the result need.
    half = jax.lax.rsqrt(largest)
    y = x * half * (half * inverse) * jnp.asarray(gain, root.dtype)
    return y.astype(dtype)


def _squares(
    x: jax.Array, over: Sequence[int]
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """An array in float32 or better, its largest magnitude, and its sum of squares.

    Squares are of entries over the largest magnitude, which is at least the smallest
    normal number.
    """
    x = x.astype(jnp.promote_types(x.dtype, jnp.float32))
    over = tuple(over)
    largest = jnp.max(jnp.abs(x), over, keepdims=True, initial=0)
    largest = jnp.maximum(largest, jnp.finfo(x.dtype).tiny)
    unit = x / largest
    square = jnp.real(unit * unit.conj()) if jnp.iscomplexobj(x) else unit * unit
    return x, largest, jnp.sum(square, over, keepdims=True)


def quotient(x: jax.Array, y: jax.Array) -> jax.Array:
    """Divides x by y, and gives zero where y is zero.

    Examples:
      >>> print(quotient(jnp.array([1.0, 0.0]), jnp.array([2.0, 0.0])))
      [0.5 0. ]
    """
    positive = y > 0
    return jnp.where(positive, x / jnp.where(positive, y, 1), 0)


def length(shape: Sequence[int], axes: Sequence[int]) -> int:
    """The number of entries of an array along some axes.

    Examples:
      >>> length((2, 3, 4), (0, 2))
      8
    """
    return math.prod(shape[axis] for axis in axes)


def _scales(axes: MatrixAxes) -> Sequence[float]:
    if axes.split is None:
        return (1.0,)
    return axes.split.scales or (1.0,) * len(axes.split.sizes)
