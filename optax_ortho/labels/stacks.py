"""Stacked layers: which axes of a leaf were added to those its layer made."""

import dataclasses
import itertools
from collections.abc import Sequence

from optax_ortho.matrices import MatrixAxes


def added_axes(shape: Sequence[int], declared: Sequence[int]) -> list[tuple[int, ...]]:
    """Every set of axes whose removal leaves the declared shape.

    Examples:
      >>> added_axes((3, 6, 8), (6, 8)), added_axes((6, 6, 8), (6, 8))
      ([(0,)], [(0,), (1,)])
      >>> added_axes((6, 8), (6, 9))
      []
    """
    axes = range(len(shape))
    return [
        added
        for added in itertools.combinations(axes, max(len(shape) - len(declared), 0))
        if [shape[axis] for axis in axes if axis not in added] == list(declared)
    ]


def lift(axes: MatrixAxes, added: Sequence[int]) -> MatrixAxes:
    """The axes of a layer's parameter, counted in the stacked leaf.

    Examples:
      >>> lift(MatrixAxes((0,), (1,)), added=(1,))
      MatrixAxes(fan_in=(0,), fan_out=(2,), split=None)
    """
    kept = [
        axis
        for axis in range(len(added) + 1 + max(axes.fan_in + axes.fan_out))
        if axis not in added
    ]
    split = axes.split
    if split is not None:
        split = dataclasses.replace(split, axis=kept[split.axis])
    fan_in, fan_out = (
        tuple(kept[axis] for axis in group) for group in (axes.fan_in, axes.fan_out)
    )
    return MatrixAxes(fan_in, fan_out, split)
